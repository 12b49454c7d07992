"""A browser without pictures: cookies per host, redirects by hand, WebSockets."""

import http.client
import http.cookiejar
import io
import json
import urllib.request
from urllib.parse import urljoin, urlsplit

from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.websocket import websocket_connect


class Client(SimpleAsyncHTTPClient):
    """Every name ends at this computer."""

    def initialize(self, **kwargs):
        super().initialize(max_clients=100, **kwargs)
        self.resolver = _Here(self.resolver)
        self.tcp_client.resolver = self.resolver


class _Here:
    def __init__(self, real):
        self._real = real

    def resolve(self, host, port, family=0):
        return self._real.resolve("127.0.0.1" if host.endswith("localhost") else host, port, family)

    def close(self):
        self._real.close()


class Browser:
    def __init__(self, portal_user="", portal=""):
        self.jar = http.cookiejar.CookieJar()
        self.client = Client(force_instance=True)
        if portal_user:
            self._keep(portal + "/", [("Set-Cookie", f"dspool={portal_user}; Path=/")])

    async def fetch(self, url, method="GET", body=None, follow=True, headers=None, streaming=None):
        """Returns the last answer, with .url; redirects are followed as a browser does."""
        for _ in range(20):
            all_headers = {"Sec-Fetch-Mode": "navigate", **(headers or {})}
            if cookies := self.cookies(url):
                all_headers["Cookie"] = cookies
            # Where TLS ends is a door's business: what is behind one is told by a header.
            if urlsplit(url).scheme == "https":
                all_headers["X-Forwarded-Proto"] = "https"
            request = HTTPRequest(
                url.replace("https:", "http:", 1),
                method=method,
                body=body,
                headers=all_headers,
                follow_redirects=False,
                request_timeout=90,
                allow_nonstandard_methods=True,
                streaming_callback=streaming,
            )
            answer = await self.client.fetch(request, raise_error=False)
            self._keep(url, answer.headers.get_all())
            answer.url = url
            if not follow or answer.code not in (301, 302, 303, 307, 308):
                return answer
            url = urljoin(url, answer.headers["Location"])
            if answer.code in (302, 303):
                method, body = "GET", None
        raise AssertionError(f"redirects without end, last to {url}")

    async def api(self, url, method="GET", body=None, page=None):
        """What a page's script asks of its own server: with the XSRF token of its cookie."""
        xsrf = next((c.value for c in self._cookies(page or url) if c.name == "_xsrf"), "")
        headers = {"Sec-Fetch-Mode": "cors", "Accept": "application/json", "X-XSRFToken": xsrf}
        text = json.dumps(body) if body is not None else ("" if method in ("POST", "PUT") else None)
        return await self.fetch(url, method, text, follow=False, headers=headers)

    async def events(self, url):
        """Reads Server-Sent Events to their end."""
        text = bytearray()
        answer = await self.fetch(url, streaming=text.extend, headers={"Sec-Fetch-Mode": "cors"}, follow=False)
        assert answer.code == 200, (answer.code, text)
        return [json.loads(line[5:]) for line in text.decode().split("\n") if line.startswith("data:")]

    async def websocket(self, url):
        parts = urlsplit(url)
        origin = f"http://{parts.netloc}"
        headers = {"Cookie": self.cookies(url), "Origin": origin}
        request = HTTPRequest(url.replace(f"//{parts.hostname}", "//127.0.0.1").replace("http:", "ws:"), headers={**headers, "Host": parts.netloc})
        return await websocket_connect(request)

    def cookies(self, url):
        return "; ".join(f"{c.name}={c.value}" for c in self._cookies(url))

    def _cookies(self, url):
        request = urllib.request.Request(url)
        self.jar.add_cookie_header(request)
        sent = {pair.partition("=")[0] for pair in (request.get_header("Cookie") or "").split("; ")}
        path, host = urlsplit(url).path, urlsplit(url).hostname
        found = [c for c in self.jar if c.name in sent and path.startswith(c.path) and ("." + host).endswith("." + c.domain.lstrip("."))]
        return sorted(found, key=lambda c: -len(c.path))

    def _keep(self, url, headers):
        text = "".join(f"{k}: {v}\r\n" for k, v in headers) + "\r\n"
        message = http.client.parse_headers(io.BytesIO(text.encode()))
        self.jar.extract_cookies(type("Answer", (), {"info": lambda self: message})(), urllib.request.Request(url))

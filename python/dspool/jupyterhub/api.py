"""The part of dspool's REST API that a spawner needs."""

import asyncio
import json
import re
from urllib.parse import quote

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

CONNECT_TIMEOUT = 10
CALL_TIMEOUT = 30
# A stream of steps is asked for anew after this, so that one whose other end vanished without a word
# holds nobody for longer.
STREAM_TIMEOUT = 60
MOST_LINE = 1 << 20


class Refused(Exception):
    """The API has said no; asking again is pointless. The text is for people."""

    def __init__(self, status, code, message, hint=""):
        super().__init__(f"{message} ({hint})" if hint else message)
        self.status, self.code = status, code

    @property
    def gone(self):
        """Whether the API itself says that there is no such thing; a door's 404 is not its word."""
        return self.status == 404 and self.code == "not_found"


class Away(Exception):
    """The API did not answer, or asks to come back later."""

    def __init__(self, message, status=0):
        super().__init__(message)
        self.status = status


class _Client(SimpleAsyncHTTPClient):
    """One client for an event loop. Its own class, because a class shares its limits with everybody who
    uses it, and everybody who waits for a machine holds a stream open here."""


class PoolAPI:
    """A caller with a token."""

    def __init__(self, url, token, ca=""):
        self.base = url.rstrip("/") + "/api/v1"
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._ca = ca or None
        self._client = _Client(max_clients=10_000)

    async def call(self, method, path, body=None):
        """Returns the answer's JSON, or None. Raises Refused or Away."""
        headers, text = dict(self._headers), None
        if body is not None:
            headers["Content-Type"], text = "application/json", json.dumps(body)
        elif method == "POST":
            text = ""
        request = self._request(path, method=method, body=text, headers=headers, request_timeout=CALL_TIMEOUT)
        try:
            answer = await self._client.fetch(request, raise_error=False)
        except (HTTPClientError, OSError) as e:
            raise Away(_away(e)) from e
        if answer.code == 599:
            raise Away(_away(answer.error))
        if answer.code >= 300:
            raise _problem(answer.code, answer.body)
        if not answer.body:
            return None
        try:
            return json.loads(answer.body)
        except ValueError as e:
            raise Away(f"its answer to {method} {path} is not JSON") from e

    async def steps(self, app):
        """Yields the steps of an app as they happen, until the stream ends for whatever reason."""
        queue, status, rest = asyncio.Queue(), 0, b""

        def header(line):
            nonlocal status
            if line.startswith("HTTP/"):
                status = int(line.split()[1])

        request = self._request(
            f"/apps/{int(app)}/steps",
            headers={**self._headers, "Accept": "application/x-ndjson"},
            header_callback=header,
            streaming_callback=queue.put_nowait,
            request_timeout=STREAM_TIMEOUT,
        )
        fetch = asyncio.ensure_future(self._client.fetch(request, raise_error=False))
        fetch.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (chunk := await queue.get()) is not None:
                rest += chunk
                if status != 200:
                    continue
                *lines, rest = rest.split(b"\n")
                if len(rest) > MOST_LINE:
                    return
                for line in lines:
                    step = _step(line)
                    if step:
                        yield step
            if status == 200:
                step = _step(rest)
                if step:
                    yield step
            elif status:
                raise _problem(status, rest)
            else:
                raise Away(_away(fetch.exception() or fetch.result().error))
        finally:
            if fetch.done():
                if not fetch.cancelled():
                    fetch.exception()
            else:
                fetch.cancel()

    async def answers(self, url):
        """Whether an HTTP server answers at url, with anything that is no fault of a server or a door."""
        request = HTTPRequest(url, follow_redirects=False, connect_timeout=CONNECT_TIMEOUT, request_timeout=CALL_TIMEOUT)
        try:
            answer = await self._client.fetch(request, raise_error=False)
        except (HTTPClientError, OSError):
            return False
        return answer.code < 500

    async def app(self, app):
        return await self.call("GET", f"/apps/{int(app)}")

    async def apps(self, user):
        answer = await self.call("GET", f"/apps?user={quote(user, safe='')}")
        return (answer or {}).get("items") or []

    def _request(self, path, **kwargs):
        return HTTPRequest(
            self.base + path,
            ca_certs=self._ca,
            connect_timeout=CONNECT_TIMEOUT,
            follow_redirects=False,  # the token goes nowhere else
            **kwargs,
        )


def _step(line):
    try:
        step = json.loads(line)
    except ValueError:
        return None
    return step if isinstance(step, dict) else None


def _problem(status, body):
    """The error for an answer that is none: application/problem+json, or what a door says."""
    try:
        problem = json.loads(body)
        if not isinstance(problem, dict):
            raise ValueError
    except ValueError:
        problem = {}
    message = problem.get("detail") or problem.get("title") or f"the answer is HTTP {status}"
    for one in problem.get("errors") or []:
        if isinstance(one, dict) and one.get("message"):
            message = f"{message}: {one['message']}"
            break
    if status in (408, 425, 429) or status >= 500:
        return Away(message, status)
    return Refused(status, problem.get("code", ""), message, problem.get("hint", ""))


def _away(e):
    reason = str(e).removeprefix("HTTP 599: ")
    return reason or type(e).__name__


_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")


def seconds(duration):
    """Seconds of a duration as the API writes it, such as "1m30s"; 0 for anything else."""
    return sum(float(n) * _UNITS[unit] for n, unit in _DURATION.findall(duration)) if isinstance(duration, str) else 0

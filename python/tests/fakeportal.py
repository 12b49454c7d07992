"""A stand-in for the pool's portal: OAuth2 code flow with PKCE, and nothing else. Who is logged in there is a test's
doing. Its pages and what machines ask are on one port here."""

import base64
import hashlib
import secrets
from urllib.parse import urlencode

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

CLIENT, SECRET = "jupyterhub", "the-client-secret"


class FakePortal:
    def __init__(self):
        self.callback = ""  # the one redirect URI
        self.broken = 0  # a state with which userinfo is answered
        self.codes, self.tokens, self.admins = {}, {}, set()
        self.uids = {}  # of those whose account is not the first of its name
        self.handlers = [
            (r"/oauth/authorize", _Authorize, {"portal": self}),
            (r"/oauth/token", _Token, {"portal": self}),
            (r"/oauth/userinfo", _UserInfo, {"portal": self}),
        ]

    async def listen(self):
        [sock] = bind_sockets(0, "127.0.0.1")
        self.port = sock.getsockname()[1]
        self.server = HTTPServer(Application(self.handlers, log_function=lambda h: None))
        self.server.add_socket(sock)
        return self

    async def close(self):
        self.server.stop()
        await self.server.close_all_connections()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def log_out_everywhere(self, name):
        self.tokens = {t: n for t, n in self.tokens.items() if n != name}

    def log_out_first(self, name):
        """Ends the oldest login of somebody."""
        del self.tokens[next(t for t, n in self.tokens.items() if n == name)]


class _Base(RequestHandler):
    def initialize(self, portal):
        self.portal = portal


class _Authorize(_Base):
    def get(self):
        ask = self.get_query_argument
        name = self.get_cookie("dspool", "")
        if ask("client_id") != CLIENT or ask("redirect_uri") != self.portal.callback:
            self.set_status(400)
            self.finish("not this client's address")
        elif not name:
            self.finish("log in here")
        else:
            assert ask("code_challenge_method") == "S256" and ask("response_type") == "code"
            code = secrets.token_urlsafe()
            self.portal.codes[code] = (name, ask("code_challenge"))
            self.redirect(f"{self.portal.callback}?{urlencode({'code': code, 'state': ask('state')})}")


class _Token(_Base):
    def post(self):
        ask = self.get_body_argument
        name, challenge = self.portal.codes.pop(ask("code"), ("", ""))
        proof = base64.urlsafe_b64encode(hashlib.sha256(ask("code_verifier", "").encode()).digest()).decode().rstrip("=")
        if not name or proof != challenge or ask("client_id") != CLIENT or ask("client_secret") != SECRET:
            self.set_status(400)
            self.finish({"error": "invalid_grant"})
            return
        token = secrets.token_urlsafe()
        self.portal.tokens[token] = name
        self.finish({"access_token": token, "token_type": "Bearer"})


class _UserInfo(_Base):
    def get(self):
        name = self.portal.tokens.get(self.request.headers.get("Authorization", "").removeprefix("Bearer "))
        if self.portal.broken:
            self.set_status(self.portal.broken)
            self.finish("no such page")
            return
        if not name:
            self.set_status(401)
            self.finish({"error": "invalid_token"})
            return
        self.finish({"sub": name, "name": name, "uid": self.portal.uids.get(name, 20000), "admin": name in self.portal.admins})

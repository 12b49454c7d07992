"""A stand-in for a pool's API, after the contract in api/rest.go. An app really runs when the pool is told how."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import time

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

TOKEN = "the-spawner-token"
LIVE = ("waiting", "starting", "running", "stopping")


class FakePool:
    """Holds apps and their steps. What happens to an app is a test's doing, or, with homes, a real process's."""

    def __init__(self, homes=None, path=""):
        self.homes, self.path = homes, path
        self.apps, self.requests, self.posts = {}, [], []
        self.fail = []  # answers given before any other: (status, problem)
        self.pools = [pool("lab", price_size="small")]
        self.sizes = [{"name": "small", "cpus": 2, "memory": 4 << 30, "disk": 0, "price": 0.4}]
        self.refuse_post = None
        self.steps = {}  # app → list of steps
        self.cut_streams = 0  # how many streams end after their first step
        self.on_post = None
        self.processes = {}
        self._changed = asyncio.Event()
        self.next = 100
        self.server = None

    # --- the server

    async def listen(self, port=0):
        sockets = bind_sockets(port, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        handlers = [
            (r"/api/v1/apps", _Apps, {"pool": self}),
            (r"/api/v1/apps/(\d+)", _App, {"pool": self}),
            (r"/api/v1/apps/(\d+)/steps", _Steps, {"pool": self}),
            (r"/api/v1/(pools|sizes)", _Lists, {"pool": self}),
            (r"/api/v1/machines/(.*)", _Machine, {"pool": self}),
        ]
        self.server = HTTPServer(Application(handlers, log_function=lambda h: None))
        self.server.add_sockets(sockets)
        return self

    async def away(self):
        """Stops listening and cuts every connection, as a server that restarts does."""
        self.server.stop()
        await self.server.close_all_connections()

    async def back(self):
        await self.listen(self.port)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def close(self):
        for p in self.processes.values():
            p.terminate()
        for p in self.processes.values():
            p.wait(20)
        await self.away()

    # --- what happens

    def post(self, body):
        for app in self.apps.values():
            if (app["user"], app["name"]) == (body["user"], body["name"]) and app["state"] in LIVE:
                self.end(app["id"], "another has taken its place")
        self.next += 1
        self.posts.append(body)
        app = {
            "id": self.next,
            "name": body["name"],
            "user": body["user"],
            "pool": body.get("pool", "lab"),
            "session": 7,
            "state": "waiting",
            "created": "2026-01-01T00:00:00Z",
        }
        self.apps[app["id"]], self.steps[app["id"]] = app, []
        if self.on_post:
            self.on_post(app)
        if self.homes:
            self._run(app, body)
        return app

    def say(self, app, text, code="stated", **more):
        self.steps[app].append({"session": 7, "reason": {"code": code, "text": text}, **more})
        self._wake()

    def become(self, app, state, **more):
        self.apps[app].update(state=state, **more)
        self._wake()

    def run(self, app, url="http://127.0.0.1:9"):
        self.become(app, "running", port=9, url=url)

    def end(self, app, reason, code=None):
        process = self.processes.pop(app, None)
        if process:
            process.terminate()
            process.wait(20)
        self.become(app, "ended", reason={"code": "stated", "text": reason}, **({} if code is None else {"exit_code": code}))

    def _run(self, app, body):
        """Starts the program with a port of this computer's, where a machine's agent would."""
        with contextlib.closing(socket.socket()) as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        home = os.path.join(self.homes, body["user"])
        os.makedirs(home, exist_ok=True)
        fill = lambda s: s.replace("{port}", str(port))  # noqa: E731
        env = {k: fill(v) for k, v in body["env"].items()}
        env = {"HOME": home, "PATH": self.path, "LANG": "C.UTF-8", "SHELL": "/bin/bash", **env}
        log = open(os.path.join(home, "server.log"), "wb")
        root = ["--allow-root"] if os.getuid() == 0 else []
        with log:
            self.processes[app["id"]] = subprocess.Popen(
                [*(fill(a) for a in body["command"]), *root], cwd=home, env=env, stdout=log, stderr=log, start_new_session=True
            )
        self.say(app["id"], "starting lab-1", "app_starting", estimate="4s")
        self.become(app["id"], "starting")
        asyncio.ensure_future(self._watch(app["id"], port))

    async def _watch(self, app, port):
        until = time.monotonic() + 60
        while time.monotonic() < until and app in self.processes:
            if (code := self.processes[app].poll()) is not None:
                self.end(app, "it ended", code)
                return
            with contextlib.suppress(OSError):
                _, w = await asyncio.open_connection("127.0.0.1", port)
                w.close()
                self.become(app, "running", port=port, url=f"http://127.0.0.1:{port}")
                return
            await asyncio.sleep(0.1)

    def _wake(self):
        self._changed.set()
        self._changed = asyncio.Event()


def pool(name, kind="interactive", people=4, price_size="small", **more):
    policy = {"sessions_per_machine": people}
    return {"name": name, "kind": kind, "sizes": [price_size], "policy": policy, "max": 4, **more}


BIG = {"name": "big", "cpus": 16, "memory": 64 << 30, "gpus": 1, "price": 3}


class _Base(RequestHandler):
    def initialize(self, pool):
        self.pool = pool

    def prepare(self):
        self.pool.requests.append(f"{self.request.method} {self.request.uri.removeprefix('/api/v1')}")
        if self.pool.fail:
            self.problem(*self.pool.fail.pop(0))
        elif self.request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.problem(401, {"detail": "the token is not valid", "code": "unauthenticated"})

    def problem(self, status, problem):
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        self.finish(json.dumps({"title": "no", "status": status, **problem}) if problem is not None else "<html>")

    def app_or_404(self, app):
        found = self.pool.apps.get(int(app))
        if found is None:
            self.problem(404, {"detail": f"there is no app {app}", "code": "not_found"})
        return found


class _Apps(_Base):
    def get(self):
        user = self.get_query_argument("user", "")
        self.finish({"items": [a for a in self.pool.apps.values() if user in ("", a["user"])]})

    def post(self):
        if self.pool.refuse_post:
            self.problem(*self.pool.refuse_post)
            return
        self.set_status(201)
        self.finish(self.pool.post(json.loads(self.request.body)))


class _App(_Base):
    def get(self, app):
        if found := self.app_or_404(app):
            self.finish(found)

    def delete(self, app):
        if found := self.app_or_404(app):
            if found["state"] != "ended":
                self.pool.become(found["id"], "stopping")
                asyncio.get_running_loop().call_later(0.05, self.pool.end, found["id"], "stopped by jupyterhub")
            self.finish(found)


class _Steps(_Base):
    async def get(self, app):
        found = self.app_or_404(app)
        if not found:
            return
        self.set_header("Content-Type", "application/x-ndjson")
        gone = self.request.connection.stream
        sent = 0
        while not gone.closed():
            steps = self.pool.steps[found["id"]]
            while sent < len(steps):
                self.write(json.dumps(steps[sent]) + "\n")
                await self.flush()
                sent += 1
                if self.pool.cut_streams:
                    self.pool.cut_streams -= 1
                    return
            if found["state"] in ("running", "ended"):
                return
            waiter = asyncio.ensure_future(self.pool._changed.wait())
            await asyncio.wait([waiter], timeout=0.5)
            waiter.cancel()


class _Lists(_Base):
    def get(self, what):
        self.finish({"items": getattr(self.pool, what)})


class _Machine(_Base):
    def get(self, name):
        self.finish({"name": name, "address": "10.80.0.7"})

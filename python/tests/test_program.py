"""The program that a pool runs as its hub, and its patience with the door."""

import asyncio
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import aiohttp
import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from dspool.jupyterhub.__main__ import NEEDED
from dspool.jupyterhub.proxy import WebDoor


def run(*args, **env):
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent.parent), **env}
    return subprocess.run([sys.executable, "-m", "dspool.jupyterhub", *args], env=env, capture_output=True, text=True, timeout=60)


def test_without_its_environment_it_says_what_is_missing_and_who_sets_it():
    some = {name: "x" for name in NEEDED if name not in ("DSPOOL_TOKEN", "DSPOOL_HUB_URL")}
    ended = run("--port", "8081", **some)
    assert ended.returncode == 2
    assert "DSPOOL_TOKEN, DSPOOL_HUB_URL are not set: the pool's server sets them" in ended.stderr


@pytest.mark.parametrize("port", ["0", "65536", "x", "{port}"])
def test_a_port_that_is_none_is_refused(port):
    ended = run("--port", port, **{name: "x" for name in NEEDED})
    assert ended.returncode == 2 and "port" in ended.stderr


def door(answers):
    """A proxy API that gives these answers in turn; returns a coroutine that asks it for a route."""

    class Routes(RequestHandler):
        def post(self, path):
            self.set_status(answers.pop(0))

        delete = post

    async def ask(method, **kwargs):
        [sock] = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(Application([(r"/api/routes(.*)", Routes)], log_function=lambda h: None))
        server.add_socket(sock)
        proxy = WebDoor(
            api_url=f"http://127.0.0.1:{sock.getsockname()[1]}", auth_token="t", should_start=False, app=types.SimpleNamespace(), **kwargs
        )
        try:
            async with asyncio.timeout(60):
                return await proxy.api_request("/ada.hub.localhost/user/ada", method, json.dumps({}) if method == "POST" else None)
        finally:
            server.stop()

    return ask


def test_a_door_that_does_not_know_the_hub_yet_is_asked_again():
    answers = [403, 503, 403, 201]
    asyncio.run(door(answers)("POST"))
    assert not answers


def test_patience_ends():
    with pytest.raises(aiohttp.ClientResponseError):
        asyncio.run(door([403] * 9)("POST", patience=0))


def test_a_route_that_is_not_there_is_no_reason_to_wait():
    answers = [404, 204]
    with pytest.raises(aiohttp.ClientResponseError):
        asyncio.run(door(answers)("DELETE"))
    assert answers == [204]

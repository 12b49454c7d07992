import asyncio
import types

import pytest
from fakepool import TOKEN, FakePool
from jupyterhub.objects import Hub, Server

from dspool.jupyterhub import PoolSpawner, errors
from dspool.jupyterhub import progress as progress_module


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses of seconds are for people and servers; a test has neither."""
    monkeypatch.setattr(errors.Backoff, "__init__", _short)
    monkeypatch.setattr(progress_module, "TICK", 0.05)


def _short(self, first=0.01, most=0.05):
    self._first, self._most = 0.01, 0.05
    self.reset()


def make_spawner(fake, name="ada", **kwargs):
    """A spawner as JupyterHub makes one, for a user who exists only here."""
    hub = Hub(bind_url="http://127.0.0.1:8081", base_url="/hub/", public_host="http://hub.localhost:8000")
    server = Server(base_url=f"/user/{name}/")
    user = types.SimpleNamespace(name=name, escaped_name=name, url=f"http://{name}.hub.localhost:8000/user/{name}/", settings={})
    options = {"api_url": fake.url, "token": TOKEN, "api_token": "server-token", "start_timeout": 20, "stop_timeout": 20}
    spawner = PoolSpawner(user=user, hub=hub, **{**options, **kwargs})
    spawner.server = server
    return spawner


def play(story, **kwargs):
    """Runs an async test with a fake pool."""

    async def run():
        pool = await FakePool(**kwargs).listen()
        try:
            async with asyncio.timeout(60):
                await story(pool)
        finally:
            await pool.close()

    asyncio.run(run())


async def until(condition, what="it", timeout=20):
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)

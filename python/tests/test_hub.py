"""The hub of a pool as it runs: the real JupyterHub with the packaged configuration, real notebook servers as local
processes, configurable-http-proxy as the door. Only the pool's API and portal are stand-ins."""

import asyncio
import contextlib
import html
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from urllib.parse import urljoin

import pytest
from browser import Browser
from conftest import until
from fakepool import BIG, TOKEN, FakePool, pool
from fakeportal import CLIENT, SECRET, FakePortal

PROXY = os.environ.get("DSPOOL_TEST_CHP") or shutil.which("configurable-http-proxy")
pytestmark = [
    pytest.mark.skipif(not PROXY, reason="no configurable-http-proxy: name it in DSPOOL_TEST_CHP"),
    pytest.mark.skipif(not shutil.which("jupyterhub-singleuser"), reason="no jupyterhub-singleuser in PATH"),
]


def free_ports(n):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


class World:
    """A pool with its hub and door. Everything asynchronous runs in a loop of its own thread."""

    def __init__(self, tmp, scheme="http"):
        self.tmp, self.scheme = tmp, scheme
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.hub = self.door = None

    def do(self, coroutine, timeout=150):
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, timeout), self.loop).result()

    async def begin(self):
        self.door_port, self.door_api, self.hub_port = free_ports(3)
        self.url = f"{self.scheme}://hub.localhost:{self.door_port}"
        self.portal = await FakePortal().listen()
        self.portal.callback = self.url + "/hub/oauth_callback"
        self.pool = await FakePool(homes=str(self.tmp / "homes"), path=os.environ["PATH"]).listen()
        door_log = open(self.tmp / "door.log", "wb")
        with door_log:
            self.door = subprocess.Popen(
                [PROXY, "--ip=127.0.0.1", f"--port={self.door_port}", "--api-ip=127.0.0.1", f"--api-port={self.door_api}", "--host-routing"]
                + (["--no-x-forward"] if self.scheme == "https" else []),
                env={**os.environ, "CONFIGPROXY_AUTH_TOKEN": "the-proxy-token"},
                stdout=door_log,
                stderr=door_log,
            )
        await self.start_hub()
        return self

    async def start_hub(self):
        home = self.tmp / "hub"
        home.mkdir(exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DSPOOL", "JUPYTER"))}
        env |= {
            "HOME": str(home),
            "DSPOOL_API_URL": self.pool.url,
            "DSPOOL_TOKEN": TOKEN,
            "DSPOOL_POOL": "lab",
            "DSPOOL_HUB_URL": self.url,
            "DSPOOL_PORTAL_URL": self.portal.url,
            "DSPOOL_PROXY_API": f"http://127.0.0.1:{self.door_api}",
            "CONFIGPROXY_AUTH_TOKEN": "the-proxy-token",
            "DSPOOL_OAUTH_CLIENT_ID": CLIENT,
            "DSPOOL_OAUTH_CLIENT_SECRET": SECRET,
            "JUPYTERHUB_CRYPT_KEY": "ab" * 32,
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        more = [
            # Hub and portal are asked through the machine door, which is not here.
            f"--PortalAuthenticator.token_url={self.portal.url}/oauth/token",
            f"--PortalAuthenticator.userdata_url={self.portal.url}/oauth/userinfo",
            "--PortalAuthenticator.auth_refresh_age=1",
            f"--JupyterHub.hub_connect_url=http://127.0.0.1:{self.hub_port}",
        ]
        log = open(self.tmp / "hub.log", "ab")
        with log:
            self.hub = subprocess.Popen(
                [sys.executable, "-m", "dspool.jupyterhub", f"--port={self.hub_port}", *more], env=env, stdout=log, stderr=log
            )
        browser = Browser()
        async with asyncio.timeout(60):
            while True:
                assert self.hub.poll() is None, self.log()
                with contextlib.suppress(OSError):
                    if (await browser.fetch(self.url + "/hub/health")).code == 200:
                        return
                await asyncio.sleep(0.1)

    def stop_hub(self, how=signal.SIGTERM):
        self.hub.send_signal(how)
        self.hub.wait(30)

    def log(self):
        return (self.tmp / "hub.log").read_text()[-4000:]

    async def end(self):
        await self.pool.close()
        await self.portal.close()
        for process in (self.hub, self.door):
            if process and process.poll() is None:
                process.terminate()
                process.wait(30)

    # --- what people do

    def browser(self, name):
        return Browser(name, self.portal.url)

    def lab(self, name):
        return f"{self.scheme}://{name}.hub.localhost:{self.door_port}/user/{name}/"

    async def into_lab(self, name):
        """Logs in and is in JupyterLab. Returns the browser and the events of the progress page."""
        browser = self.browser(name)
        page = await browser.fetch(self.url + "/")
        assert "/hub/spawn-pending/" in page.url, (page.url, page.body[-2000:], self.log())
        events = await browser.events(f"{self.url}/hub/api/users/{name}/server/progress?_xsrf={self.xsrf(browser)}")
        assert events[-1].get("ready"), (events, self.log(), self.server_log(name))
        lab = await browser.fetch(self.url + "/hub/spawn-pending/" + name)
        assert lab.code == 200 and lab.url.startswith(self.lab(name) + "lab"), (lab.code, lab.url)
        assert b"jupyter-config-data" in lab.body
        return browser, events

    def xsrf(self, browser):
        return next(c.value for c in browser.jar if c.name == "_xsrf" and c.path == "/hub/")

    def server_log(self, name):
        path = self.tmp / "homes" / name / "server.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def live(self, name):
        return [a for a in self.pool.apps.values() if a["user"] == name and a["state"] == "running"]


@contextlib.contextmanager
def a_world(*args):
    w = World(*args)
    try:
        w.do(w.begin())
        yield w
    finally:
        w.do(w.end())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with a_world(tmp_path_factory.mktemp("world")) as w:
        yield w


def test_over_https_every_login_is_locked_to_its_host(tmp_path):
    """A notebook's page can set cookies for the hub's whole domain; none of them may be taken for a login."""

    async def story(world):
        browser, _ = await world.into_lab("ada")
        assert (await browser.fetch(world.lab("ada") + "api/contents/", follow=False)).code == 200
        hub = {c.name: c for c in browser.jar if c.domain in ("hub.localhost", "ada.hub.localhost")}
        assert "__Host-jupyterhub-hub-login" in hub and "__Host-jupyterhub-user-ada" in hub, hub.keys()
        assert all(c.secure or c.name == "_xsrf" for c in hub.values()), hub
        # _xsrf is signed for its holder's login: one of another page's making is passed over.
        assert {n for n in hub if not n.startswith("__Host-")} <= {"_xsrf"}, hub.keys()
        assert "SameSite" in hub["__Host-jupyterhub-hub-login"]._rest

    with a_world(tmp_path, "https") as w:
        w.do(story(w))


def test_from_login_to_lab_with_real_steps(world):
    async def story():
        browser, events = await world.into_lab("ada")
        said = [e["message"] for e in events if "message" in e]
        assert "Starting lab-1 (about 5 s)" in said and "JupyterLab is there; opening it" in said
        bar = [e["progress"] for e in events]
        assert bar == sorted(bar) and bar[-1] == 100
        root = await browser.api(world.lab("ada") + "api/contents/?content=1")
        assert root.code == 200 and "server.log" in {f["name"] for f in json.loads(root.body)["content"]}, "it is the home"
        terminal = await browser.api(world.lab("ada") + "api/terminals", "POST", page=world.lab("ada") + "api")
        assert terminal.code == 200, terminal.body

    world.do(story())


def test_what_the_hub_keeps_is_for_its_account_only(world):
    for name in ("jupyterhub.sqlite", "jupyterhub_cookie_secret"):
        assert stat.S_IMODE((world.tmp / "hub" / name).stat().st_mode) == 0o600


def test_the_agent_may_ask_with_the_servers_own_token(world):
    async def story():
        [app] = world.live("ada") or [None]
        [asked] = [p for p in world.pool.posts if p["user"] == "ada"]
        client = Browser()
        answer = await client.fetch(
            app["url"] + asked["kernels"] + "/kernels", headers={"Authorization": "token " + asked["token"]}, follow=False
        )
        assert answer.code == 200 and json.loads(answer.body) == []
        assert (await client.fetch(app["url"] + asked["kernels"] + "/kernels", follow=False)).code in (302, 403)

    world.do(story())


def test_a_request_without_the_xsrf_token_changes_nothing(world):
    async def story():
        browser = world.browser("ada")
        await browser.fetch(world.url + "/hub/home")
        lab = world.lab("ada")
        await browser.fetch(lab + "lab")
        kernel = await browser.fetch(lab + "api/kernels", "POST", "{}", follow=False, headers={"Sec-Fetch-Mode": "cors"})
        assert kernel.code == 403
        stop = await browser.fetch(world.url + "/hub/api/users/ada/server", "DELETE", follow=False, headers={"Sec-Fetch-Mode": "cors"})
        assert stop.code == 403
        assert world.live("ada")

    world.do(story())


def test_another_user_does_not_get_in(world):
    async def story():
        eve = world.browser("eve")
        await eve.fetch(world.url + "/hub/home")
        answer = await eve.fetch(world.lab("ada") + "lab")
        assert answer.code in (403, 404), answer.code
        assert b"jupyter-config-data" not in answer.body

    world.do(story())


def message(kind, content, session):
    header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": session, "username": "ada", "version": "5.3", "date": "2026-01-01T00:00:00Z"}
    return json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []})


def test_output_survives_a_closed_lid(world):
    async def story():
        lab, page = world.lab("ada"), world.lab("ada") + "api"
        browser = world.browser("ada")
        await browser.fetch(lab + "lab")
        kernel = json.loads((await browser.api(lab + "api/kernels", "POST", {"name": "python3"}, page)).body)["id"]
        session = uuid.uuid4().hex
        channels = f"{lab}api/kernels/{kernel}/channels?session_id={session}"
        go = world.tmp / "go"
        code = f"import os, time\nprint('before', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(.05)\nprint('while away')"
        socket = await browser.websocket(channels)
        await socket.write_message(message("execute_request", {"code": code, "silent": False, "store_history": True, "allow_stdin": False}, session))
        await hear(socket, "before")
        [connection] = (world.tmp / "homes/ada/.local/share/jupyter/runtime").glob(f"kernel-{kernel}.json")
        assert json.loads(connection.read_text())["curve_secretkey"], "nobody else on the machine can listen"
        socket.close()
        await until(lambda: f"Starting buffering for {kernel}" in world.server_log("ada"))
        go.write_text("")
        socket = await browser.websocket(channels)
        await hear(socket, "while away")
        socket.close()

    world.do(story())


async def hear(socket, text):
    async with asyncio.timeout(30):
        while True:
            said = await socket.read_message()
            assert said is not None, f"closed before {text!r}"
            said = json.loads(said) if isinstance(said, str) else {}
            if said.get("msg_type") == "stream" and text in said["content"]["text"]:
                return


def test_files_go_up_in_pieces(world):
    async def story():
        lab, page = world.lab("ada"), world.lab("ada") + "api"
        browser = world.browser("ada")
        await browser.fetch(lab + "lab")
        for chunk, text in ((1, "one "), (2, "two "), (-1, "three")):
            body = {"type": "file", "format": "text", "content": text, "chunk": chunk}
            answer = await browser.api(lab + "api/contents/big.txt", "PUT", body, page)
            assert answer.code in (200, 201), answer.body
        assert (world.tmp / "homes/ada/big.txt").read_text() == "one two three"

    world.do(story())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_hub_that_begins_anew_keeps_the_servers(world, how):
    async def story():
        browser = world.browser("ada")
        await browser.fetch(world.lab("ada") + "lab")
        [app] = world.live("ada")
        world.stop_hub(how)
        during = await browser.fetch(world.lab("ada") + "api/contents/", follow=False)
        assert during.code == 200, "the notebook server does not need the hub"
        await world.start_hub()
        await until(lambda: "ada still running" in world.log().rpartition("Running JupyterHub version")[2])
        assert (await browser.fetch(world.lab("ada") + "lab")).code == 200
        assert world.live("ada") == [app]
        assert (await browser.fetch(world.url + "/hub/spawn")).url.startswith(world.lab("ada")), "the hub knows that it runs"

    world.do(story())


def test_a_hub_that_begins_while_the_api_is_away_keeps_the_servers(world):
    async def story():
        [app] = world.live("ada")
        process = world.pool.processes[app["id"]]
        world.stop_hub()
        await world.pool.away()
        await world.start_hub()
        browser = world.browser("ada")
        assert (await browser.fetch(world.lab("ada") + "lab")).code == 200
        await world.pool.back()
        await until(lambda: "ada still running" in world.log().rpartition("Running JupyterHub version")[2])
        assert world.live("ada") == [app] and process.poll() is None

    world.do(story())


def test_a_start_goes_on_when_the_hub_begins_anew(world):
    async def story():
        browser = world.browser("cleo")
        run, world.pool._run = world.pool._run, lambda app, body: None  # the machine is not there yet
        page = await browser.fetch(world.url + "/")
        assert "/hub/spawn-pending/cleo" in page.url
        await until(lambda: any(a["user"] == "cleo" for a in world.pool.apps.values()))
        [app] = [a for a in world.pool.apps.values() if a["user"] == "cleo"]
        await until(lambda: f"GET /apps/{app['id']}/steps" in world.pool.requests)
        world.stop_hub(signal.SIGKILL)
        await world.start_hub()
        world.pool._run = run
        run(app, [p for p in world.pool.posts if p["user"] == "cleo"][0])
        await until(lambda: "cleo still running" in world.log(), timeout=60)
        lab = await browser.fetch(world.url + "/hub/spawn")
        assert lab.code == 200 and lab.url.startswith(world.lab("cleo")), (lab.code, lab.url, world.log())
        assert len([p for p in world.pool.posts if p["user"] == "cleo"]) == 1

    world.do(story())


def test_logged_out_at_the_portal_is_logged_out_here_and_the_work_goes_on(world):
    async def story():
        browser = world.browser("ada")
        await browser.fetch(world.lab("ada") + "lab")
        assert (await browser.fetch(world.url + "/hub/home")).code == 200
        token = next(p["token"] for p in world.pool.posts if p["user"] == "ada")
        [app] = world.live("ada")
        world.portal.log_out_everywhere("ada")
        browser.jar.clear(domain="127.0.0.1")

        async def logged_out():
            return (await browser.fetch(world.url + "/hub/home")).url.startswith(world.portal.url)

        async with asyncio.timeout(20):
            while not await logged_out():
                await asyncio.sleep(0.2)
        # The browser's token for the notebook server is no longer one.
        client = Browser()
        own = await client.fetch(f"http://127.0.0.1:{world.hub_port}/hub/api/user", headers={"Authorization": "token " + token}, follow=False)
        assert own.code == 200, "the server goes on"
        assert world.live("ada") == [app]
        assert sessions_in_database(world, "ada") == 0

    world.do(story())


def test_each_browser_has_the_end_of_its_own_login(world):
    """The login of a laptop that was lost ends although its owner has logged in elsewhere since."""

    async def story():
        lost, _ = await world.into_lab("gil")
        kept = world.browser("gil")
        await kept.fetch(world.lab("gil") + "lab")
        contents = world.lab("gil") + "api/contents/?content=0"
        assert (await lost.fetch(contents, follow=False)).code == 200
        world.portal.log_out_first("gil")
        lost.jar.clear(domain="127.0.0.1")
        async with asyncio.timeout(20):
            while (await lost.fetch(world.url + "/hub/home", follow=False)).code == 200:
                await asyncio.sleep(0.2)
        assert (await lost.fetch(world.url + "/hub/home")).url.startswith(world.portal.url)
        for _ in range(2):
            assert (await kept.fetch(world.url + "/hub/home")).url == world.url + "/hub/home"
            assert (await kept.fetch(contents, follow=False)).code == 200
            await asyncio.sleep(1.1)  # the age at which a login is looked at again
        assert sessions_in_database(world, "gil") == 1

    world.do(story())


def sessions_in_database(world, name):
    query = (
        "select count(distinct session_id) from api_tokens join users on users.id = api_tokens.user_id"
        " where users.name = ? and session_id is not null"
    )
    with contextlib.closing(sqlite3.connect(world.tmp / "hub/jupyterhub.sqlite")) as db:
        return db.execute(query, (name,)).fetchone()[0]


async def make_token(world, browser, name):
    await browser.fetch(world.url + "/hub/home")
    at, headers = f"{world.url}/hub/api/users/{name}/tokens", {"Content-Type": "application/json", "Sec-Fetch-Mode": "cors"}
    made = await browser.fetch(f"{at}?_xsrf={world.xsrf(browser)}", "POST", '{"note": "mine"}', headers=headers)
    assert made.code == 201, made.body
    return {"Authorization": "token " + json.loads(made.body)["token"]}


def test_a_token_of_a_former_administrator_is_none_of_an_administrator(world):
    async def story():
        world.portal.admins = {"hal"}
        own = await make_token(world, world.browser("hal"), "hal")
        client = Browser()
        assert (await client.fetch(world.url + "/hub/api/users", headers=own)).code == 200
        world.portal.admins = set()
        world.portal.log_out_everywhere("hal")  # as the portal does with all rights that change
        async with asyncio.timeout(20):
            while (await client.fetch(world.url + "/hub/api/users", headers=own)).code == 200:
                await asyncio.sleep(0.2)
        seen = await client.fetch(world.url + "/hub/api/user", headers=own)
        assert seen.code == 200 and json.loads(seen.body)["roles"] == ["user"], seen.body

    world.do(story())


def test_who_has_the_name_of_a_removed_account_has_nothing_of_its_user(world):
    async def story():
        (former, _), client = await world.into_lab("ivy"), Browser()
        own = await make_token(world, former, "ivy")
        [app] = world.live("ivy")
        world.portal.log_out_everywhere("ivy")
        world.pool.end(app["id"], "its session ends: user ivy was removed", 1)
        world.portal.uids["ivy"] = 20077
        now = world.browser("ivy")
        async with asyncio.timeout(60):  # what is left is cleared away first
            while not (await now.fetch(world.url + "/hub/spawn")).url.startswith(world.lab("ivy")):
                await asyncio.sleep(0.5)
        former.jar.clear(domain="127.0.0.1")
        assert (await client.fetch(world.url + "/hub/api/user", headers=own)).code == 403
        assert (await former.fetch(world.url + "/hub/home")).url.startswith(world.portal.url)
        contents = world.lab("ivy") + "api/contents/?content=0"
        assert (await now.fetch(contents, follow=False)).code == 200
        assert (await former.fetch(contents, follow=False)).code != 200
        assert (await client.fetch(contents, headers=own, follow=False)).code != 200

    world.do(story())


def test_a_portal_that_is_away_logs_nobody_out(world):
    async def story():
        browser = world.browser("cleo")
        await browser.fetch(world.url + "/hub/home")
        home = world.url + "/hub/home"
        world.portal.broken = 404

        async def asked(what):
            async with asyncio.timeout(20):
                while what not in world.log():
                    assert (await browser.fetch(home, follow=False)).code == 200
                    await asyncio.sleep(0.1)

        await asked("the portal answers HTTP 404")
        await world.portal.close()
        await asked("whether cleo is still logged in: [Errno")
        assert (await browser.fetch(home, follow=False)).code == 200

    async def back():
        from tornado.netutil import bind_sockets

        world.portal.broken = 0
        world.portal.server.add_sockets(bind_sockets(world.portal.port, "127.0.0.1"))

    try:
        world.do(story())
    finally:
        world.do(back())


def test_a_size_is_chosen_on_the_page_or_by_a_link(world):
    async def story():
        kept = world.pool.pools, world.pool.sizes, world.pool._run
        world.pool.pools, world.pool.sizes = [pool("lab", sizes=["small", "big"])], [*world.pool.sizes, BIG]
        world.pool._run = lambda app, body: world.pool.end(app["id"], "that is all for now", 1)
        try:
            browser = world.browser("joe")
            page = await browser.fetch(world.url + "/")
            text = page.body.decode()
            assert page.code == 200 and "lab, small" in text and "16 cores, 64 GiB, 1 GPU, shared by up to 4 people · 0.75 an hour" in text
            action = html.unescape(re.search(r'<form[^>]* action="([^"]+)"', text[text.index("spawn_form") - 100 :]).group(1))
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            await browser.fetch(urljoin(page.url, action), "POST", "pool=lab%2Fbig", headers=headers)
            await asked(world, "joe", 1)
            await over(world, browser, "joe")
            await browser.fetch(world.url + "/hub/spawn?pool=lab&size=small")
            await asked(world, "joe", 2)
            assert [(p["pool"], p["size"]) for p in world.pool.posts if p["user"] == "joe"] == [("lab", "big"), ("lab", "small")]
            await over(world, browser, "joe")
            for size, refuse, said in (
                ("huge", None, "Pool lab has no size"),
                ("big", "your session in pool lab is on lab-1, of size small", "is on lab-1, of size small (end it first)"),
            ):
                world.pool.refuse_post = (409, {"detail": refuse, "hint": "end it first", "code": "conflict"}) if refuse else None
                await browser.fetch(f"{world.url}/hub/spawn?pool=lab&size={size}")
                text = await over(world, browser, "joe")
                assert said in text, text
            assert len([p for p in world.pool.posts if p["user"] == "joe"]) == 2
        finally:
            world.pool.pools, world.pool.sizes, world.pool._run = kept
            world.pool.refuse_post = None

    world.do(story())


async def asked(world, name, times):
    await until(lambda: len([p for p in world.pool.posts if p["user"] == name]) == times)


async def over(world, browser, name):
    """Waits until a start has come to nothing. Returns the text of the page that says so."""
    async with asyncio.timeout(20):
        while b"progress-bar" in (page := await browser.fetch(f"{world.url}/hub/spawn-pending/{name}")).body:
            await asyncio.sleep(0.1)
    return html.unescape(page.body.decode())


def test_a_start_that_fails_shows_why(world):
    async def story():
        run = world.pool._run
        world.pool._run = lambda app, body: world.pool.end(app["id"], "No space left on device", 1)
        try:
            browser = world.browser("dan")
            page = await browser.fetch(world.url + "/")
            if "/hub/spawn-pending/" in page.url and page.code == 200:
                events = await browser.events(f"{world.url}/hub/api/users/dan/server/progress?_xsrf={world.xsrf(browser)}")
                assert events[-1]["failed"] and "No space left on device" in events[-1]["message"], events
                page = await browser.fetch(page.url)
            assert b"No space left on device" in page.body, page.body
        finally:
            world.pool._run = run

    world.do(story())


def test_stop_ends_it(world):
    async def story():
        browser = world.browser("cleo")
        await browser.fetch(world.url + "/hub/home")
        [app] = world.live("cleo")
        answer = await browser.api(f"{world.url}/hub/api/users/cleo/server", "DELETE")
        assert answer.code in (202, 204), answer.body
        await until(lambda: not world.live("cleo"))
        assert world.pool.apps[app["id"]]["state"] == "ended"

    world.do(story())


def test_administrators_are_who_the_portal_says(world):
    async def story():
        world.portal.admins = {"root-like"}
        boss, ada = world.browser("root-like"), world.browser("ada")
        await boss.fetch(world.url + "/hub/home")
        await ada.fetch(world.url + "/hub/home")
        assert (await boss.fetch(world.url + "/hub/admin")).code == 200
        assert (await ada.fetch(world.url + "/hub/admin")).code == 403

    world.do(story())


@pytest.mark.parametrize("where", ["//evil.example/", "/\\evil.example", "https://evil.example/x", "javascript:alert(1)"])
def test_no_redirect_leads_elsewhere(world, where):
    async def story():
        from urllib.parse import quote

        browser = world.browser("ada")
        await browser.fetch(world.url + "/hub/home")
        for path in ("/hub/login?next=", "/hub/oauth_login?next=", "/hub/spawn?next="):
            answer = await browser.fetch(world.url + path + quote(where, safe=""))
            assert "evil.example" not in (answer.url.partition("?")[0].split("/")[2]), answer.url

    world.do(story())

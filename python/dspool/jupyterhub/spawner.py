"""PoolSpawner: a notebook server is an app of its user's session on a pool's machine."""

import asyncio
import os
import re
from urllib.parse import urlparse

from jupyterhub.spawner import Spawner
from jupyterhub.utils import url_path_join
from sqlalchemy.orm import object_session
from traitlets import Callable, Integer, List, Unicode, Union, default

from .api import Away, PoolAPI, Refused, seconds
from .errors import Backoff, StartFailed
from .form import PoolChoice
from .names import APP_NAME
from .progress import Progress

# Of a notebook server: kernels and terminals are never culled, because the pool's own rule ends a session in
# which nothing lives. A page whose computer sleeps is noticed within half a minute rather than two, and from
# then on its kernel's output is kept for it. Widgets may send more than tornado's 10 MiB at once.
ARGS = [
    "--MappingKernelManager.cull_idle_timeout=0",
    "--MappingKernelManager.buffer_offline_messages=True",
    "--TerminalManager.cull_inactive_timeout=0",
    "--ServerApp.shutdown_no_activity_timeout=0",
    "--ServerApp.tornado_settings={'ws_ping_interval': 10000, 'ws_ping_timeout': 20000,"
    " 'websocket_max_message_size': 268435456}",
    # Others on the machine could listen to a kernel's port: what it prints is for its user.
    "--KernelManager.transport_encryption=auto",
    # How long a logged-out browser is still let in.
    "--HubOAuth.cache_max_age=60",
]

# How often a fault of the API's own (HTTP 500) is asked again before it is believed.
MOST_FAULTS = 5


class PoolSpawner(PoolChoice, Spawner):
    """Starts notebook servers on the machines of a dspool."""

    api_url = Unicode(help="URL of the pool's API, such as https://pool.example.com:8443; DSPOOL_API_URL unless set.").tag(config=True)

    token = Unicode(
        help="A token made with `dspool token create --spawner`; DSPOOL_TOKEN unless set, which keeps it out of files."
    ).tag(config=True)

    ca = Unicode(
        help="PEM file of the authority that the API's certificate is checked against; DSPOOL_CA, else the system's, unless set."
    ).tag(config=True)

    pool = Unicode(
        help="Pool for people who choose none; DSPOOL_POOL, else the user's own default, unless set."
    ).tag(config=True)

    pools = List(
        Unicode(), help="Pools that people choose from; all of kind interactive unless set. With one of one size there is no form."
    ).tag(config=True)

    app_name = Unicode("jupyter", help="What the pool calls the server; a named server is APP_NAME-SERVER.").tag(config=True)

    account = Union(
        [Callable(), Unicode()],
        default_value="{username}",
        help="The user's name in the pool: a format string, or a function of the spawner.",
    ).tag(config=True)

    app_url = Unicode(
        help="How this JupyterHub and its proxy reach a server: a format string with {id}, {address} and {port}, such as"
        " http://{address}:{port} on the pool's own host; the URL that the pool says unless set."
    ).tag(config=True)

    stop_timeout = Integer(120, help="Seconds to wait for a server's end.").tag(config=True)

    @default("api_url")
    def _api_url_default(self):
        return os.environ.get("DSPOOL_API_URL", "")

    @default("token")
    def _token_default(self):
        return os.environ.get("DSPOOL_TOKEN", "")

    @default("ca")
    def _ca_default(self):
        return os.environ.get("DSPOOL_CA", "")

    @default("pool")
    def _pool_default(self):
        return os.environ.get("DSPOOL_POOL", "")

    @default("args")
    def _args_default(self):
        return list(ARGS)

    @default("default_url")
    def _default_url_default(self):
        return "/lab"

    @default("ip")
    def _ip_default(self):
        return "0.0.0.0"

    @default("start_timeout")
    def _start_timeout_default(self):
        return 15 * 60  # people may wait for each other's machines

    @default("http_timeout")
    def _http_timeout_default(self):
        return 120  # the server listens when this begins; a door may be restarting

    @default("env_keep")
    def _env_keep_default(self):
        return []  # the hub's PATH means nothing on another machine

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.app_id = 0
        # A POST went out, so there may be an app although its number is not known.
        self._asked = False
        self._progress = Progress()
        self._api = None
        self._where = ""

    @property
    def api(self):
        if self._api is None:
            if urlparse(self.api_url).scheme not in ("http", "https"):
                raise StartFailed("This JupyterHub does not know where the pool is: set c.PoolSpawner.api_url.", 500)
            if not self.token:
                raise StartFailed("This JupyterHub has no token for the pool: set DSPOOL_TOKEN.", 500)
            self._api = PoolAPI(self.api_url, self.token, self.ca)
        return self._api

    # --- starting

    async def start(self):
        """Asks for an app and follows it until its port is its user's, by the word of the machine's agent.
        Returns where JupyterHub reaches it. A server that restarts, or a door, is waited for."""
        self._progress = Progress()
        try:
            if self.internal_ssl:
                raise StartFailed("PoolSpawner does not work with JupyterHub.internal_ssl: switch it off.", 500)
            name = self._app_name()
            request = {
                "user": self._account(),
                "name": name,
                "command": [*self.cmd, *self.get_args()],
                "env": self._environment(),
                "kernels": url_path_join(self.server.base_url, "api"),
                "token": self.api_token,
            }
            pool, size = await self._choice_for_start()
            request |= {field: name for field, name in (("pool", pool), ("size", size)) if name}
            self._where = pool
            self._asked = True
            self._remember()
            try:
                app = await self._patiently("ask for a notebook server", self.api.call, "POST", "/apps", request)
            except Refused:
                self._asked = False
                raise
            self.app_id, self._where = int(app["id"]), app.get("pool", pool)
            self._remember()
            url = await self._until_it_runs()
            self._progress.step("JupyterLab is there; opening it")
            return url
        except Refused as e:
            raise StartFailed(str(e), 403 if e.status == 403 else 400) from e
        finally:
            self._progress.finish()

    async def _until_it_runs(self):
        backoff = Backoff()
        while True:
            try:
                async for step in self.api.steps(self.app_id):
                    backoff.reset()
                    if step.get("ready") or step.get("failed"):
                        break
                    self._progress.step(step.get("reason") or {}, _position(step), seconds(step.get("estimate")))
                app = await self.api.app(self.app_id)
            except Away as e:
                self._away("follow its start", e)
            except Refused as e:
                if e.gone:
                    raise StartFailed("The pool no longer knows this notebook server. Start it again.") from e
                raise
            else:
                if app["state"] == "running":
                    return await self._url(app)
                if app["state"] in ("stopping", "ended"):
                    raise StartFailed(self._why(app))
            await backoff.sleep()

    async def _patiently(self, what, fn, *args):
        """Calls fn until the API answers; start_timeout ends it."""
        backoff, faults = Backoff(), 0
        while True:
            try:
                return await fn(*args)
            except Away as e:
                faults = faults + 1 if e.status == 500 else 0
                if faults == MOST_FAULTS:
                    raise StartFailed(f"The pool could not {what}: {e}.", 500) from e
                self._away(what, e)
            await backoff.sleep()

    def _away(self, what, e):
        self.log.warning("The pool's API does not answer (to %s for %s): %s", what, self._log_name, e)
        self._progress.step("The pool's server does not answer; trying again")

    async def progress(self):
        async for event in self._progress.events():
            yield event

    async def _url(self, app):
        """Where JupyterHub and its proxy reach a running app."""
        url = app.get("url") or ""
        if self.app_url:
            address = (await self.api.call("GET", f"/machines/{app['machine']}"))["address"] if "{address}" in self.app_url else ""
            url = self.app_url.format(id=app["id"], address=address, port=app["port"])
        parts = urlparse(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StartFailed("The pool does not say where the notebook server is reached: it has no web door.", 503)
        return url

    def _environment(self):
        """What the server is told by JupyterHub, with {port} for the port that only the machine knows."""
        env = {k: str(v) for k, v in self.get_env().items() if v is not None}
        env["JUPYTERHUB_SERVICE_URL"] = f"http://{self.ip}:{{port}}{self.server.base_url}"
        return env

    def _account(self):
        name = self.account(self) if callable(self.account) else self.format_string(self.account)
        if not isinstance(name, str) or not name:
            raise StartFailed(f"JupyterHub's user {self.user.name} has no account in the pool.")
        return name

    def _app_name(self):
        if not self.name:
            return self.app_name
        name = f"{self.app_name}-{self.name}"
        if not re.fullmatch(APP_NAME, name):
            raise StartFailed(
                f"A server in the pool cannot be called {self.name[:64]!r}: use at most {31 - len(self.app_name)} of"
                ' a-z, 0-9 and inner "-".'
            )
        return name

    def _why(self, app):
        """Why an app is not running, in a sentence or two."""
        code, reason = app.get("exit_code"), _text(app)
        if code is None:
            return f"JupyterLab did not start: {(reason or 'its session ended').rstrip('.')}."
        log = f"The log is ~/.local/state/dspool/{self._app_name()}.log on the pool's machines."
        return f"JupyterLab did not start (exit code {code}){': ' + reason.rstrip('.') if reason else ''}. {log}"

    # --- afterwards

    async def poll(self):
        """None while the server may live, which is also whenever the API cannot say: unknown is not dead."""
        if not self.app_id and not self._asked:
            return 0
        try:
            if not self.app_id and not await self._find():
                return 1
            app = await self.api.app(self.app_id)
        except Refused as e:
            if e.gone:
                return 1
            self.log.error("The pool does not say how %s is: %s", self._log_name, e)
            return None
        except Exception as e:
            self.log.warning("The pool does not say how %s is: %s", self._log_name, e)
            return None
        if app.get("state") != "ended":
            return None
        code = app.get("exit_code")
        self.log.info("The server of %s has ended (exit code %s): %s", self._log_name, code, _text(app))
        return 1 if code is None else code

    async def stop(self, now=False):
        """Ends the app and, unless now, waits until it has ended."""
        backoff = Backoff(most=2)
        async with asyncio.timeout(self.stop_timeout):
            asked = False
            while True:
                try:
                    if not self.app_id and not await self._find():
                        return
                    if not asked:
                        app, asked = await self.api.call("DELETE", f"/apps/{self.app_id}"), True
                    else:
                        app = await self.api.app(self.app_id)
                    if now or not app or app.get("state") == "ended":
                        return
                except Refused as e:
                    if e.gone:
                        return
                    raise
                except Away as e:
                    self.log.warning("The pool's API does not answer (to stop %s): %s", self._log_name, e)
                await backoff.sleep()

    async def get_url(self):
        """Asked when JupyterHub has restarted and poll said that the server may live. JupyterHub ends a
        server that then does not answer within http_timeout, so this returns only when it does answer, or
        has ended, or has not answered for start_timeout although the pool says that it runs."""
        backoff, loop = Backoff(), asyncio.get_running_loop()
        silent_since = 0.0
        while True:
            try:
                app = await self.api.app(self.app_id) if self.app_id or await self._find() else {"state": "ended"}
            except Refused as e:
                app = {"state": "ended"} if e.gone else {}
            except Away:
                app = {}
            if app.get("state") == "ended":
                self.http_timeout = 1  # nobody will answer there
                return self.server.url
            if app.get("state") == "running":
                try:
                    url = url_path_join(await self._url(app), self.server.base_url)
                except (Away, Refused, StartFailed) as e:
                    self.log.warning("The pool does not say where %s is: %s", self._log_name, e)
                    url = self.server.url
                self._remember()
                silent_since = silent_since or loop.time()
                if await self.api.answers(url_path_join(url, "api")) or loop.time() - silent_since > self.start_timeout:
                    return url
            else:
                silent_since = 0.0
            await backoff.sleep()

    async def _find(self):
        """Finds the app of which only the wish is known. Returns whether there is one."""
        try:
            name, account = self._app_name(), self._account()
        except StartFailed:
            return False
        mine = [
            a
            for a in await self.api.apps(account)
            if a.get("user") == account
            and a.get("name") == name
            and a.get("state") != "ended"
            and self._where in ("", a.get("pool"))
        ]
        if mine:
            self.app_id = int(max(a["id"] for a in mine))
        return bool(mine)

    def get_state(self):
        state = super().get_state()
        if self.app_id:
            state["app"] = self.app_id
        if self._asked:
            state["asked"] = self._where
        return state

    def load_state(self, state):
        super().load_state(state)
        self.app_id = int(state.get("app") or 0)
        self._asked = "asked" in state
        self._where = state.get("asked") or ""

    def clear_state(self):
        super().clear_state()
        self.app_id, self._asked, self._where = 0, False, ""

    def _remember(self):
        """Writes the state down at once: JupyterHub does so only when the server runs, and one that
        restarts before must know what it has asked for."""
        if self.orm_spawner is None:
            return
        self.orm_spawner.state = self.get_state()
        session = object_session(self.orm_spawner)
        if session is not None:
            session.commit()


def _text(app):
    """Why an app waits or how it ended, as its user reads it."""
    return str((app.get("reason") or {}).get("text") or "").strip()


def _position(step):
    position = step.get("position")
    return position if isinstance(position, int) else 0

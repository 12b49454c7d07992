"""The web door as JupyterHub's proxy."""

import asyncio
import time

from jupyterhub.proxy import ConfigurableHTTPProxy
from traitlets import Integer


class WebDoor(ConfigurableHTTPProxy):
    """JupyterHub stops a server whose route it cannot add, and gives up after half a minute. A door that
    restarts, or does not know this hub's machine yet, is waited for."""

    patience = Integer(900, help="Seconds to go on asking.").tag(config=True)

    async def api_request(self, path, method="GET", body=None):
        until, pause = time.monotonic() + self.patience, 0.5
        while True:
            try:
                return await super().api_request(path, method=method, body=body)
            except Exception as e:
                status = getattr(e, "status", None) or getattr(e, "code", None)
                if status == 404 or time.monotonic() > until:
                    raise
                self.log.warning("The web door did not take %s %s (%s); asking again", method, path or "/", status or e)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 10)

"""What goes wrong for good, and pauses for what does not."""

import asyncio
import random

from tornado.web import HTTPError


class StartFailed(HTTPError):
    """Why a server did not start, for its user: JupyterHub shows jupyterhub_message."""

    def __init__(self, message, status_code=400):
        super().__init__(status_code, "%s", message)
        self.jupyterhub_message = message


class Backoff:
    """Growing pauses, a little different for everybody."""

    def __init__(self, first=0.25, most=10):
        self._first, self._most = first, most
        self.reset()

    def reset(self):
        self._next = self._first

    async def sleep(self):
        await asyncio.sleep(self._next * random.uniform(0.8, 1.2))
        self._next = min(self._next * 2, self._most)

"""What a person who waits for a notebook server is shown: JupyterHub's own progress bar, with real steps."""

import asyncio
import math
import time

TICK = 2  # seconds between movements of the bar
MOST = 95  # of 100; the rest is JupyterHub's, which says that the server is ready
# While one waits for a machine, nobody knows how long it takes: the bar stays low.
MOST_IN_QUEUE = 20
# With a machine, the rest is a matter of seconds.
PLACED, PLACED_SECONDS = 50, 8
# Codes of the API's reasons (docs/reasons.md): of steps on a machine, and of those that begin with a machine's name.
ON_A_MACHINE = ("preparing", "app_starting")
BEGIN_WITH_A_NAME = ("coming", "open", "app_runs")


class Progress:
    """The steps of one start, for any number of pages that look at it, from the first step on each."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._began = clock()
        self._events = []
        self._waiters = set()
        self._queued = False
        self._placed = None  # when it got its machine
        self._ready_at = 0.0  # by the estimate; 0 is unknown
        self._shown = 0
        self.done = False

    def step(self, reason, position=0, estimate=0.0):
        """Records a step, by the API's reason or a text of the spawner's own. estimate is how many seconds it
        should still take; 0 is unknown."""
        if isinstance(reason, str):
            reason = {"text": reason}
        self._queued = position > 0
        if self._queued:
            self._placed = None
        elif self._placed is None and reason.get("code") in ON_A_MACHINE:
            self._placed = self._clock()
        self._ready_at = self._clock() + estimate if estimate else 0.0
        percent = self.percent()
        text = sentence(reason, position, estimate)
        if text and (not self._events or self._events[-1]["message"] != text):
            self._events.append({"progress": percent, "message": text})
            self._wake()

    def finish(self):
        self.done = True
        self._wake()

    def percent(self):
        """How far it has come, from 0 to MOST. It never goes back."""
        now = self._clock()
        elapsed = now - self._began
        if self._queued:
            most, now_at = MOST_IN_QUEUE, 1 - math.exp(-elapsed / 60)
        elif self._ready_at:
            left = max(self._ready_at - now, 0)
            most, now_at = MOST, elapsed / ((elapsed + left) or 1)
        elif self._placed is not None:
            rest = 1 - math.exp(-(now - self._placed) / PLACED_SECONDS)
            most, now_at = PLACED + (MOST - PLACED) * rest, 1
        else:
            most, now_at = MOST, 1 - math.exp(-elapsed / 60)
        self._shown = max(self._shown, min(int(most * now_at), MOST))
        return self._shown

    async def events(self):
        """Yields events in JupyterHub's form until the start has ended; one without a message moves
        the bar only."""
        seen, shown = 0, -1
        while True:
            while seen < len(self._events):
                event = self._events[seen]
                seen, shown = seen + 1, max(shown, event["progress"])
                yield {**event, "progress": shown}
            if self.done:
                return
            await self._changed()
            if seen == len(self._events) and self.percent() > shown:
                shown = self.percent()
                yield {"progress": shown}

    async def _changed(self):
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=TICK)
        finally:
            self._waiters.discard(waiter)

    def _wake(self):
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def sentence(reason, position=0, estimate=0.0):
    """One line for a step, such as "Pool lab is full (place 2 in the queue, about 3 min)"."""
    message = "".join(c if c.isprintable() else " " for c in str(reason.get("text") or "")).strip()
    if reason.get("code") not in BEGIN_WITH_A_NAME:
        message = message[:1].upper() + message[1:]
    facts = []
    if position:
        facts.append(f"place {position} in the queue")
    if estimate:
        facts.append("about " + about(estimate))
    return f"{message} ({', '.join(facts)})" if message and facts else message


def about(estimate):
    """A duration as people say it."""
    if estimate < 90:
        return f"{max(5 * math.ceil(estimate / 5), 5)} s"
    return f"{math.ceil(estimate / 60)} min"

"""A timer for what a caller has to do in time."""

import asyncio
from collections.abc import Callable

STALLED = 0.02
"""Seconds by which a timer is late when this process, not the caller, was away."""

CATCH_UP = 0.05
"""Seconds to read what came meanwhile, before silence is concluded from it."""


class Alarm:
    """Rings at the earliest time it was set to.

    When it rings late, this process was away and what the caller sent meanwhile is still
    unread; it then waits once more, `CATCH_UP`, so that nobody takes that for silence.
    """

    def __init__(self, ring: Callable[[float], None]) -> None:
        """Call `ring` with the loop time, in seconds; it may set the alarm again."""
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # uvloop's handles cannot tell
        self._catching_up = False
        self._stopped = False

    def set(self, at: float) -> None:
        """Ring at loop time `at`, if it would not ring before."""
        if self._stopped or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._expire)

    def stop(self) -> None:
        """Never ring again, whatever it is set to."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        now = self._loop.time()
        self._timer = None
        self._catching_up = now - self._timer_at > STALLED and not self._catching_up
        if self._catching_up:
            self.set(now + CATCH_UP)
        else:
            self._ring(now)

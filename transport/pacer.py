"""Agent audio at the speed of speech.

One pacer serves all calls of a process with one timer; there is no task a call.
The first frames of a reply leave at once, later ones keep a monotonic schedule
(`start + n * FRAME`), so that at most `lead` seconds are ahead of the listener:
that is what a barge-in has to take back. What the listener has heard follows
from the same schedule.
"""

import asyncio
import heapq
import logging
from collections.abc import Callable
from itertools import count

import numpy as np

from transport.line import FRAME, Pcm

log = logging.getLogger(__name__)

LEAD = 0.06
"""Seconds of audio sent ahead of the listener at most."""

TOGETHER = 0.002
"""Frames due within this many seconds leave on one wake-up of the loop."""


class Pacer:
    """Wakes every playout when it has a frame to send. For one event loop."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Playout]] = []
        self._order = count()
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handles cannot tell

    def wake(self, playout: "Playout", at: float) -> None:
        """Call `playout.tick` at loop time `at`."""
        heapq.heappush(self._due, (at, next(self._order), playout))
        self._arm()

    def _arm(self) -> None:
        if not self._due:
            return
        at = self._due[0][0]
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0][0] <= now + TOGETHER:
            _, _, playout = heapq.heappop(self._due)
            try:
                playout.tick(now)
            except Exception:  # one call's wire must not silence the others
                log.exception("a playout failed and sends no more")
        self._arm()


class Playout:
    """What one listener has still to hear of one reply after another.

    All positions are samples at `rate`, counted from the first `write` after the
    last `clear` or the last reply's end.
    """

    def __init__(
        self,
        pacer: Pacer,
        send: Callable[[Pcm], None],
        rate: int,
        *,
        lead: float = LEAD,
        progress: Callable[[int], None] = lambda position: None,
    ) -> None:
        """Send frames of `FRAME * rate` samples to `send`; tell `progress` what has left."""
        self.rate = rate
        self.underruns = 0
        """How often a reply ran dry before its end."""
        self._pacer, self._send, self._lead, self._progress = pacer, send, lead, progress
        self._frame = round(rate * FRAME)
        self._reset()

    def _reset(self) -> None:
        self._waiting: list[Pcm] = []
        self._buffered = 0
        self._sent = 0
        self._run_start = 0.0
        self._run_base = 0
        self._running = False
        self._ended = False
        self._done: Callable[[], None] | None = None
        self._scheduled = False

    def write(self, pcm: Pcm) -> None:
        """Add samples. The first of a reply leave before this returns; keeps `pcm`."""
        if not len(pcm):
            return
        self._waiting.append(pcm)
        self._buffered += len(pcm)
        self._pump(asyncio.get_running_loop().time())

    def finish(self, done: Callable[[], None]) -> None:
        """Say that the reply is complete; `done` is called once all of it was heard."""
        self._ended, self._done = True, done
        self._pump(asyncio.get_running_loop().time())

    def clear(self) -> int:
        """Drop all that was not heard yet; return the number of samples heard."""
        heard = self.heard(asyncio.get_running_loop().time())
        self._reset()
        return heard

    def heard(self, now: float) -> int:
        """Return how many samples the listener has heard at loop time `now`."""
        if not self._running:
            return self._sent
        return min(self._sent, self._run_base + max(0, int((now - self._run_start) * self.rate)))

    def until(self, now: float) -> float:
        """Return the loop time at which all samples written so far will have been heard."""
        return now + (self._sent + self._buffered - self.heard(now)) / self.rate

    def tick(self, now: float) -> None:
        """Send what is due; called by the pacer."""
        self._scheduled = False
        self._pump(now)

    def _pump(self, now: float) -> None:
        """Send every frame that is due, then ask to be woken for the next."""
        while self._buffered >= self._frame or (self._ended and self._buffered):
            if not self._running:
                self._running, self._run_start, self._run_base = True, now, self._sent
            due = self._run_start + (self._sent - self._run_base + self._frame) / self.rate
            if due - self._lead > now + TOGETHER:
                self._wake(due - self._lead)
                return
            self._send(self._take())
            self._sent += self._frame
            self._progress(self._sent)
        if not self._running and not self._ended:
            return
        dry = self._run_start + (self._sent - self._run_base) / self.rate
        if now + TOGETHER < dry:
            self._wake(dry)
        elif self._ended:
            done = self._done
            self._reset()
            if done is not None:
                done()
        else:  # ran dry in the middle of a reply: the schedule begins anew
            self.underruns += 1
            self._running = False

    def _wake(self, at: float) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._pacer.wake(self, at)

    def _take(self) -> Pcm:
        """Return the next frame; the last one of a reply is filled up with silence."""
        frame = np.zeros(self._frame, np.float32)
        filled = 0
        while filled < self._frame and self._waiting:
            piece = self._waiting[0]
            used = min(len(piece), self._frame - filled)
            frame[filled : filled + used] = piece[:used]
            filled += used
            if used == len(piece):
                self._waiting.pop(0)
            else:
                self._waiting[0] = piece[used:]
        self._buffered -= filled
        return frame

"""Agent audio at the speed of speech.

One pacer serves all calls of a process with one timer; there is no task a call.
The first frames of a reply leave at once, later ones keep a monotonic schedule
(`start + n * FRAME`), so that at most `lead` seconds are ahead of the listener:
that is what a barge-in has to take back. What the listener has heard follows
from the same schedule. What was sent last is kept, so that a reply that was paused
can go on from the word at which it was.
"""

import asyncio
import heapq
import logging
import math
from collections import deque
from collections.abc import Callable
from itertools import count
from time import monotonic

import numpy as np

from transport.line import FRAME, Pcm

log = logging.getLogger(__name__)

LEAD = 0.06
"""Seconds of audio sent ahead of the listener at most."""

TOGETHER = 0.002
"""Frames due within this many seconds leave on one wake-up of the loop."""


TAIL = 1.5
"""Seconds of sent audio kept for a reply that is paused: longer than any word."""


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
        now = monotonic()
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
        excused: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send frames of `FRAME * rate` samples to `send`; tell `progress` what has left.

        A reply that runs dry while it is `excused` waits for something, and is no underrun.
        """
        self.rate = rate
        self.underruns = 0
        """How often a reply ran dry before its end, and was not excused."""
        self._pacer, self._send, self._lead, self._progress = pacer, send, lead, progress
        self._excused = excused
        self._frame = round(rate * FRAME)
        self._wakes_at = math.inf
        self._reset()

    def _reset(self) -> None:
        self._pieces: deque[Pcm] = deque()  # the reply from sample `_kept` on
        self._kept = 0
        self._written = 0
        self._sent = 0
        self._piece = 0  # where `_sent` lies: number of the piece, and offset into it
        self._offset = 0
        self._run_start = 0.0
        self._run_base = 0
        self._running = False
        self._paused = False
        self._ended = False
        self._done: Callable[[], None] | None = None

    def write(self, pcm: Pcm) -> None:
        """Add samples. The first of a reply leave before this returns; keeps `pcm`."""
        if not len(pcm):
            return
        self._pieces.append(pcm)
        self._written += len(pcm)
        self._pump(monotonic())

    def finish(self, done: Callable[[], None]) -> None:
        """Say that the reply is complete; `done` is called once all of it was heard."""
        self._ended, self._done = True, done
        self._pump(monotonic())

    def clear(self) -> int:
        """Drop all that was not heard yet; return the number of samples heard."""
        heard = self.heard(monotonic())
        self._reset()
        return heard

    def pause(self) -> int:
        """Send no more; return the number of samples heard. What was sent beyond is taken back."""
        heard = self.heard(monotonic())
        self._paused, self._running = True, False
        self._seek(heard)
        return heard

    def resume(self, position: int) -> None:
        """Go on from sample `position`, at most `TAIL` before where it was paused."""
        self._paused = False
        self._seek(position)
        self._pump(monotonic())

    def heard(self, now: float) -> int:
        """Return how many samples the listener has heard at loop time `now`."""
        if not self._running:
            return self._sent
        return min(self._sent, self._run_base + max(0, int((now - self._run_start) * self.rate)))

    def begins(self) -> float:
        """Return the monotonic time, in seconds, at which the frame sent last is heard."""
        return self._run_start + (self._sent - self._frame - self._run_base) / self.rate

    def until(self, now: float) -> float:
        """Return the loop time at which all samples written so far will have been heard."""
        return now + (self._written - self.heard(now)) / self.rate

    def tick(self, now: float) -> None:
        """Send what is due; called by the pacer."""
        self._wakes_at = math.inf
        self._pump(now)

    @property
    def _waiting(self) -> int:
        """Samples that were written and not sent."""
        return max(0, self._written - self._sent)

    def _pump(self, now: float) -> None:
        """Send every frame that is due, then ask to be woken for the next."""
        if self._paused:
            return
        while self._waiting >= self._frame or (self._ended and self._waiting):
            if not self._running:
                self._running, self._run_start, self._run_base = True, now, self._sent
            due = self._run_start + (self._sent - self._run_base + self._frame) / self.rate
            if due - self._lead > now + TOGETHER:
                self._wake(due - self._lead)
                return
            self._send(self._take())
            self._progress(self._sent)
        if not self._running and not self._ended:
            return
        dry = self._run_start + (self._sent - self._run_base) / self.rate
        if self._running and now + TOGETHER < dry:
            self._wake(dry)
        elif self._ended:
            done = self._done
            self._reset()
            if done is not None:
                done()
        else:  # ran dry in the middle of a reply: the schedule begins anew
            self.underruns += not self._excused()
            self._running = False

    def _wake(self, at: float) -> None:
        if at < self._wakes_at - TOGETHER:
            self._wakes_at = at
            self._pacer.wake(self, at)

    def _take(self) -> Pcm:
        """Return the next frame; the last one of a reply is filled up with silence."""
        piece = self._pieces[self._piece]
        end = self._offset + self._frame
        if end <= len(piece):  # nearly always: no copy
            frame = piece[self._offset : end]
            self._offset = end
        else:
            frame = np.zeros(self._frame, np.float32)
            filled = 0
            while filled < self._frame and self._piece < len(self._pieces):
                piece = self._pieces[self._piece]
                used = min(len(piece) - self._offset, self._frame - filled)
                frame[filled : filled + used] = piece[self._offset : self._offset + used]
                filled += used
                self._offset += used
                if self._offset == len(piece) and self._piece + 1 < len(self._pieces):
                    self._piece, self._offset = self._piece + 1, 0
                elif self._offset == len(piece):
                    break
        self._sent += self._frame
        while self._piece and self._kept + len(self._pieces[0]) < self._sent - TAIL * self.rate:
            self._kept += len(self._pieces.popleft())
            self._piece -= 1
        return frame

    def _seek(self, position: int) -> None:
        """Send sample `position` next, or the nearest that is kept."""
        self._sent = min(max(position, self._kept), self._written)
        self._piece, self._offset = 0, self._sent - self._kept
        while self._piece + 1 < len(self._pieces) and self._offset >= len(
            self._pieces[self._piece]
        ):
            self._offset -= len(self._pieces[self._piece])
            self._piece += 1

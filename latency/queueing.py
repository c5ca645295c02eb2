"""How much longer callers wait, the busier the machine is: a queue's curve, fitted. Pure.

A machine that is half busy answers like an idle one; one that is nearly full makes everybody wait.
In between what is waited for grows with u / (1 - u), where u is the utilisation:

    percentile = idle + steepness * u / (1 - u) + rest

`idle` is what was observed while little was to do, `steepness` is fitted to what was observed at
every utilisation, `rest` is what is observed now and the two do not explain.
"""

import math
from collections import deque

USABLE = 0.97
"""Utilisation at which a resource counts as full: the rest is for refusing those who call."""

CALM = 0.5
"""Utilisation up to which waiting is not blamed on load."""

LONGEST = 10.0
"""Seconds that are predicted at most; with a full resource one waits without end."""

STEEPNESS = 0.02, 0.003, 0.3
"""Seconds of waiting per u / (1 - u): expected, least, most. The waiting time of an M/D/1 queue
is half a service time there on average, and about 1.5 at the 95th percentile: these are
service times of 13, 2 and 200 ms."""

TRUST = 5.0
"""Weight of the expected steepness: so many observations of a machine that is half busy."""

FORGET = 60.0
"""Seconds after which an observation counts half."""

EVERY = 1.0
"""Seconds between two observations."""

WINDOW = 10.0
"""Seconds of answers that the percentile is taken of; longer, if they are few."""

FEW, ENOUGH, STALE = 5, 20, 30.0
"""Answers that a percentile needs to be one, and to be relied on; seconds that one counts."""

NEWEST = 0.1
"""Weight of the latest observation in what is waited for on an idle machine."""


def growth(utilisation: float) -> float:
    """Return u / (1 - u), where 1 is a usable resource that is full."""
    used = min(utilisation / USABLE, 0.999)
    return used / (1 - used)


class Curve:
    """What is known of how long callers wait. Times are seconds of one monotonic clock."""

    def __init__(self, percentile: float) -> None:
        """Predict `percentile`, in percent."""
        self.percentile = percentile
        self.idle: float | None = None
        """Percentile without load, in seconds; None before anybody was answered."""
        self.steepness = STEEPNESS[0]
        self.observed: float | None = None
        """Percentile of the latest answers, in seconds."""
        self.rest = 0.0
        self._answers: deque[tuple[float, float, float]] = deque(maxlen=2000)
        self._new = False
        self._looked_at = -math.inf
        self._was_calm = False
        self._xx = self._xy = 0.0

    def answered(self, total: float, utilisation: float, now: float) -> None:
        """Note that a caller was answered after `total` seconds."""
        self._answers.append((now, total, growth(utilisation)))
        self._new = True

    def predicted(self, utilisation: float) -> float | None:
        """Return the percentile at `utilisation`, in seconds; None if nothing is known."""
        if self.idle is None:
            return None
        if utilisation >= USABLE:
            return LONGEST
        return min(LONGEST, self.idle + self.steepness * growth(utilisation) + self.rest)

    def most(self, limit: float) -> float:
        """Return the utilisation at which the percentile is `limit`, in seconds."""
        if self.idle is None:
            return USABLE
        times = (limit - self.idle - self.rest) / self.steepness
        return USABLE * times / (1 + times) if times > 0 else 0.0

    def look(self, now: float) -> None:
        """Take an observation if one is due."""
        if now - self._looked_at < EVERY:
            return
        fade = 0.5 ** ((now - self._looked_at) / FORGET)
        self._looked_at = now
        answers = self._answers
        while answers and (
            answers[0][0] < now - STALE
            or (answers[0][0] < now - WINDOW and len(answers) > ENOUGH)
        ):
            answers.popleft()
        if len(answers) < FEW:
            self.observed, self.rest = None, 0.0
            return
        ordered = sorted(total for _, total, _ in answers)
        self.observed = ordered[math.ceil(len(ordered) * self.percentile / 100) - 1]
        times = sum(times for *_, times in answers) / len(answers)
        busy = times > growth(CALM)
        if self._new:
            self._new = False
            self._fit(self.observed, times, busy, fade)
        assert self.idle is not None
        rest = self.observed - self.idle - self.steepness * times
        # A few answers of an idle machine are slow because a caller was, not because of load.
        self.rest = max(0.0, rest) if busy and len(ordered) >= ENOUGH else 0.0

    def _fit(self, observed: float, times: float, busy: bool, fade: float) -> None:
        if not busy:
            idle = max(0.0, observed - self.steepness * times)
            known = self.idle if self._was_calm and self.idle is not None else idle
            self.idle, self._was_calm = known + NEWEST * (idle - known), True
        elif not self._was_calm:
            self.idle = observed if self.idle is None else min(self.idle, observed)
        assert self.idle is not None
        usual, least, most = STEEPNESS
        self._xx = fade * self._xx + times * times
        self._xy = fade * self._xy + times * (observed - self.idle)
        fitted = (self._xy + TRUST * usual) / (self._xx + TRUST)
        self.steepness = min(most, max(least, fitted))

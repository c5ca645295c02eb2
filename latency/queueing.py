"""How much longer callers wait, the busier the machine is: a queue's curve, fitted. Pure.

A machine that is half busy answers like an idle one; one that is nearly full makes everybody wait.
In between what is waited for grows with u / (1 - u), where u is the utilisation:

    percentile = idle + steepness * u / (1 - u) + rest

What was observed is kept by utilisation, so that a day at full load does not wipe out what is known
of an idle machine; `idle` and `steepness` are the line through that. `rest` is what is observed now
and the line does not explain.
"""

import math
from collections import deque
from dataclasses import dataclass

USABLE = 0.97
"""Utilisation at which a resource counts as full: the rest is for refusing those who call."""

FULL = 0.94
"""Utilisation from which no more is learned: a queue that cannot end tells how long it has been so,
not how long one waits."""

CALM = 0.5
"""Utilisation up to which nothing is blamed on load: neither what the line does not explain, nor
that the budget is not held."""

LONGEST = 10.0
"""Seconds that are predicted at most; with a full resource one waits without end."""

STEEPNESS = 0.02, 0.003, 0.5
"""Seconds of waiting per u / (1 - u): expected, least, most. The waiting time of an M/D/1 queue
is half a service time there on average, and about 1.5 at the 95th percentile: these are
service times of 13, 2 and 330 ms."""

TRUST = 1.0
"""Weight of the expected steepness: an observation of a half-busy machine beside many idle ones."""

WIDTH = 0.05
"""Utilisation between two places at which observations are kept."""

NEWEST, KNOWN = 0.2, 30.0
"""Weight of an observation beside those at its place, and the weight that a place has at most."""

FORGET = 1800.0
"""Seconds after which an observation counts half."""

EVERY = 1.0
"""Seconds between two observations."""

WINDOW = 10.0
"""Seconds of answers that the percentile is taken of; longer, if they are few."""

FEW, ENOUGH, STALE = 5, 20, 30.0
"""Answers that a percentile needs to be one, and to be relied on; seconds that one counts."""


def growth(utilisation: float) -> float:
    """Return u / (1 - u), where 1 is a usable resource that is full."""
    used = min(utilisation / USABLE, 0.9999)
    return used / (1 - used)


@dataclass(slots=True)
class Place:
    """What was observed at about one utilisation.

    Attributes:
        times: u / (1 - u) there.
        seconds: The percentile.
        weight: How much of it was observed lately.
    """

    times: float
    seconds: float
    weight: float = 0.0

    def add(self, times: float, seconds: float) -> None:
        """Take one more observation."""
        part = max(NEWEST, 1 / (1 + self.weight))
        self.times += part * (times - self.times)
        self.seconds += part * (seconds - self.seconds)
        self.weight = min(KNOWN, self.weight + 1)


class Curve:
    """What is known of how long callers wait. Times are seconds of one monotonic clock."""

    def __init__(self, percentile: float) -> None:
        """Predict `percentile`, in percent."""
        self.percentile = percentile
        self.idle: float | None = None
        """Percentile without load, in seconds; None before anybody was answered."""
        self.calmest: float | None = None
        """The least that was observed on a calm machine, in seconds; None if it never was calm."""
        self.steepness = STEEPNESS[0]
        self.observed: float | None = None
        """Percentile of the latest answers, in seconds."""
        self.rest = 0.0
        self._answers: deque[tuple[float, float, float]] = deque(maxlen=2000)
        self._new = False
        self._looked_at = -math.inf
        self._places: dict[int, Place] = {}

    def answered(self, total: float, utilisation: float, now: float) -> None:
        """Note that a caller was answered after `total` seconds."""
        self._answers.append((now, total, growth(min(utilisation, FULL))))
        self._new = True

    def predicted(self, utilisation: float) -> float | None:
        """Return the percentile at `utilisation`, in seconds; None if nothing is known."""
        if self.idle is None:
            return None
        if utilisation >= USABLE:
            return LONGEST
        return min(LONGEST, self.idle + self.steepness * growth(utilisation) + self.rest)

    def expected(self, utilisation: float) -> float | None:
        """Return the percentile at `utilisation`, but for what the line does not explain."""
        predicted = self.predicted(utilisation)
        return None if predicted is None else max(0.0, predicted - self.rest)

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
        for place in self._places.values():
            place.weight *= fade
        self._looked_at = now
        answers = self._answers
        while answers and (
            answers[0][0] < now - STALE or (answers[0][0] < now - WINDOW and len(answers) > ENOUGH)
        ):
            answers.popleft()
        if len(answers) < FEW:
            self.observed, self.rest = None, 0.0
            return
        ordered = sorted(total for _, total, _ in answers)
        self.observed = ordered[math.ceil(len(ordered) * self.percentile / 100) - 1]
        times = sum(times for *_, times in answers) / len(answers)
        if self._new:
            self._new = False
            self._fit(times, self.observed)
        rest = self.observed - (self.idle or 0.0) - self.steepness * times
        # A few answers of a calm machine are slow because a caller was, not because of load.
        blamed = times > growth(CALM) and len(ordered) >= ENOUGH
        self.rest = max(0.0, rest) if blamed else 0.0

    def _fit(self, times: float, observed: float) -> None:
        """Take one observation, and lay the line anew."""
        used = times / (1 + times)
        place = self._places.setdefault(int(used / WIDTH), Place(times, observed))
        place.add(times, observed)
        # What is waited for differs from hour to hour in proportion: calm places count more.
        places = [(p, p.weight / (1 + p.times) ** 2) for p in self._places.values()]
        usual, least, most = STEEPNESS
        weight = sum(w for _, w in places)
        x = sum(w * p.times for p, w in places) / weight
        y = sum(w * p.seconds for p, w in places) / weight
        spread = sum(w * (p.times - x) ** 2 for p, w in places)
        both = sum(w * (p.times - x) * (p.seconds - y) for p, w in places)
        self.steepness = min(most, max(least, (both + TRUST * usual) / (spread + TRUST)))
        self.idle = max(0.0, y - self.steepness * x)
        calm = [p.seconds for p in self._places.values() if p.times <= growth(CALM)]
        self.calmest = min(calm, default=None)

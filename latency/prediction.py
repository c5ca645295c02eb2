"""What one more call would do to the round trip, and so whether it can be taken. Pure.

The percentile with one more call follows from the utilisation of the busiest resource with it
(`latency.utilisation`) and from how much longer callers wait the busier that is
(`latency.queueing`). So the answer is there before the call is taken, not once it has spoilt
the others. A machine that was full takes calls again when there is room for a few, and says that
it is not saturated any more when that has lasted.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latency.queueing import CALM, Curve
from latency.utilisation import SETTLED, Utilisation

AIM = 0.9
"""Share of the budget up to which calls are taken: a prediction is met on average only."""

SLACK = 0.05
"""Seconds that load may add where an idle machine does not, or hardly, hold the budget: refusing
calls would not bring it back."""

BLIND = 0.85
"""Utilisation up to which calls are taken while nobody has been answered yet."""

HOLD = 5.0
"""Seconds of room, without a break, that end a saturation."""

MARGIN = 0.03
"""Share of the calls for which there must be room besides the next, while it is saturated."""

WASTE, BUSY = 0.1, 0.7
"""Share of engine time in answers that were dropped, and utilisation, from which making none frees
something."""

NEWEST = 0.02
"""Weight of the latest answer in that share: of some fifty."""

TRIAL, WORSE, AGAIN = 15.0, 1.1, 600.0
"""Seconds after which it is judged whether making none helped; factor by which callers wait longer
if it did not; seconds until it is tried again."""

CALL, LATELY, DOUBT = 120.0, 60.0, 30.0
"""Seconds that a call is expected to last; over which ends are counted; of which ends, as many as
that expects, are counted besides: there may have been none yet."""

BACK = 10.0
"""Refused callers a second who come back at most: each takes 1 to 3 ms of the loop."""

RETRY = 1, 30
"""Whole seconds that a refused caller is told to wait, at least and at most."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one more call would bring.

    Attributes:
        admitted: Whether it can be taken.
        p95: Predicted percentile in seconds, None while nobody has been answered.
        limit: What that may be.
        resource: The busiest one.
        utilisation: Of that, with the call.
        more: How many calls more there is room for.
        retry_after: Whole seconds after which a refused caller may try again, else 0.
    """

    admitted: bool
    p95: float | None
    limit: float
    resource: str
    utilisation: float
    more: int
    retry_after: int


class Predictor:
    """What is known of one machine under load. Times are seconds of one monotonic clock."""

    def __init__(self, budget: float, percentile: float = 95.0) -> None:
        """Hold `budget`, in seconds, at `percentile`, in percent."""
        self.budget = budget
        self.saturated = False
        """Whether a call was refused, and there has not been room for long since."""
        self.sheds = False
        """Whether no answers are made early any more, of which many are dropped: shed before calls
        are refused. Not for long where callers wait longer for it."""
        self.utilisation = Utilisation()
        self.curve = Curve(percentile)
        self._spent = self._wasted = 0.0
        self._ended: deque[float] = deque(maxlen=1000)
        self._told: deque[float] = deque(maxlen=1000)
        self._room_since: float | None = None
        self._shed_at = 0.0
        self._shed_again = -math.inf
        self._before: float | None = None
        self._began: float | None = None

    def measured(self, shares: Mapping[str, float], late: float, calls: int, now: float) -> None:
        """Take how busy each resource was; see `Utilisation.measured`. Some times a second."""
        self._began = now if self._began is None else self._began
        self.utilisation.measured(shares, late, calls, now)
        self.curve.look(now)
        self._settle(calls, now)
        self._shed(calls, now)

    def answered(self, total: float, now: float) -> None:
        """Note that a caller was answered after `total` seconds."""
        self.curve.answered(total, self.utilisation.busiest(self.utilisation.calls)[1], now)

    def worked(self, seconds: Mapping[str, float], wasted: bool) -> None:
        """Note each engine's time for one answer, and whether that answer was dropped."""
        spent = sum(seconds.values())
        self._spent += NEWEST * (spent - self._spent)
        self._wasted += NEWEST * (spent * wasted - self._wasted)
        if not wasted:  # one that was broken off does not tell how long it takes
            self.utilisation.worked(seconds)

    def ended(self, now: float) -> None:
        """Note that a call has ended."""
        self._ended.append(now)

    def decide(self, calls: int, now: float) -> Forecast:
        """Say whether one more call can be taken while `calls` go on."""
        forecast = self.forecast(calls, now)
        if not forecast.admitted:
            self.saturated, self._room_since = True, None
            self._told.append(now + forecast.retry_after)
        return forecast

    def forecast(self, calls: int, now: float) -> Forecast:
        """Say what `decide` would, and change nothing."""
        needed = 1 + (margin(calls) if self.saturated else 0)
        resource, busy = self.utilisation.busiest(calls + needed)
        more = self._room(calls)
        admitted = more >= needed or calls == 0  # a machine never refuses its only caller
        return Forecast(
            admitted=admitted,
            p95=self.curve.predicted(busy),
            limit=self.limit,
            resource=resource,
            utilisation=busy,
            more=more,
            retry_after=0 if admitted else self._retry_after(needed - more, calls, now),
        )

    @property
    def limit(self) -> float:
        """Seconds that the predicted percentile may be."""
        return max(AIM * self.budget, (self.curve.calmest or 0.0) + SLACK)

    def describe(self, calls: int, now: float) -> dict[str, Any]:
        """Return all of it, for a page: seconds, shares, whole calls."""
        forecast, resources = self.forecast(calls, now), self.utilisation.resources
        seconds = {
            "predicted_p95": forecast.p95,
            "observed_p95": self.curve.observed,
            "idle_p95": self.curve.idle,
            "limit": forecast.limit,
            "steepness": self.curve.steepness,
            "rest": self.curve.rest,
        }
        return {
            "calls": calls,
            "more": forecast.more,
            "saturated": self.saturated,
            "sheds_speculation": self.sheds,
            "resource": forecast.resource,
            "utilisation": {name: round(one.utilisation, 3) for name, one in resources.items()},
            "cost": {name: round(one.cost, 4) for name, one in resources.items()},
            **{name: None if s is None else round(s, 4) for name, s in seconds.items()},
        }

    def _room(self, calls: int) -> int:
        """Return how many calls more there is room for."""
        # Up to `CALM` callers wait for something else than the machine.
        most = max(CALM, self.curve.most(self.limit))
        return self.utilisation.room(BLIND if self.curve.idle is None else most, calls)

    def _settle(self, calls: int, now: float) -> None:
        """End a saturation once there has been room for long, or nobody is there."""
        if not self.saturated:
            return
        if calls and self._room(calls) <= margin(calls):
            self._room_since = None
            return
        if self._room_since is None:
            self._room_since = now
        if not calls or now - self._room_since >= HOLD:
            self.saturated, self._room_since = False, None
            self._told.clear()

    def _shed(self, calls: int, now: float) -> None:
        """Begin or end to do without answers that may be in vain."""
        near, room = 2 * (1 + margin(calls)), self._room(calls)
        seen, before, used = self.curve.observed, self._before, self.utilisation.busiest(calls)[1]
        if not self.sheds:
            wasteful = self._wasted > WASTE * self._spent and now >= self._shed_again
            full = calls > 0 and used > BUSY and not self.utilisation.assumed(calls)
            if wasteful and full and room <= near:
                self.sheds, self._shed_at, self._before = True, now, self.curve.expected(used)
        elif room > 2 * near or not calls:
            self.sheds, self._shed_again = False, now + TRIAL
        elif seen is not None and before is not None and seen > WORSE * before:
            # Most were not in vain, and now their callers wait for them.
            if now - self._shed_at > TRIAL or seen > self.limit:
                self.sheds, self._shed_again = False, now + AGAIN
        elif now - self._shed_at > TRIAL:
            self._before = None  # it has helped

    def _retry_after(self, missing: int, calls: int, now: float) -> int:
        """Return in how many seconds `missing` calls will have ended, and one for all told before.

        So those who were refused come back one after the other.
        """
        while self._told and self._told[0] <= now:
            self._told.popleft()
        if self.utilisation.assumed(calls):  # soon it is known what they really cost
            return min(RETRY[1], math.ceil(SETTLED / 2 + len(self._told) / BACK))
        ends = sum(at > now - LATELY for at in self._ended)
        seconds = min(LATELY, now - self._began) if self._began is not None else 0.0
        rate = (ends + DOUBT * max(1, calls) / CALL) / (seconds + DOUBT)
        wait = math.ceil((missing + len(self._told)) / rate)
        return min(RETRY[1], max(RETRY[0], wait))


def margin(calls: int) -> int:
    """Return for how many calls there must be room besides the next, while saturated."""
    return max(1, math.ceil(MARGIN * calls))

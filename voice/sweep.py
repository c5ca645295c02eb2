"""The search for the most calls that pass: a ramp that finds the region, then halving. Pure.

The ramp adds calls to those that are going on, without a pause, and watches what callers meet:
one pass from one call to the number that is too many. What it sees is coloured by the calls
that are just being set up and by turns that began under less load, so its two ends are only
where the search begins: every number that is reported has passed a run of its own.
"""

import math
from dataclasses import dataclass, field

from voice.capacity import Goal, Level, Tally, Used, level

FAST, SLOW = 0.5, 0.2
"""Share by which calls grow in one window of the ramp: far from any limit, and near one."""

NEAR = 0.5
"""Part of the way from one call's percentile to the budget from which the limit is near."""

BUSY = 0.6
"""Share of the server's cores from which the limit is near."""

BEYOND = 0.25
"""Share by which the next number is larger while none has failed."""

FINE = 0.05
"""Share of the answer to which it is found."""


@dataclass(slots=True)
class Ramp:
    """Calls that grow while they are watched, window by window.

    Attributes:
        goal: What they must hold.
        alone: What one call met.
        most: Calls at which the ramp ends.
        calls: Those that shall go on now.
        passed: The most with which a window went well.
        failed: Those with which one did not, None if all went well.
        levels: What every window gave.
    """

    goal: Goal
    alone: Level
    most: int
    calls: int = 1
    passed: int = 1
    failed: int | None = None
    levels: list[Level] = field(default_factory=list)
    _window: Tally = field(default_factory=Tally)
    _before: int = 1

    def grow(self) -> int | None:
        """Return how many calls to add over the next window, or None when the ramp is over."""
        if self.failed is not None or self.calls >= self.most:
            return None
        more = min(max(1, round(self.calls * self.growth())), self.most - self.calls)
        self._before, self._window = self.calls, Tally()
        self.calls += more
        return more

    def growth(self) -> float:
        """Return the share by which calls grow next."""
        last = self.levels[-1] if self.levels else self.alone
        start = self.alone.tail or 0.0
        near = (last.tail or 0.0) > start + NEAR * (self.goal.budget - start)
        busy = last.used is not None and last.used.share > BUSY
        return SLOW if near or busy else FAST

    def receive(self, tally: Tally) -> bool:
        """Take what callers met since; return whether it is enough to end the window, and all."""
        self._window.add(tally)
        return self._over(self.calls)

    def _over(self, turns: int) -> bool:
        window = self._window
        return bool(window.refusals) or window.failing(self.goal, turns, self.calls)

    def close(self, going: int, seconds: float, used: Used | None) -> Level:
        """End the window with `going` calls; return what it gave."""
        window = self._window
        if self._over(max(window.turns, self.calls)):
            self.failed, self.calls = self.calls, going
        else:
            self.calls = self.passed = going
        middle = round((self._before + going) / 2)
        self.levels.append(level(window, self.goal, middle, seconds, used, steady=False))
        if window.refusals:
            self.passed = going  # they are served, so far
        return self.levels[-1]

    def windows_left(self) -> int:
        """Return about how many windows are still to come."""
        if self.failed is not None or self.calls >= self.most:
            return 0
        last = self.levels[-1] if self.levels else self.alone
        limit = float(self.most)
        if last.used is not None and last.used.share > 0.02:
            limit = min(limit, 1.5 * last.calls / last.used.share)  # a busy server does with less
        slow_from = min(limit, BUSY * limit)
        fast = math.log(max(1.0, slow_from / self.calls)) / math.log(1 + FAST)
        slow = math.log(max(1.0, limit / max(self.calls, slow_from))) / math.log(1 + SLOW)
        return math.ceil(fast + slow)


@dataclass(slots=True)
class Sweep:
    """What is known of how many calls pass, each number in a run of its own.

    Attributes:
        first: The number to begin with: the ramp's last good one.
        beyond: One that probably fails, None if none is known.
        most: The largest number to try.
        passed: The most calls that passed.
        failed: The fewest that did not, None if none has failed.
    """

    first: int
    beyond: int | None
    most: int
    passed: int = 0
    failed: int | None = None

    def next(self) -> int | None:
        """Return how many calls to try next, or None when the limit is found."""
        if self.failed is None:
            return self._higher()
        if self.failed - self.passed <= self.step:
            return None
        # Nothing near the limit has passed yet, maybe: then not far below what failed.
        return max((self.passed + self.failed) // 2, math.floor(self.failed / (1 + BEYOND)))

    def _higher(self) -> int | None:
        if self.passed < self.first:
            return min(self.first, self.most)
        if self.passed >= self.most:
            return None
        higher = math.ceil(self.passed * (1 + BEYOND))
        if self.beyond is not None and self.beyond > self.passed:
            higher = min(higher, self.beyond)
        return min(higher, self.most)

    @property
    def step(self) -> int:
        """Calls to which the limit is found."""
        return max(1, round(FINE * self.passed))

    def record(self, count: int, passed: bool) -> None:
        """Take one result."""
        if passed:
            self.passed = max(self.passed, count)
        else:
            self.failed = count if self.failed is None else min(self.failed, count)

    def runs_left(self) -> int:
        """Return about how many runs are still to come."""
        if self.failed is None:
            low = max(self.passed, self.first)
            high = self.beyond or math.ceil(low * (1 + BEYOND))
            sure = (self.passed < self.first) + (low < self.most)
        else:
            high, sure = self.failed, 0
            low = max(self.passed, math.floor(high / (1 + BEYOND)))
        step = max(1, round(FINE * low))
        return sure + max(0, math.ceil(math.log2(max(1.0, (high - low) / step))))

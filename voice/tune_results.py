"""What is known of the configurations that `voice tune` has measured, and which is best. Pure.

Every run is noisy. Differences within the noise of repeated runs do not count: of two that are
alike, the one nearer to the start is the better one.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from latency.trace import percentile
from voice.tune_runs import Goal, Ladder, Measured, Outcome, Point, Value

SURE = 3.0
"""Standard errors by which two must differ to differ at all: with 2, one in twenty knobs that do
nothing would seem to help, and some twenty configurations are tried."""

LEAST_P = 0.02
"""Seconds by which percentiles must differ, however alike repeated runs are: a frame, in which a
caller's last sample may lie anywhere."""

LEAST_COST = 0.05
"""Share by which costs must differ, however alike repeated runs are: the two runs of the start may
be alike by chance. Beside other work, CPU time moves by 10 to 20 % (docs/density.md)."""


class Results:
    """All runs of a search.

    Attributes:
        goal: What is wanted.
        ladders: The knobs.
        start: The configured point.
        base: The point around which knobs are looked at one at a time.
        measured: What is known, by configuration and number of calls.
    """

    def __init__(self, goal: Goal, ladders: Sequence[Ladder]) -> None:
        """Begin with nothing known."""
        self.goal, self.ladders = goal, ladders
        self.start: Point = tuple(ladder.start for ladder in ladders)
        self.base = self.start
        self.measured: dict[tuple[Point, int], Measured] = {}

    def of(self, point: Point, calls: int | None = None) -> Measured:
        """Return what is known of a configuration, by default with the calls asked for."""
        key = point, calls or self.goal.calls
        return self.measured.setdefault(key, Measured(*key))

    def known(self) -> list[Measured]:
        """Return every configuration that has a result with the calls asked for."""
        return [m for m in self.measured.values() if m.calls == self.goal.calls and m.good]

    @property
    def best(self) -> Measured:
        """The best so far; the start while nothing has a result."""
        return self.pick(self.known()) if self.known() else self.of(self.start)

    def held(self, point: Point) -> int:
        """Return the most calls with which a configuration held the budget, 0 for none."""
        levels = (m for (at, _), m in self.measured.items() if at == point)
        return max((m.calls for m in levels if m.good and m.holds(self.goal)), default=0)

    def held_shown(self, point: Point) -> str:
        """Return the same in words: where no larger number failed, it may hold more."""
        held = self.held(point)
        larger = [m for (at, n), m in self.measured.items() if at == point and n > held and m.runs]
        if larger:
            return str(held) if held else "none"
        return f"{held} or more"

    def moves(self, point: Point) -> int:
        """Return how many steps a point is away from the start."""
        return sum(abs(a - b) for a, b in zip(point, self.start, strict=True))

    def values(self, point: Point) -> dict[str, Value]:
        """Return the knobs' values at a point."""
        return {
            ladder.name: ladder.values[place]
            for ladder, place in zip(self.ladders, point, strict=True)
        }

    def differing(self, point: Point) -> list[str]:
        """Return the knobs that a point has elsewhere than the start."""
        places = zip(self.ladders, point, self.start, strict=True)
        return [ladder.name for ladder, at, begin in places if at != begin]

    def noise_of(self, what: Callable[[Outcome], float]) -> float:
        """Return the standard deviation of `what` between runs of the same, over all of them."""
        squares, freedom = 0.0, 0
        for entry in self.known():
            values = [what(run) for run in entry.good if run.gaps]
            if len(values) > 1:
                mean = sum(values) / len(values)
                squares += sum((value - mean) ** 2 for value in values)
                freedom += len(values) - 1
        return math.sqrt(squares / freedom) if freedom else 0.0

    def noise_p(self, one: Measured, other: Measured) -> float:
        """Return by how much the percentiles of two must differ to differ at all, in seconds."""
        between = self.noise_of(lambda run: percentile(run.gaps, self.goal.percentile))
        return max(LEAST_P, SURE * between * _error(one, other))

    def noise_cost(self, one: Measured, other: Measured) -> float:
        """Return the same for costs, in core-seconds a call-minute."""
        between = self.noise_of(lambda run: run.cost)
        return max(LEAST_COST * min(one.cost, other.cost), SURE * between * _error(one, other))

    def pick(self, among: Iterable[Measured]) -> Measured:
        """Return the best: it holds, is cheap, is quick, and is near the start, in this order."""
        known = list(among)
        p, goal = self.goal.percentile, self.goal
        holding = [m for m in known if m.holds(goal)]
        if not holding:
            nearest = min(known, key=lambda m: m.miss(goal))
            if math.isinf(nearest.miss(goal)):
                return min(known, key=lambda m: self.moves(m.point))
            alike = [
                m
                for m in known
                if m.miss(goal) <= nearest.miss(goal) + self.noise_p(m, nearest) / goal.budget
            ]
            return min(alike, key=lambda m: self.moves(m.point))
        cheap = min(holding, key=lambda m: m.cost)
        holding = [m for m in holding if m.cost <= cheap.cost + self.noise_cost(m, cheap)]
        quick = min(holding, key=lambda m: m.at(p))
        holding = [m for m in holding if m.at(p) <= quick.at(p) + self.noise_p(m, quick)]
        return min(holding, key=lambda m: (self.moves(m.point), m.cost))

    def moved(self, point: Point, place: int, to: int) -> Point | None:
        """Return a point with one knob elsewhere, None if that is off its ladder."""
        if not 0 <= to < len(self.ladders[place].values):
            return None
        return (*point[:place], to, *point[place + 1 :])

    def alone(self, place: int) -> list[Measured]:
        """Return what is known of one knob's values with all others at the base, in order."""
        points = (self.moved(self.base, place, to) for to in range(len(self.ladders[place].values)))
        return [self.of(point) for point in points if point is not None and self.of(point).runs]

    def worse(self, entry: Measured, before: Measured) -> bool:
        """Tell whether a step made it clearly worse, so that the next one need not be tried."""
        if not entry.good:
            return True
        if not before.good:
            return False
        if not entry.holds(self.goal):
            near = self.noise_p(entry, before) / self.goal.budget + SURE * _chance(entry, before)
            worse = entry.miss(self.goal) > before.miss(self.goal) + near
            return before.holds(self.goal) or worse
        if not before.holds(self.goal):
            return False
        return entry.cost > before.cost + self.noise_cost(entry, before)


def _error(one: Measured, other: Measured) -> float:
    """Return the standard error of a difference, in standard deviations of a run."""
    return math.sqrt(1 / max(1, len(one.good)) + 1 / max(1, len(other.good)))


def _chance(one: Measured, other: Measured) -> float:
    """Return the standard error of the difference between two shares of bad turns."""
    share = (one.bad + other.bad) / max(1, one.turns + other.turns)
    return math.sqrt(share * (1 - share) * (1 / max(1, one.turns) + 1 / max(1, other.turns)))

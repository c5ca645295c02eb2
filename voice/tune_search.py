"""The search of `voice tune`: which configuration to measure next, and which one is best. Pure.

Runs are what is dear, half a minute each, and every run is noisy. So the search looks at one knob
at a time first, outwards from the configured point, or, where that breaks the budget, from the
first point found that does not; puts together what helped; measures the finalists again for
longer, and the best of them until it has been confirmed; and only then asks how many calls the
best and the start hold. Differences within the noise of repeated runs do not
count: of two that are alike, the one nearer to the start wins.
"""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from latency.trace import percentile

Value = float | int | str | bool

Point = tuple[int, ...]
"""A configuration: for each ladder the place of its value."""

Phase = Literal["start", "mend", "screen", "combine", "confirm", "ramp"]

UNTIL: dict[Phase, float] = {
    "start": 1.0,
    "mend": 0.5,
    "screen": 0.5,
    "combine": 0.6,
    "confirm": 0.8,
    "ramp": 1.0,
}
"""Share of the time by which each phase is over; what one leaves is the next one's."""

FINALISTS = 3
"""Configurations that are measured again, for longer, beside the start."""

IDLE_STEPS = 2
"""Steps after which a knob waits that did nothing for a start which breaks the budget."""

LONG = 2
"""How many times the turns of a short run a long one has."""

CONFIRMED = 2
"""Long runs that the winner needs."""

LEAST_P = 0.02
"""Seconds by which percentiles must differ, however alike repeated runs are: a frame, in which a
caller's last sample may lie anywhere."""

LEAST_COST = 0.05
"""Share by which costs must differ, however alike repeated runs are: the two runs of the start may
be alike by chance. Beside other work, CPU time moves by 10 to 20 % (docs/density.md)."""

BAD = 0.02
"""Share of turns that may go wrong, as in `voice bench`."""

SURE = 3.0
"""Standard errors by which two must differ to differ at all: with 2, one in twenty knobs that do
nothing would seem to help, and some twenty configurations are tried."""

LEVELS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Numbers of calls that are tried in the end, in shares of those asked for, until one fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is wanted.

    Attributes:
        calls: Calls at once.
        budget: Seconds of voice-to-voice that are not to be exceeded.
        percentile: By which percentile of the turns.
        seconds: Time that the search may take.
    """

    calls: int
    budget: float
    percentile: float = 95.0
    seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class Ladder:
    """A knob and the values it may have, safest first, and the place of the configured one."""

    name: str
    values: tuple[Value, ...]
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What to measure next.

    Attributes:
        point: The configuration.
        calls: Calls at once.
        long: Whether for longer than usual.
        phase: What for.
    """

    point: Point
    calls: int
    long: bool = False
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run gave.

    Attributes:
        gaps: Voice-to-voice of the turns that went well, in seconds.
        turns: All turns that were measured.
        bad: Those of them that went wrong in any way.
        cut_ins: Those in which the agent spoke before the caller was done.
        underruns: Those whose reply had a gap.
        lost: Calls that were lost.
        cost: Core-seconds of the server for each minute of each call.
        memory: Megabytes of the server for each call.
        late: Seconds by which the callers' own frames were late, at most: they had no core.
        took: Seconds that the run took, the server's start included.
        failed: Why there is no result, "" if there is one.
    """

    gaps: tuple[float, ...] = ()
    turns: int = 0
    bad: int = 0
    cut_ins: int = 0
    underruns: int = 0
    lost: int = 0
    cost: float = 0.0
    memory: float = 0.0
    late: float = 0.0
    took: float = 0.0
    failed: str = ""


@dataclass(slots=True)
class Measured:
    """All runs of one configuration with one number of calls.

    Attributes:
        point: The configuration.
        calls: Calls at once.
        runs: In order.
        long: How many of them were long ones, or should have been.
    """

    point: Point
    calls: int
    runs: list[Outcome] = field(default_factory=list)
    long: int = 0

    @property
    def good(self) -> list[Outcome]:
        """The runs that gave a result."""
        return [run for run in self.runs if not run.failed]

    @property
    def failed(self) -> str:
        """Why there is no result, "" if there is one."""
        return "" if self.good or not self.runs else self.runs[-1].failed

    @property
    def turns(self) -> int:
        """Turns of all runs."""
        return sum(run.turns for run in self.good)

    @property
    def bad(self) -> int:
        """Those that went wrong."""
        return sum(run.bad for run in self.good)

    @property
    def cut_ins(self) -> int:
        """Those in which the agent cut in."""
        return sum(run.cut_ins for run in self.good)

    @property
    def underruns(self) -> int:
        """Those whose reply had a gap."""
        return sum(run.underruns for run in self.good)

    @property
    def lost(self) -> int:
        """Calls that were lost."""
        return sum(run.lost for run in self.good)

    @property
    def cost(self) -> float:
        """Core-seconds a call-minute, over all runs by their turns; inf if none gave a result."""
        if not self.turns:
            return math.inf
        return sum(run.cost * run.turns for run in self.good) / self.turns

    @property
    def memory(self) -> float:
        """Megabytes a call, of the run that had most."""
        return max((run.memory for run in self.good), default=0.0)

    def at(self, percent: float) -> float:
        """Return a percentile of all turns that went well; inf if none did."""
        gaps = [gap for run in self.good for gap in run.gaps]
        return percentile(gaps, percent) if gaps else math.inf

    def span(self, percent: float) -> tuple[float, float]:
        """Return where that percentile of the true distribution lies with 95 % confidence.

        By the ranks around it, which asks nothing of the distribution's form.
        """
        gaps = sorted(gap for run in self.good for gap in run.gaps)
        if not gaps:
            return math.inf, math.inf
        share, count = percent / 100, len(gaps)
        reach = 1.96 * math.sqrt(count * share * (1 - share))
        low, high = math.floor(count * share - reach), math.ceil(count * share + reach)
        return gaps[min(max(low, 0), count - 1)], gaps[min(max(high, 0), count - 1)]

    def holds(self, goal: Goal) -> bool:
        """Whether the budget is held and nothing else is amiss."""
        return not self.faults(goal)

    def faults(self, goal: Goal) -> list[str]:
        """Return what keeps this from holding the budget, in words."""
        if not self.good:
            return ["failed"] if self.runs else ["not measured"]
        many = self.bad > max(1.0, BAD * self.turns)
        wrong = {
            "over budget": self.at(goal.percentile) > goal.budget,
            "cuts in": many and 2 * self.cut_ins > self.bad,
            "bad turns": many and 2 * self.cut_ins <= self.bad,
            "underruns": self.underruns > (0 if self.long else 1),
            "lost calls": self.lost > 0,
        }
        return [name for name, is_so in wrong.items() if is_so]

    def miss(self, goal: Goal) -> float:
        """Return how far this is from holding, a number without a unit; inf without a result."""
        at = self.at(goal.percentile)
        if math.isinf(at) or not self.turns:
            return math.inf
        over = max(0.0, at / goal.budget - 1)
        bad = max(0.0, (self.bad + self.underruns) / self.turns - BAD)
        return over + bad + self.lost / self.calls


class Search:
    """Proposes runs and takes their results; call `next` and `record` by turns."""

    def __init__(
        self,
        goal: Goal,
        ladders: Sequence[Ladder],
        valid: Callable[[Point], bool] = lambda _: True,
        first_run: float = 30.0,
    ) -> None:
        """Search on `ladders`; only a `valid` point is proposed.

        `first_run` is about how many seconds a run takes, as long as none has been made.
        """
        self.goal, self.ladders, self.valid = goal, ladders, valid
        self.start: Point = tuple(ladder.start for ladder in ladders)
        self.base = self.start
        """The point around which the knobs are looked at one at a time."""
        self.measured: dict[tuple[Point, int], Measured] = {}
        self.trials: list[tuple[Trial, Outcome]] = []
        self.spent = 0.0
        """Seconds that the runs took."""
        self._first_run = first_run
        self._pending: Trial | None = None
        self._plan = self._steps()

    # What the shell does.

    def expect(self, seconds: float) -> None:
        """Take about how many seconds a run takes, for as long as none has been made."""
        self._first_run = seconds

    def next(self) -> Trial | None:
        """Return what to measure, None when the search is over."""
        self._pending = next(self._plan, None)
        return self._pending

    def record(self, outcome: Outcome) -> None:
        """Take the result of what `next` returned."""
        trial = self._pending
        assert trial is not None, "record follows next"
        entry = self.of(trial.point, trial.calls)
        entry.runs.append(outcome)
        entry.long += trial.long
        self.trials.append((trial, outcome))
        self.spent += outcome.took

    # What is known.

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

    # The plan.

    def _steps(self) -> Generator[Trial, None, None]:
        yield from self._begin()
        yield from self._mend()
        yield from self._screen()
        yield from self._combine()
        yield from self._descend()
        yield from self._finalists()
        yield from self._take_back()
        yield from self._confirm()
        yield from self._ramp()

    def _begin(self) -> Generator[Trial, None, None]:
        """Measure the start twice: the difference is the noise."""
        for _ in range(2):
            yield Trial(point=self.start, calls=self.goal.calls, phase="start")

    def _mend(self) -> Generator[Trial, None, None]:
        """Where the start breaks the budget, step away from what it breaks until something holds.

        Ladders go from safe to quick: to the quick end if it is too slow, else to the safe one.
        """
        start = self.of(self.start)
        if not start.good or start.holds(self.goal):
            return
        way = 1 if "over budget" in start.faults(self.goal) else -1
        ways = [(place, way) for place in range(len(self.ladders))]
        yield from self._walk(ways, "mend")
        if self.best.holds(self.goal):
            self.base = self.best.point

    def _screen(self) -> Generator[Trial, None, None]:
        """Step each knob both ways from the base until it gets worse."""
        ways = [(place, way) for place in range(len(self.ladders)) for way in (1, -1)]
        yield from self._walk(ways, "screen")

    def _walk(self, ways: list[tuple[int, int]], phase: Phase) -> Generator[Trial, None, None]:
        """Step from the base along each of `ways`, a knob and a direction: all by one step first.

        A way ends with its ladder, or when a step made it clearly worse. Mending, all is over when
        something holds, and a way on which some steps did nothing waits for the others.
        """
        going, waiting = dict.fromkeys(ways, 0), dict[tuple[int, int], int]()
        patience = IDLE_STEPS if phase == "mend" else math.inf
        while going or waiting:
            if not going:
                going, waiting, patience = waiting, {}, math.inf
            for (place, way), distance in list(going.items()):
                going[place, way] = distance = distance + 1
                to = self.base[place] + way * distance
                point = self._moved(self.base, place, to)
                if point is None:
                    if not 0 <= to < self._length(place):
                        del going[place, way]
                    continue  # behind a point that is not valid there may be some that are
                if not (yield from self._run(point, phase)):
                    return
                entry = self.of(point)
                if phase == "mend" and entry.holds(self.goal):
                    return
                before = self._moved(self.base, place, to - way) or self.base
                if self._worse(entry, self.of(before)):
                    del going[place, way]
                elif distance >= patience and not self._worse(self.of(self.base), entry):
                    waiting[place, way] = going.pop((place, way))

    def _combine(self) -> Generator[Trial, None, None]:
        """Put together what helped each by itself, the greatest help first."""
        bests = [self._best_alone(place) for place in range(len(self.ladders))]
        helped = [m for m in bests if m.point != self.base]
        current = self.of(self.base)
        while helped:
            step = self.pick(helped)
            helped.remove(step)
            joined = self._joined(current.point, step.point)
            if not self.valid(joined):
                continue
            if not (yield from self._run(joined, "combine")):
                return
            current = self._better(self.of(joined), current)

    def _descend(self) -> Generator[Trial, None, None]:
        """Step each knob by one from the best, as long as it gets better."""
        tried: set[Point] = set()
        while (best := self.best).good and best.point not in tried:
            tried.add(best.point)
            for place in range(len(self.ladders)):
                for way in (1, -1):
                    point = self._moved(best.point, place, best.point[place] + way)
                    if point is None or self.of(point).runs:
                        continue
                    if not (yield from self._run(point, "combine")):
                        return

    def _finalists(self) -> Generator[Trial, None, None]:
        """Measure the best few and the start for longer."""
        left, finalists = self.known(), list[Measured]()
        while left and len(finalists) < FINALISTS:
            finalists.append(self.pick(left))
            left.remove(finalists[-1])
        for entry in [*finalists, self.of(self.start)]:
            if not entry.long and not (yield from self._run(entry.point, "confirm", long=True)):
                return

    def _take_back(self) -> Generator[Trial, None, None]:
        """Measure the best without each of its moves: one that only seemed to help is undone.

        Of many that were tried by noise alone, some seem to help.
        """
        tried: set[Point] = set()
        while (best := self.best).good and best.point not in tried:
            tried.add(best.point)
            for place, begin in enumerate(self.start):
                point = self._moved(best.point, place, begin)
                if point is None or point == best.point or self.of(point).long:
                    continue
                if not (yield from self._run(point, "confirm", long=True)):
                    return

    def _confirm(self) -> Generator[Trial, None, None]:
        """Measure the best again until it has been confirmed."""
        while (best := self.best).good and best.long < CONFIRMED:
            if not (yield from self._run(best.point, "confirm", long=True, until=0.88)):
                return

    def _ramp(self) -> Generator[Trial, None, None]:
        """Find how many calls the best holds, then what the start does with as many."""
        best, asked = self.best.point, self.goal.calls
        passed, failed = 0, 0
        for count in sorted({max(1, round(asked * level)) for level in LEVELS}):
            if not (yield from self._run(best, "ramp", count, until=0.9)):
                break
            if not self.of(best, count).holds(self.goal):
                failed = count
                break
            passed = count
        while failed - passed > max(1, asked // 4):
            count = (passed + failed) // 2
            if not (yield from self._run(best, "ramp", count, until=0.9)):
                break
            if self.of(best, count).holds(self.goal):
                passed = count
            else:
                failed = count
        if best == self.start:
            return
        for count in sorted(calls for at, calls in list(self.measured) if at == best):
            if not self.of(self.start, count).runs and not (
                yield from self._run(self.start, "ramp", count)
            ):
                return

    # Its parts.

    def _run(
        self,
        point: Point,
        phase: Phase,
        calls: int | None = None,
        *,
        long: bool = False,
        until: float = 0.0,
    ) -> Generator[Trial, None, bool]:
        """Ask for one run unless it is known or there is no time; return whether there was."""
        calls = calls or self.goal.calls
        if self.of(point, calls).runs and not long:
            return True
        limit = (until or UNTIL[phase]) * self.goal.seconds
        if self.spent + self.expected(long) > limit:
            return False
        yield Trial(point=point, calls=calls, long=long, phase=phase)
        return True

    def expected(self, long: bool = False) -> float:
        """Return how many seconds a run will take, by those that were made."""
        shorts = [o.took for t, o in self.trials if not t.long and not o.failed]
        longs = [o.took for t, o in self.trials if t.long and not o.failed]
        short = sum(shorts) / len(shorts) if shorts else self._first_run
        if not long:
            return short
        return sum(longs) / len(longs) if longs else LONG * short

    def _length(self, place: int) -> int:
        return len(self.ladders[place].values)

    def _moved(self, point: Point, place: int, to: int) -> Point | None:
        """Return a point with one knob elsewhere, None if that is off its ladder or not valid."""
        if not 0 <= to < self._length(place):
            return None
        moved = (*point[:place], to, *point[place + 1 :])
        return moved if self.valid(moved) else None

    def alone(self, place: int) -> list[Measured]:
        """Return what is known of one knob's values with all others at the base, in order."""
        points = (self._moved(self.base, place, to) for to in range(self._length(place)))
        return [self.of(point) for point in points if point is not None and self.of(point).runs]

    def _best_alone(self, place: int) -> Measured:
        good = [entry for entry in self.alone(place) if entry.good]
        return self.pick(good) if good else self.of(self.base)

    def _joined(self, one: Point, other: Point) -> Point:
        """Return `one` with what `other` has changed."""
        places = zip(one, other, self.base, strict=True)
        return tuple(b if b != begin else a for a, b, begin in places)

    def _better(self, one: Measured, other: Measured) -> Measured:
        return self.pick([entry for entry in (one, other) if entry.good] or [other])

    def _worse(self, entry: Measured, before: Measured) -> bool:
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

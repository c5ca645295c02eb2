"""The search of `voice tune`: which configuration to measure next, and which one is best. Pure.

Runs are what is dear, half a minute each, and every run is noisy. So the search looks at one knob
at a time first, outwards from the configured point, or, where that breaks the budget, from the
first point found that does not; puts together what helped; measures the finalists again for
longer, and the best of them until it has been confirmed; and only then asks how many calls the
best and the start hold. Differences within the noise of repeated runs do not
count: of two that are alike, the one nearer to the start wins.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from voice.tune_results import Results
from voice.tune_runs import Goal, Ladder, Measured, Outcome, Point

Phase = Literal["start", "mend", "screen", "combine", "confirm", "ramp"]

UNTIL: dict[Phase, float] = {
    "start": 1.0,
    "mend": 0.45,
    "screen": 0.45,
    "combine": 0.55,
    "confirm": 0.72,
    "ramp": 1.0,
}
"""Share of the time by which each phase is over; what one leaves is the next one's."""

FINALISTS = 3
"""Configurations that are measured again, for longer, beside the start."""

IDLE_STEPS = 2
"""Steps after which a knob waits that did nothing for a start which breaks the budget."""

AGAIN = 1
"""How often a run is made again that other work on the machine disturbed."""

LONG = 2
"""How many times the turns of a short run a long one has."""

CONFIRMED = 2
"""Long runs that the winner needs."""

LEVELS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Numbers of calls that are tried in the end, in shares of those asked for, until one fails."""


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
        self.results, self.valid = Results(goal, ladders), valid
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
        entry = self.results.of(trial.point, trial.calls)
        entry.runs.append(outcome)
        entry.long += trial.long
        self.trials.append((trial, outcome))
        self.spent += outcome.took

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
            yield Trial(point=self.results.start, calls=self.results.goal.calls, phase="start")

    def _mend(self) -> Generator[Trial, None, None]:
        """Where the start breaks the budget, step away from what it breaks until something holds.

        Ladders go from safe to quick: to the quick end if it is too slow, else to the safe one.
        """
        start = self.results.of(self.results.start)
        if not start.good or start.holds(self.results.goal):
            return
        way = 1 if "over budget" in start.faults(self.results.goal) else -1
        ways = [(place, way) for place in range(len(self.results.ladders))]
        yield from self._walk(ways, "mend")
        if self.results.best.holds(self.results.goal):
            self.results.base = self.results.best.point

    def _screen(self) -> Generator[Trial, None, None]:
        """Step each knob both ways from the base until it gets worse."""
        ways = [(place, way) for place in range(len(self.results.ladders)) for way in (1, -1)]
        yield from self._walk(ways, "screen")

    def _walk(self, ways: list[tuple[int, int]], phase: Phase) -> Generator[Trial, None, None]:
        """Step from the base along each of `ways`, a knob and a direction: all by one step first.

        A way ends with its ladder, or when a step made it clearly worse. Mending, all is over when
        something holds, and a way on which some steps did nothing waits for the others.
        """
        going, waiting = dict.fromkeys(ways, 0), dict[tuple[int, int], int]()
        patience = IDLE_STEPS if phase == "mend" else math.inf
        base = self.results.of(self.results.base)
        while going or waiting:
            if not going:
                going, waiting, patience = waiting, {}, math.inf
            for (place, way), distance in list(going.items()):
                going[place, way] = distance = distance + 1
                to = self.results.base[place] + way * distance
                point = self._moved(self.results.base, place, to)
                if point is None:
                    if not 0 <= to < len(self.results.ladders[place].values):
                        del going[place, way]
                    continue  # behind a point that is not valid there may be some that are
                if not (yield from self._run(point, phase)):
                    return
                entry = self.results.of(point)
                if phase == "mend" and entry.holds(self.results.goal):
                    return
                before = self._moved(self.results.base, place, to - way) or self.results.base
                if self.results.worse(entry, self.results.of(before)):
                    del going[place, way]
                elif distance >= patience and not self.results.worse(base, entry):
                    waiting[place, way] = going.pop((place, way))

    def _combine(self) -> Generator[Trial, None, None]:
        """Put together what helped each by itself, the greatest help first."""
        bests = [self._best_alone(place) for place in range(len(self.results.ladders))]
        helped = [m for m in bests if m.point != self.results.base]
        current = self.results.of(self.results.base)
        while helped:
            step = self.results.pick(helped)
            helped.remove(step)
            joined = self._joined(current.point, step.point)
            if not self.valid(joined):
                continue
            if not (yield from self._run(joined, "combine")):
                return
            current = self._better(self.results.of(joined), current)

    def _descend(self) -> Generator[Trial, None, None]:
        """Step each knob by one from the best, as long as it gets better."""
        tried: set[Point] = set()
        while (best := self.results.best).good and best.point not in tried:
            tried.add(best.point)
            for place in range(len(self.results.ladders)):
                for way in (1, -1):
                    point = self._moved(best.point, place, best.point[place] + way)
                    if point is None or self.results.of(point).runs:
                        continue
                    if not (yield from self._run(point, "combine")):
                        return

    def _finalists(self) -> Generator[Trial, None, None]:
        """Measure the best few and the start for longer."""
        left, finalists = self.results.known(), list[Measured]()
        while left and len(finalists) < FINALISTS:
            finalists.append(self.results.pick(left))
            left.remove(finalists[-1])
        for entry in [*finalists, self.results.of(self.results.start)]:
            if not entry.long and not (yield from self._run(entry.point, "confirm", long=True)):
                return

    def _take_back(self) -> Generator[Trial, None, None]:
        """Measure the best without each of its moves: one that only seemed to help is undone.

        Of many that were tried by noise alone, some seem to help.
        """
        tried: set[Point] = set()
        while (best := self.results.best).good and best.point not in tried:
            tried.add(best.point)
            for place, begin in enumerate(self.results.start):
                point = self._moved(best.point, place, begin)
                if point is None or point == best.point or self.results.of(point).long:
                    continue
                if not (yield from self._run(point, "confirm", long=True)):
                    return

    def _confirm(self) -> Generator[Trial, None, None]:
        """Measure the best again until it has been confirmed."""
        while (best := self.results.best).good and best.long < CONFIRMED:
            if not (yield from self._run(best.point, "confirm", long=True, until=0.8)):
                return

    def _ramp(self) -> Generator[Trial, None, None]:
        """Find how many calls the best holds, then what the start does with as many."""
        best, asked = self.results.best.point, self.results.goal.calls
        passed, failed = 0, 0
        for count in sorted({max(1, round(asked * level)) for level in LEVELS}):
            if not (yield from self._run(best, "ramp", count, until=0.97)):
                break
            if not self.results.of(best, count).holds(self.results.goal):
                failed = count
                break
            passed = count
        while failed - passed > max(1, asked // 4):
            count = (passed + failed) // 2
            if not (yield from self._run(best, "ramp", count, until=0.97)):
                break
            if self.results.of(best, count).holds(self.results.goal):
                passed = count
            else:
                failed = count
        if best == self.results.start:
            return
        levels = sorted(
            m.calls for m in self.results.measured.values() if m.point == best and m.runs
        )
        for count in levels:
            if not self.results.of(self.results.start, count).runs and not (
                yield from self._run(self.results.start, "ramp", count)
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
        goal = self.results.goal
        calls = calls or goal.calls
        if self.results.of(point, calls).runs and not long:
            return True
        limit = (until or UNTIL[phase]) * goal.seconds
        for attempt in range(1 + AGAIN):
            if self.spent + self.expected(long) > limit:
                return attempt > 0
            yield Trial(point=point, calls=calls, long=long, phase=phase)
            last = self.trials[-1][1]
            if last.failed or not last.disturbed or self.results.of(point, calls).holds(goal):
                break
        return True

    def expected(self, long: bool = False) -> float:
        """Return how many seconds a run will take, by those that were made."""
        shorts = [o.took for t, o in self.trials if not t.long and not o.failed]
        longs = [o.took for t, o in self.trials if t.long and not o.failed]
        short = sum(shorts) / len(shorts) if shorts else self._first_run
        if not long:
            return short
        return sum(longs) / len(longs) if longs else LONG * short

    def _moved(self, point: Point, place: int, to: int) -> Point | None:
        """Return a point with one knob elsewhere, None if that is off its ladder or not valid."""
        moved = self.results.moved(point, place, to)
        return moved if moved is not None and self.valid(moved) else None

    def _best_alone(self, place: int) -> Measured:
        good = [entry for entry in self.results.alone(place) if entry.good]
        return self.results.pick(good) if good else self.results.of(self.results.base)

    def _joined(self, one: Point, other: Point) -> Point:
        """Return `one` with what `other` has changed."""
        places = zip(one, other, self.results.base, strict=True)
        return tuple(b if b != begin else a for a, b, begin in places)

    def _better(self, one: Measured, other: Measured) -> Measured:
        return self.results.pick([entry for entry in (one, other) if entry.good] or [other])

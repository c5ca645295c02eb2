"""What `voice tune` is asked for, and what its runs gave. Pure."""

import math
from dataclasses import dataclass, field

from latency.trace import percentile
from voice.capacity import BAD

Value = float | int | str | bool

Point = tuple[int, ...]
"""A configuration: for each ladder the place of its value."""

LATE = 0.06
"""Seconds by which callers may send late in a run that counts: as much as a listener holds."""


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

    @property
    def disturbed(self) -> bool:
        """Whether the callers themselves were kept from their work, and so perhaps the server."""
        return self.late > LATE


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
        """The runs that gave a result; those that were disturbed only where there are no others."""
        results = [run for run in self.runs if not run.failed]
        return [run for run in results if not run.disturbed] or results

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

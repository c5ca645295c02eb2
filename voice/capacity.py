"""How many calls a server carries: what is asked of it, what callers met, what that means. Pure.

A number of calls passes when the callers' own percentile of voice-to-voice is within the
budget and hardly a turn went wrong. When it does not, the reason is named, and whether it
is the server's at all: callers who send late measure themselves.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from latency.trace import percentile

BAD = 0.02
"""Share of turns that may be bad."""

CHANCE = 1
"""Bad turns that prove nothing, however few turns there are."""

SLOWER = 0.25
"""Seconds by which the 95th percentile of many calls may be slower than one call's median: the
rule of the comparison with other servers (`Goal.beside`)."""

LATE = 0.02
"""Seconds, one frame, by which the callers' own machine may be late at the goal's percentile
before what they measure counts as theirs."""

SURE = 3
"""Turns that must go wrong before a number of calls is given up early; fewer calls, all of them."""

OTHERS = 0.25
"""Share of the server's cores that others may take before a failure counts as theirs. The kernel's
own work for the server's packets is among them."""

Limit = Literal[
    "",
    "refused",
    "lost",
    "latency",
    "unanswered",
    "underruns",
    "talked over",
    "in part",
    "callers",
    "others",
]
"""What keeps a number of calls from passing: the server's admission, calls that broke off, the
percentile, turns without an answer, replies that ran dry, that came into the caller's speech, that
were too short. Or it is not the server's: the callers could not keep up, others had its cores."""

FAULTS: tuple[Limit, ...] = ("unanswered", "underruns", "talked over", "in part")
"""What can be wrong with a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a number of calls must hold to pass.

    Attributes:
        budget: Seconds that voice-to-voice may take.
        percentile: Of how many turns in a hundred.
        bad: Share of turns that may be bad in another way.
    """

    budget: float = 0.8
    percentile: float = 95.0
    bad: float = BAD

    def __post_init__(self) -> None:
        if not 0.05 <= self.budget <= 30.0:
            raise ValueError(f"budget is {self.budget:g} s; expected 0.05 to 30 s")
        if not 50.0 <= self.percentile <= 99.9:
            raise ValueError(f"percentile is {self.percentile:g}; expected 50 to 99.9")

    @classmethod
    def beside(cls, median: float) -> "Goal":
        """Return the goal of the comparison with other servers: `SLOWER` than one call's median."""
        return cls(budget=median + SLOWER)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that the server did not take.

    Attributes:
        code: Its reason.
        after: Seconds from the call to the answer.
        retry_after: Seconds after which the caller may come back, None if it does not say.
    """

    code: str
    after: float
    retry_after: float | None


@dataclass(slots=True)
class Tally:
    """What callers met in some time.

    Attributes:
        gaps: Voice-to-voice of every turn, in seconds; `inf` for one that nobody answered.
        turns: Turns that are over.
        bad: Those with a fault, by the fault.
        spoilt: Turns with any fault.
        lost: Calls that ended by themselves, by the reason.
        refusals: Calls that were not taken.
        late: How late the callers' own machine was, in seconds, looked at some times a second.
        waiting: For how long callers wait for an answer now; not added up.
    """

    gaps: list[float] = field(default_factory=list)
    turns: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    spoilt: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    refusals: list[Refusal] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)

    def add(self, more: "Tally") -> None:
        """Take what came since."""
        self.gaps += more.gaps
        self.turns += more.turns
        self.bad += more.bad
        self.spoilt += more.spoilt
        self.lost += more.lost
        self.refusals += more.refusals
        self.late += more.late
        self.waiting = more.waiting

    def close_turn(self, faults: Sequence[str]) -> None:
        """Count a turn that is over, and what was wrong with it."""
        self.turns += 1
        self.spoilt += bool(faults)
        self.bad.update(faults)

    def slow(self, budget: float) -> int:
        """Return how many turns took longer than `budget`, those that wait already included."""
        return sum(gap > budget for gap in self.gaps) + sum(gap > budget for gap in self.waiting)

    def failing(self, goal: Goal, turns: int, calls: int) -> bool:
        """Whether `turns` turns of `calls` calls cannot pass any more, whatever comes."""
        least = min(SURE, calls)
        slow, bad = self.slow(goal.budget), self.spoilt
        return (
            bool(self.lost)
            or slow >= max(least, (1 - goal.percentile / 100) * turns + 1)
            or bad > max(least - 1, CHANCE, goal.bad * turns)
        )


@dataclass(frozen=True, slots=True)
class Used:
    """What a server used over some time.

    Attributes:
        cores: Cores that it kept busy.
        of: Cores that it may use.
        memory: Its resident memory at the end, in MB.
        others: Cores of them that others kept busy.
    """

    cores: float
    of: int
    memory: float
    others: float = 0.0

    @property
    def share(self) -> float:
        """How much of its cores was busy, 0 to 1."""
        return min(1.0, self.cores / self.of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What was measured with one number of calls going on.

    Attributes:
        calls: How many; where some were refused, those that were taken.
        turns: Turns that are over.
        p50: Median voice-to-voice in seconds; `inf` where most turns were not answered, None
            without any.
        tail: The same at the goal's percentile.
        bad: Turns with a fault, by the fault.
        spoilt: Turns with any.
        lost: Calls that ended by themselves, by the reason.
        refusals: Calls that were not taken.
        late: How late the callers were, in seconds, at the goal's percentile.
        used: What the server used, None where that cannot be seen.
        seconds: For how long it was measured.
        steady: Whether all calls went on throughout; else they were being added.
    """

    calls: int
    turns: int
    p50: float | None
    tail: float | None
    bad: Mapping[str, int] = field(default_factory=dict)
    spoilt: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    refusals: Sequence[Refusal] = ()
    late: float = 0.0
    used: Used | None = None
    seconds: float = 0.0
    steady: bool = False


def level(
    tally: Tally, goal: Goal, calls: int, seconds: float, used: Used | None, *, steady: bool
) -> Level:
    """Return what a tally amounts to.

    Turns that have waited for longer than the budget when it was taken count with that wait.
    """
    gaps = tally.gaps + [wait for wait in tally.waiting if wait > goal.budget]
    return Level(
        calls=calls,
        turns=max(tally.turns, len(gaps)),
        p50=percentile(gaps, 50) if gaps else None,
        tail=percentile(gaps, goal.percentile) if gaps else None,
        bad=dict(tally.bad),
        spoilt=tally.spoilt,
        lost=dict(tally.lost),
        refusals=tuple(tally.refusals),
        late=percentile(tally.late, goal.percentile) if tally.late else 0.0,
        used=used,
        seconds=seconds,
        steady=steady,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a number of calls passes; if not, what limits it and the figures that say so."""

    passed: bool
    limit: Limit = ""
    reason: str = ""


def judge(measured: Level, goal: Goal) -> Verdict:
    """Say whether `measured` holds `goal`."""
    limit, reason = _trouble(measured, goal)
    if not limit:
        return Verdict(True)
    if limit != "refused" and measured.late > LATE:
        own = f"the callers' own machine was {_ms(measured.late)} late (p{goal.percentile:g})"
        return Verdict(False, "callers", f"{reason}, but {own}: call from a faster one")
    used = measured.used
    if limit != "refused" and used is not None and used.others > OTHERS * used.of:
        share = f"{100 * used.others / used.of:.0f} % of the server's cores"
        return Verdict(False, "others", f"{reason}, but others took {share}: stop what else runs")
    return Verdict(False, limit, reason)


def _trouble(measured: Level, goal: Goal) -> tuple[Limit, str]:
    """Return the first thing that is wrong, "" if nothing is."""
    if measured.refusals:
        codes = ", ".join(sorted({refusal.code for refusal in measured.refusals}))
        return "refused", f"the server admits {measured.calls} and refused one more ({codes})"
    if measured.lost:
        reason, count = max(measured.lost.items(), key=lambda item: item[1])
        return "lost", f"{sum(measured.lost.values())} lost, {count} because {reason}"
    if measured.tail is None and not measured.spoilt:
        return "unanswered", "no turn was answered"
    if measured.tail is not None and measured.tail > goal.budget:
        name = f"p{goal.percentile:g}"
        if math.isinf(measured.tail):
            return "unanswered", f"{measured.bad.get('unanswered', 0)} turns were not answered"
        return "latency", f"{name} {_ms(measured.tail)} > {_ms(goal.budget)}"
    if measured.spoilt > max(CHANCE, goal.bad * measured.turns):
        worst = max(FAULTS, key=lambda fault: measured.bad.get(fault, 0))
        share = f"{measured.spoilt} of {measured.turns} turns bad"
        kinds = ", ".join(f"{count} {fault}" for fault, count in measured.bad.items())
        return worst, f"{share} (at most {100 * goal.bad:g} %): {kinds}"
    return "", ""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"

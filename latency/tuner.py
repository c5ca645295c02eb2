"""The loop from a budget to the knobs: which setting to move, and whether it helped. Pure."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from latency.budget import Budget

Kind = Literal["try", "keep", "roll_back", "restore", "relieve", "give_up"]
Mode = Literal["on", "observe"]

LOGGED = 200
"""Moves that the log keeps."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting that may change while calls go on.

    Attributes:
        name: Of the setting, as in the settings file: "turn.longest_wait".
        stages: Those it may shorten.
        values: What it may be, the safest, slowest and cheapest first, the fastest last.
        start: Index of the configured value.
        guards: Guard rails that it strains when it is faster.
        settle: Seconds until a change shows; turns that begin before are not counted.
    """

    name: str
    stages: tuple[str, ...]
    values: tuple[float, ...]
    start: int
    guards: tuple[str, ...] = ()
    settle: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < len(self.values):
            raise ValueError(
                f"{self.name} starts at {self.start}; it has {len(self.values)} values"
            )


@dataclass(frozen=True, slots=True)
class Move:
    """What the tuner did, or would do, and why.

    Attributes:
        at: When, in seconds.
        knob: Its name, "" where no knob is moved.
        before: Value in force until now.
        after: Value to set; the same as `before` where nothing changes ("keep", "give_up").
        reason: One sentence for a person.
        p95_before: The budget's percentile of the turns before, in seconds.
        p95_after: That of the turns since, where there are some to compare.
        applied: Whether it is to be set; False while only observing.
    """

    at: float
    knob: str
    before: float
    after: float
    kind: Kind
    reason: str
    p95_before: float | None
    p95_after: float | None
    applied: bool


class Tuner:
    """Moves one knob at a time until the turns of all calls keep the budget."""

    def __init__(
        self,
        knobs: Sequence[Knob],
        budget: Budget,
        guard_limits: Mapping[str, float],
        mode: Mode = "observe",
        pinned: Collection[str] = (),
    ) -> None:
        self.budget = budget
        """May be replaced at any time."""
        self.values = {knob.name: knob.values[knob.start] for knob in knobs}
        """In force, by knob."""
        self.log: deque[Move] = deque(maxlen=LOGGED)
        self.state = "within budget"

    def answered(self, stages: Mapping[str, float], total: float, began: float, now: float) -> None:
        """Take a turn whose first sound has left; `began` is when the caller fell silent."""

    def strained(self, guard: str, amount: float, began: float) -> None:
        """Count `amount` against a guard rail, in the turn that `began` then.

        One for each "cut_ins", "underruns" and "misses"; seconds for "wasted".
        """

    def worked(self, seconds: float, began: float) -> None:
        """Count seconds that engines worked for the turn that `began` then, wasted ones too."""

    def decide(self, now: float) -> list[Move]:
        """Return the moves to make now; set those that are `applied`."""
        return []

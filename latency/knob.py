"""A setting that the loop may move, and what the loop has learned of it. Pure."""

import math
from dataclasses import dataclass, field

BACK_OFF = 64
"""Turns after which what failed is tried again: a trial of 16 is then a fifth of all turns."""

LONGEST_BACK_OFF = 1024
"""Turns to which that doubles, with every failure in a row."""

SLOW = 30.0
"""Seconds to settle from which a knob is a last resort: it does nothing for the calls there are."""


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


@dataclass(slots=True)
class Bar:
    """Something that is not tried for a while, because it failed.

    Attributes:
        until: Turn, counted over all calls, from which it may be tried again.
        length: Turns that it lasted the latest time.
    """

    until: int = 0
    length: int = 0

    def close(self, turn: int, first: int = BACK_OFF) -> None:
        """Bar it from `turn` on, for `first` turns or twice as long as the time before."""
        self.length = min(self.length * 2, LONGEST_BACK_OFF) or first
        self.until = turn + self.length

    def closed(self, turn: int) -> bool:
        """Tell whether it is barred at `turn`."""
        return turn < self.until


@dataclass(slots=True)
class Standing:
    """Where a knob stands.

    Attributes:
        knob: The knob.
        index: Of the value in force.
        gains: Seconds that the step to each index gained the latest time, where that is known.
        useless: Bars steps that are faster: they did not help.
        strained: Bars the values from `limit` on: they broke a guard rail.
        limit: See there.
        held: Bars steps back to the start: a slower value was over the budget.
    """

    knob: Knob
    index: int
    gains: dict[int, float] = field(default_factory=dict)
    useless: Bar = field(default_factory=Bar)
    strained: Bar = field(default_factory=Bar)
    limit: int = 0
    held: Bar = field(default_factory=Bar)

    @property
    def value(self) -> float:
        """The value in force."""
        return self.knob.values[self.index]

    @property
    def promise(self) -> tuple[int, float]:
        """Sorts knobs: those known to help, most first; those not known; those that did not."""
        gain = self.gains.get(self.index + 1)
        return (1, 0.0) if gain is None else (0 if gain > 0 else 2, -gain)

    @property
    def last_resort(self) -> tuple[bool, float]:
        """Sorts knobs by when to try them: those that did not help and slow ones at the end."""
        return self.useless.length > 0, self.knob.settle

    @property
    def price(self) -> tuple[bool, float]:
        """Sorts knobs by what a step back to the start costs: those made safer gain by it."""
        return self.index > self.knob.start, self.gains.get(self.index, 0.0)

    def room(self, turn: int) -> int:
        """Return the steps that the knob may be made faster at `turn`."""
        return 0 if self.useless.closed(turn) else self._allowed(turn) - self.index

    def steps(self, excess: float, far: bool, turn: int) -> int:
        """Return how many steps faster to go for `excess` seconds, one at least.

        As many as are needed where it is known what one gains, or what the latest did; else one,
        or half of what there is where the turns are `far` over the budget.
        """
        room = self.room(turn)
        latest = self.gains.get(self.index, 0.0) if self.index > self.knob.start else 0.0
        if (gain := self.gains.get(self.index + 1, latest)) > 0:
            return max(1, min(room, math.ceil(excess / gain)))
        return max(1, (room + 1) // 2) if far else 1

    def homeward(self, turn: int) -> int:
        """Return the step to the start that is allowed at `turn`: 1 for faster, -1 or 0."""
        if self.index < self.knob.start:
            return 1 if self._allowed(turn) > self.index else 0
        return -1 if self.index > self.knob.start and not self.held.closed(turn) else 0

    def obstacle(self, turn: int) -> str:
        """Say why the knob cannot be made faster at `turn`."""
        if self.useless.closed(turn):
            return "did not help"
        if self.index == len(self.knob.values) - 1:
            return "is at its last value"
        if self.room(turn) and self.knob.settle >= SLOW:
            return "comes last"
        return f"is held by {' and '.join(self.knob.guards)}"

    def learn(self, before: int, gain: float) -> None:
        """Take the seconds that the way from index `before` to the present one gained."""
        for index in range(min(before, self.index) + 1, max(before, self.index) + 1):
            self.gains[index] = gain / (self.index - before)

    def above(self, value: float | None) -> int | None:
        """Return the index of the nearest safer value that is more than `value`.

        None if there is none, or if the value in force is more than that as it is.
        """
        if value is None or self.value > value:
            return None
        more = (at for at in range(self.index - 1, -1, -1) if self.knob.values[at] > value)
        return next(more, None)

    def strain(self, turn: int, limit: int) -> None:
        """Bar the values from index `limit` on: a guard rail broke."""
        self.strained.close(turn, 2 * BACK_OFF)
        self.limit = limit

    def fail(self, turn: int) -> None:
        """Bar faster values: one did not help."""
        self.useless.close(turn, 2 * BACK_OFF)

    def settle(self) -> None:
        """Take the value in force for good."""
        if self.index >= self.limit:
            self.strained = Bar()

    def forget(self) -> None:
        """Forget what was true of other conditions; not what strained the guard rails."""
        self.gains.clear()
        self.useless, self.held = Bar(), Bar()

    def _allowed(self, turn: int) -> int:
        """Return the index of the fastest value that no guard rail bars, at least the present."""
        last = len(self.knob.values) - 1
        return max(self.index, min(last, self.limit - 1)) if self.strained.closed(turn) else last

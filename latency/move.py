"""What the loop did, or would do: as data, and in words for a person. Pure."""

from dataclasses import dataclass
from typing import Literal

from latency.knob import Standing

Kind = Literal["try", "keep", "roll_back", "restore", "relieve", "give_up"]


@dataclass(frozen=True, slots=True)
class Move:
    """What the tuner did, or would do, and why.

    Attributes:
        at: When, in seconds.
        knob: Its name, "" where there is none to move.
        before: Value in force until now.
        after: Value to set; the same as `before` where nothing changes ("keep", "give_up").
        reason: One line for a person.
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


def ms(seconds: float) -> str:
    """Return a time as it is written."""
    return f"{seconds * 1000:.0f} ms"


def step(entry: Standing, index: int) -> str:
    """Return a knob with its value in force and the one at `index`."""
    return f"{entry.knob.name} {entry.value:g} -> {entry.knob.values[index]:g}"

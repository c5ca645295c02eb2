"""What a turn may take: the whole at a percentile, and each stage's share of it.

The share tells where to look when the whole is too long: the stage at fault is the one
that is furthest over its own. Shares that nobody gave follow what the stages were measured
to need at their best, scaled up until all of them add up to the total.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from latency.trace import NAMES

STAGES = NAMES
"""The stages that have a share, in the order in which they happen."""

BEFORE = frozenset(("framing", "jitter", "vad", "endpoint"))
"""Stages before it is decided that the caller is done; the others are the answer's."""

KEPT = 200
"""Turns that a floor is measured over: as many as the loop is given to mend a disturbance."""

LOW = 10.0
"""Percentile that is a stage's floor. The least alone would be one lucky turn."""

FEWEST = 20
"""Turns without which nothing is known of a floor."""


NOTHING = 1e-9
"""Seconds that are none: 0.1 and 0.2 are more than 0.3 by rounding."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a turn may take, in seconds.

    Attributes:
        total: From the last sample of the caller's speech to the first sound of the answer.
        percentile: Share of the turns that keep it, in percent: 95.0 allows one of twenty more.
        split: Each stage's share of the total. A stage that has none is over with all it takes.
    """

    total: float
    percentile: float = 95.0
    split: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.total <= 0:
            raise ValueError(f"budget.total is {self.total} s; expected more than 0 s")
        if not 50 <= self.percentile < 100:
            raise ValueError(f"budget.percentile is {self.percentile}; expected 50 to 100")

    @property
    def tolerated(self) -> float:
        """Share of the turns that may be over the total, 0 to 1."""
        return 1 - self.percentile / 100


def derived(
    total: float, floors: Mapping[str, float], given: Mapping[str, float]
) -> dict[str, float]:
    """Return each stage's share of `total`, in seconds; they add up to it unless all are given.

    Stages in `given` with more than 0 s have that; the others divide what is left in proportion
    to their `floors`, or evenly where no floor is known.

    Raises:
        ValueError: If an unknown stage is given, or more than the total.
    """
    unknown = sorted(given.keys() - set(STAGES))
    if unknown:
        raise ValueError(f"budget has no stage {unknown[0]!r}; it has {', '.join(STAGES)}")
    split = {stage: given[stage] for stage in STAGES if given.get(stage, 0.0) > 0}
    rest = total - sum(split.values())
    if rest < -NOTHING:
        raise ValueError(
            f"the budget's stages add up to {total - rest:g} s, more than budget.total "
            f"({total:g} s): give some of them less, or the total more"
        )
    open_ = [stage for stage in STAGES if stage not in split]
    weights = {stage: max(0.0, floors.get(stage, 0.0)) for stage in open_}
    whole, rest = sum(weights.values()), max(0.0, rest)
    for stage in open_:
        split[stage] = rest * (weights[stage] / whole) if whole > 0 else rest / len(open_)
    return {stage: split[stage] for stage in STAGES}


def at_fault(stages: Mapping[str, float], split: Mapping[str, float]) -> str:
    """Return the stage that is furthest over its share, "" if none is over."""
    over = {stage: seconds - split.get(stage, 0.0) for stage, seconds in stages.items()}
    stage = max(over, key=over.__getitem__, default="")
    return stage if stage and over[stage] > 0 else ""


class Floors:
    """What each stage takes at its best, over the latest turns."""

    def __init__(self) -> None:
        self._turns: deque[Mapping[str, float]] = deque(maxlen=KEPT)

    def note(self, stages: Mapping[str, float]) -> None:
        """Take the stages of one turn, in seconds; a stage that it lacks took no time."""
        self._turns.append(dict(stages))

    def values(self) -> dict[str, float]:
        """Return seconds by stage, empty while fewer than `FEWEST` turns are known."""
        if len(self._turns) < FEWEST:
            return {}
        rank = int(len(self._turns) * LOW / 100)
        return {
            stage: sorted(max(0.0, turn.get(stage, 0.0)) for turn in self._turns)[rank]
            for stage in STAGES
        }

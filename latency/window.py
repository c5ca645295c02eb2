"""The latest turns of all calls under one set of settings, and what can be said of them. Pure.

Windows are small, so that a disturbance is mended within two hundred turns; and the 95th
percentile of twenty turns is one turn. So nothing is decided by a percentile: whether the
budget is kept is the number of turns that are over it, against the number that would be
tolerated, and whether a move helped is the mean of the turns, against its own error.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean, pvariance

from latency.budget import Budget
from latency.trace import percentile

KEPT = 64
"""Turns that a window looks back: of a rail at one turn in twenty, three are in it."""

SUDDEN = 16
"""Turns of which a rail may be broken that was not before: by 3 deviations, one in 3000 at 2 %."""

RECENT = 24
"""Turns that a level is taken of: its error is then a quarter of the turns' own spread."""

LONGEST_AGO = 300.0
"""Seconds that a window looks back: what was true before says little of now."""

EVENTS = 1024
"""Strains, answers and pieces of work that are kept: several times what `KEPT` turns have."""

WORKED, ANSWERED = "", "answered"
"""What is counted besides strains: the work of each turn, once its reply is over, and answers."""

SHARE = "wasted"
"""The guard rail that is a share of the engines' seconds; the others are counts a turn."""

FEWEST_TURNS = 8
"""Turns without which a share of work is chance."""

FEWEST_EVENTS = 3
"""Events without which a count is chance: at a rate of 2 %, one window of 16 turns in 250 has 3."""


def exceeds(count: float, tolerated: float, deviations: float = 1.5) -> bool:
    """Tell whether `count` events are clearly more than `tolerated`: by deviations of chance.

    At half the tolerated rate of 5 %, one window of 24 turns in 50 is taken for more.
    """
    return count >= FEWEST_EVENTS and count > tolerated + deviations * math.sqrt(tolerated)


@dataclass(frozen=True, slots=True)
class Level:
    """How slow turns are, in seconds.

    Attributes:
        mean: Their mean.
        error: Its standard error.
    """

    mean: float
    error: float

    def noise(self, other: "Level") -> float:
        """Return the standard error of the difference of the two."""
        return math.hypot(self.error, other.error)


@dataclass(slots=True)
class Answered:
    """One turn: when it began, its stages and their sum, in seconds."""

    began: float
    total: float
    stages: Mapping[str, float]


class Window:
    """The latest turns that began after `since`."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.fresh = 0
        """Turns taken since it was begun or resumed."""
        self.ended = 0
        """Turns of which it is known what they strained: their replies are over."""
        self._turns: deque[Answered] = deque(maxlen=KEPT)
        self._events: deque[tuple[float, str, float]] = deque(maxlen=EVENTS)

    def __len__(self) -> int:
        return len(self._turns)

    def answered(self, turn: Answered) -> None:
        """Take one turn."""
        if turn.began >= self.since:
            self._turns.append(turn)
            self._events.append((turn.began, ANSWERED, 1.0))
            self.fresh += 1

    def resume(self, since: float) -> None:
        """Go on with turns that begin after `since`: the settings are again what they were."""
        self.since, self.fresh = since, 0

    def counted(self, what: str, amount: float, began: float) -> None:
        """Take `amount` against a guard rail; seconds that engines worked are `what` ""."""
        if began >= self.since:
            self._events.append((began, what, amount))
            self.ended += what == WORKED

    def forget(self, before: float) -> None:
        """Forget the turns that began `before` then."""
        while self._turns and self._turns[0].began < before:
            self._turns.popleft()
        while self._events and self._events[0][0] < before:
            self._events.popleft()

    def over(self, budget: Budget) -> bool:
        """Tell whether clearly more turns are over the budget than it tolerates."""
        count = sum(turn.total > budget.total for turn in self._turns)
        return exceeds(count, budget.tolerated * len(self._turns))

    def percentile(self, percent: float) -> float:
        """Return that percentile of the turns, in seconds. There must be a turn."""
        return percentile([turn.total for turn in self._turns], percent)

    def level(self, without: Collection[str] = ()) -> Level:
        """Return how slow the latest `RECENT` turns are, `without` some stages.

        There must be a turn.
        """
        times = [
            turn.total - sum(turn.stages.get(stage, 0.0) for stage in without)
            for turn in list(self._turns)[-RECENT:]
        ]
        mean = fmean(times)
        return Level(mean, math.sqrt(pvariance(times, mean) / len(times)))

    def stages(self, over: float) -> dict[str, float]:
        """Return the mean seconds by stage of the turns `over` that long, else of the slowest."""
        slow = [turn.stages for turn in self._turns if turn.total > over]
        slow = slow or [max(self._turns, key=lambda turn: turn.total).stages]
        names = dict.fromkeys(name for stages in slow for name in stages)
        return {name: fmean(stages.get(name, 0.0) for stages in slow) for name in names}

    def strain(self, guard: str, limit: float) -> float:
        """Return the rate of a guard rail that is clearly over its `limit`; 0 if it is not.

        That is a count a turn, or a share of all work.
        """
        if guard == SHARE:
            amount, worked, turns = self._lately(guard, KEPT)
            share = amount / worked if worked > 0 else 0.0
            return share if turns >= FEWEST_TURNS and share > limit else 0.0
        for latest, deviations in ((SUDDEN, 3.0), (KEPT, 1.5)):
            amount, _, turns = self._lately(guard, latest)
            if exceeds(amount, limit * turns, deviations):
                return amount / max(1, turns)
        return 0.0

    def _lately(self, guard: str, latest: int) -> tuple[float, float, int]:
        """Return what a guard rail, all work and the turns were while the `latest` turns ended.

        What a turn strained is known when its reply is over, and of one that was cut off
        that is soon: so turns count that were answered or that ended, whichever are more.
        """
        amount = worked = 0.0
        ended = answered = 0
        for _, what, some in reversed(self._events):
            if what == guard:
                amount += some
            elif what == ANSWERED:
                answered += 1
            elif what == WORKED:
                worked += some
                ended += 1
                if ended == latest:
                    break
        return amount, worked, max(ended, answered)

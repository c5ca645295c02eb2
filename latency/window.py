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
from statistics import fmean

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


@dataclass(frozen=True, slots=True)
class Tally:
    """What there was while the latest turns ended: amounts by what is counted, and the turns."""

    amounts: Mapping[str, float]
    turns: int


class Window:
    """The latest turns that began after `since`."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.fresh = 0
        """Turns taken since it was begun or resumed."""
        self.ended = 0
        """Turns of which it is known what they strained: their replies are over."""
        self._turns: deque[Answered] = deque(maxlen=KEPT)
        self._events: deque[tuple[float, str, float, float | None]] = deque(maxlen=EVENTS)
        # The loop asks many times between two turns: what was found out is kept until the next.
        self._tallies: dict[int, Tally] = {}
        """Of the events there are, by number of turns."""
        self._levels: dict[frozenset[str], Level] = {}
        """Of the turns there are, by the stages left out."""

    def __len__(self) -> int:
        return len(self._turns)

    def answered(self, turn: Answered) -> None:
        """Take one turn."""
        if turn.began >= self.since:
            self._turns.append(turn)
            self._events.append((turn.began, ANSWERED, 1.0, None))
            self._tallies.clear()
            self._levels.clear()
            self.fresh += 1

    def resume(self, since: float) -> None:
        """Go on with turns that begin after `since`: the settings are again what they were."""
        self.since, self.fresh = since, 0

    def counted(self, what: str, amount: float, began: float, spared: float | None = None) -> None:
        """Take `amount` against a guard rail; seconds that engines worked are `what` "".

        With a knob above `spared` it would not have been, where that is known.
        """
        if began >= self.since:
            self._events.append((began, what, amount, spared))
            self._tallies.clear()
            self.ended += what == WORKED

    def forget(self, before: float) -> None:
        """Forget the turns that began `before` then."""
        while self._turns and self._turns[0].began < before:
            self._turns.popleft()
            self._levels.clear()
        while self._events and self._events[0][0] < before:
            self._events.popleft()
            self._tallies.clear()

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
        key = frozenset(without)
        if key not in self._levels:
            times = [
                turn.total - sum(turn.stages.get(stage, 0.0) for stage in without)
                for turn in list(self._turns)[-RECENT:]
            ]
            mean = fmean(times)
            variance = math.fsum((time - mean) ** 2 for time in times) / len(times)
            self._levels[key] = Level(mean, math.sqrt(variance / len(times)))
        return self._levels[key]

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
        tallies = self._tallies or self._tally()
        if guard == SHARE:
            lately = tallies[KEPT]
            worked = lately.amounts.get(WORKED, 0.0)
            share = lately.amounts.get(guard, 0.0) / worked if worked > 0 else 0.0
            return share if lately.turns >= FEWEST_TURNS and share > limit else 0.0
        for latest, deviations in ((SUDDEN, 3.0), (KEPT, 1.5)):
            lately = tallies[latest]
            amount = lately.amounts.get(guard, 0.0)
            if exceeds(amount, limit * lately.turns, deviations):
                return amount / max(1, lately.turns)
        return 0.0

    def spared(self, guard: str, share: float) -> float | None:
        """Return the value of a knob above which `share` of a strain would not have been.

        None if that is known of none of it.
        """
        known = [value for _, what, _, value in self._events if what == guard and value is not None]
        return percentile(known, 100 * share) if known else None

    def _tally(self) -> dict[int, Tally]:
        """Count what was while the latest `SUDDEN` and the latest `KEPT` turns ended.

        What a turn strained is known when its reply is over, and of one that was cut off
        that is soon: so turns count that were answered or that ended, whichever are more.
        """
        amounts: dict[str, float] = {}
        ended = answered = 0
        for _, what, amount, _ in reversed(self._events):
            if what == ANSWERED:
                answered += 1
                continue
            amounts[what] = amounts.get(what, 0.0) + amount
            if what == WORKED:
                ended += 1
                if ended == SUDDEN:
                    self._tallies[SUDDEN] = Tally(dict(amounts), max(ended, answered))
                elif ended == KEPT:
                    break
        self._tallies[KEPT] = Tally(amounts, max(ended, answered))
        self._tallies.setdefault(SUDDEN, self._tallies[KEPT])
        return self._tallies

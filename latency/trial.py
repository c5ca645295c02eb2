"""A knob that was moved to see what happens, and what its turns say. Pure."""

from dataclasses import dataclass
from typing import Literal

from latency.budget import BEFORE, Budget
from latency.knob import Standing
from latency.window import Window

MEASURED = 12
"""Turns without which nothing is said of how slow they are."""

FEWEST = 4
"""Turns after which a trial is ended that makes turns much slower."""

MUCH = 0.2
"""Share of the budget that is much."""

JUDGED = 24
"""Turns after which a trial is judged, whatever they say."""

CLEAR = 2.0
"""Standard errors by which a difference is certain before `JUDGED` turns have come."""

WORTH = 0.01
"""Share of the budget that a move has to gain in the mean."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A knob that was moved.

    Attributes:
        standing: The knob.
        before: Index of its value before.
        stage: What was at fault; "" for a step back to the start.
        past: The turns before.
    """

    standing: Standing
    before: int
    stage: str
    past: Window

    @property
    def steps(self) -> int:
        """Steps by which the knob is faster than before; negative for slower."""
        return self.standing.index - self.before

    @property
    def unconcerned(self) -> frozenset[str]:
        """Stages that the knob cannot change: how long callers are waited for is mostly chance."""
        return BEFORE if BEFORE.isdisjoint(self.standing.knob.stages) else frozenset()

    def gain(self, window: Window) -> float:
        """Return the seconds by which the turns of `window` are faster than those before."""
        without = self.unconcerned
        return self.past.level(without).mean - window.level(without).mean

    def noise(self, window: Window) -> float:
        """Return the standard error of `gain`, in seconds."""
        without = self.unconcerned
        return window.level(without).noise(self.past.level(without))

    def verdict(self, window: Window, budget: Budget) -> Literal["good", "bad", "open"]:
        """Say what the turns since the move show."""
        turns = len(window)
        if turns < FEWEST:
            return "open"
        gain, noise = self.gain(window), self.noise(window)
        if self.stage and gain + 3 * noise < -MUCH * budget.total:
            return "bad"
        if turns < MEASURED:
            return "open"
        final = turns >= JUDGED
        if not self.stage:
            over = self.steps < 0 and window.over(budget)
            return "bad" if over else "good" if final else "open"
        worth = WORTH * budget.total
        if gain > max(worth, noise / 2 if final else CLEAR * noise):
            # What it strains is not known before replies are over.
            unknown = self.standing.knob.guards and window.ended < MEASURED
            return "open" if unknown else "good"
        return "bad" if final or gain + CLEAR * noise < worth else "open"

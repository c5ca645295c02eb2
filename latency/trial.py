"""A knob that was moved to see what happens, and what its turns say. Pure."""

from dataclasses import dataclass
from typing import Literal

from latency.budget import Budget
from latency.knob import Standing
from latency.window import Window

MEASURED = 12
"""Turns without which nothing is said of how slow they are."""

JUDGED = 24
"""Turns after which a trial is judged, whatever they say."""

CLEAR = 2.0
"""Standard errors by which a difference is certain before `JUDGED` turns have come."""

WORTH = 0.02
"""Share of the budget that a move has to gain."""


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

    def gain(self, window: Window) -> float:
        """Return the seconds by which the turns of `window` are faster than those before."""
        return self.past.level().mean - window.level().mean

    def verdict(self, window: Window, budget: Budget) -> Literal["good", "bad", "open"]:
        """Say what the turns since the move show. There must be `MEASURED`."""
        if self.stage:
            return self._helped(window, budget)
        if self.steps < 0 and window.over(budget):
            return "bad"
        return "good" if len(window) >= JUDGED else "open"

    def _helped(self, window: Window, budget: Budget) -> Literal["good", "bad", "open"]:
        """Say whether turns are faster: for certain, or more likely than not in the end."""
        gain, noise, worth = self.gain(window), self.noise(window), WORTH * budget.total
        final = len(window) >= JUDGED
        if gain > max(worth, noise if final else CLEAR * noise):
            return "good"
        return "bad" if final or gain + CLEAR * noise < worth else "open"

    def noise(self, window: Window) -> float:
        """Return the standard error of `gain`, in seconds."""
        return window.level().noise(self.past.level())

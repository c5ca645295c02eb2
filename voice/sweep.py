"""The search for the most calls that pass: up a list, then halving. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

SLOWER = 0.25
"""Seconds by which the 95th percentile of many calls may be slower than one call's median."""

BAD = 0.02
"""Share of turns that may be bad."""


@dataclass(slots=True)
class Sweep:
    """What is known of how many calls pass.

    Attributes:
        counts: Numbers to try until one fails.
        step: Calls to which the limit is found.
        passed: The most calls that passed.
        failed: The fewest that did not, None if none has failed.
    """

    counts: Sequence[int]
    step: int = 5
    passed: int = 0
    failed: int | None = None

    def next(self) -> int | None:
        """Return how many calls to try next, or None when the limit is found."""
        if self.failed is None:
            return next((count for count in self.counts if count > self.passed), None)
        middle = (self.passed + self.failed) // 2 // self.step * self.step
        middle = max(middle, self.passed + self.step)
        return middle if middle < self.failed else None

    def record(self, count: int, passed: bool) -> None:
        """Take one result."""
        if passed:
            self.passed = max(self.passed, count)
        else:
            self.failed = count if self.failed is None else min(self.failed, count)

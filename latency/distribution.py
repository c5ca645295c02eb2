"""The latest values of one thing: percentiles and a histogram of them, cheap to ask for. Pure."""

from bisect import bisect_left, insort
from collections import deque
from itertools import pairwise

EDGES = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.65, 0.8, 1.0, 1.5, 2.5, 5.0),
)
"""Borders between the bins of a histogram, in seconds: each a third to a half more than the one
before, which is as fine as a few hundred values bear."""


class Distribution:
    """The latest values, in order of size; adding one moves at most a few kilobytes."""

    def __init__(self, kept: int) -> None:
        """Look at the latest `kept` values."""
        self._kept = kept
        self._values: deque[float | None] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float | None) -> None:
        """Add a value, in seconds; None where there was none this time."""
        self._values.append(value)
        if value is not None:
            insort(self._sorted, value)
        if len(self._values) > self._kept and (old := self._values.popleft()) is not None:
            del self._sorted[bisect_left(self._sorted, old)]

    def percentile(self, percent: float) -> float | None:
        """Return the `percent` percentile by nearest rank; None if there are no values."""
        if not self._sorted:
            return None
        rank = max(1, -(-len(self._sorted) * percent // 100))
        return self._sorted[int(rank) - 1]

    def counts(self) -> list[int]:
        """Return how many values are in each bin: below the first of `EDGES` … from the last on."""
        ends = [0, *(bisect_left(self._sorted, edge) for edge in EDGES), len(self._sorted)]
        return [end - begin for begin, end in pairwise(ends)]

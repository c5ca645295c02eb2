"""Where latency begins to bend upwards as calls are added: the knee. Pure.

Up to there one more call costs the others nothing; beyond, every call waits for every other.
It is found as "Kneedle" does (Satopää, Albrecht, Irwin, Raghavan: Finding a "Kneedle" in a
Haystack, 2011): both axes are scaled to 0 … 1, and the knee is the point farthest below
the straight line from the first to the last.
"""

from collections.abc import Sequence

FLAT = 0.1
"""Share of the first value that the last must rise by, or nothing has bent."""

CEILING = 2.0
"""Budgets that a latency counts as at most."""

BENT = 0.1
"""Distance from the straight line, of 1, from which a curve is one: a line has no knee."""


def knee(points: Sequence[tuple[float, float]], ceiling: float) -> float | None:
    """Return the calls from which latency bends upwards, or None if it does not.

    `points` are calls and seconds, in any order. A value above `ceiling` counts as it: how far a
    server was driven beyond what it can bear says nothing about where the bend is.
    """
    curve = envelope([(calls, min(seconds, ceiling)) for calls, seconds in points])
    if len(curve) < 3:
        return None
    (left, low), (right, high) = curve[0], curve[-1]
    if high - low <= FLAT * low:
        return None
    distance, place = max(
        ((calls - left) / (right - left) - (seconds - low) / (high - low), calls)
        for calls, seconds in curve
    )
    return place if distance > BENT else None


def envelope(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the rising curve below `points`: each value, or the least of those with more calls.

    A peak that more calls do not have is chance, not load. Of several values for one number of
    calls the least is kept.
    """
    rising: list[tuple[float, float]] = []
    for calls, seconds in sorted(points, reverse=True):
        least = min(seconds, rising[-1][1]) if rising else seconds
        if rising and rising[-1][0] == calls:
            rising.pop()
        rising.append((calls, least))
    return rising[::-1]

"""Which of several points are not beaten by another. Pure."""

from collections.abc import Sequence


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the places of the points that no other beats (Pareto); less is better in each axis.

    A point beats another if it is as good in every axis and better in one.
    """
    return [
        place
        for place, point in enumerate(points)
        if not any(_beats(other, point) for other in points)
    ]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

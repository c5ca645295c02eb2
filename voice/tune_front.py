"""Which points are not beaten by another, and where a curve bends. Pure."""

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


def knee(points: Sequence[tuple[float, float]], ceiling: float) -> float | None:
    """Return the x from which a curve bends up, None if it does not.

    It is the point farthest below the line from the first point to the last, both axes scaled
    to one (Satopää et al., "Finding a 'Kneedle' in a Haystack", 2011). `points` are ordered by x;
    a y above `ceiling` counts as it.
    """
    curve = [(x, min(y, ceiling)) for x, y in points]
    if len(curve) < 3:
        return None
    (x0, y0), (x1, y1) = curve[0], curve[-1]
    if x1 <= x0 or y1 - y0 <= FLAT * y0:
        return None
    depth, place = max(((x - x0) / (x1 - x0) - (y - y0) / (y1 - y0), x) for x, y in curve)
    return place if depth > BENT else None


FLAT = 0.1
"""Share of the first value that the last must be above it, or nothing has bent."""

BENT = 0.1
"""How far below the straight line a bend must be, of the curve's own height."""

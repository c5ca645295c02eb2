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


def knee(curve: Sequence[tuple[float, float]]) -> int | None:
    """Return the place where a rising curve bends up most, None if it does not bend.

    It is the point farthest below the line from the first point to the last, both axes scaled
    to one (Satopää et al., "Finding a 'Kneedle' in a Haystack", 2011). `curve` is ordered by x.
    """
    if len(curve) < 3:
        return None
    (x0, y0), (x1, y1) = curve[0], curve[-1]
    if x1 <= x0 or y1 <= y0:
        return None
    below = [(x - x0) / (x1 - x0) - (y - y0) / (y1 - y0) for x, y in curve]
    deepest = max(range(len(curve)), key=below.__getitem__)
    return deepest if below[deepest] > BENT else None


BENT = 0.1
"""How far below the straight line a bend must be, of the curve's own height."""

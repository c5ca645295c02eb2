"""Drawings for the report of `voice tune`: inline SVG that needs no script and no font. Pure.

Colours are CSS variables of the page, so that a drawing is light or dark with it. What a mark is
in full is its `<title>`, which a browser shows under the pointer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

Kind = Literal["start", "best", "other", "front"]

LEFT, RIGHT, TOP, BOTTOM = 62.0, 16.0, 14.0, 46.0
"""Room around the axes, in pixels, for their labels."""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * n, 12) for n in range(first, last + 1)]


def number(value: float) -> str:
    """Return a number for an axis, as short as it is exact."""
    return f"{value:.6g}"


@dataclass(frozen=True, slots=True)
class Axis:
    """Values along one side.

    Attributes:
        low: Value at its begin.
        high: Value at its end.
        label: What they are, with the unit.
        names: Names of 0, 1, 2 …, where values are not numbers.
        shown: Writes a tick.
    """

    low: float
    high: float
    label: str
    names: Sequence[str] = ()
    shown: Callable[[float], str] = number

    def share(self, value: float) -> float:
        """Return where a value lies, 0 at the begin and 1 at the end, bounded by both."""
        span = self.high - self.low or 1.0
        return min(1.0, max(0.0, (value - self.low) / span))

    def marks(self, count: int) -> list[tuple[float, str]]:
        """Return values to mark, with their names."""
        if self.names:
            return [(float(place), name) for place, name in enumerate(self.names)]
        return [(tick, self.shown(tick)) for tick in ticks(self.low, self.high, count)]


def reach(
    values: Sequence[float], *, zero: bool = True, most: float = math.inf
) -> tuple[float, float]:
    """Return the begin and the end of an axis that shows `values`, those above `most` at its end."""
    finite = [min(value, most) for value in values if math.isfinite(value)] or [1.0]
    low, high = min(finite), max(finite)
    if zero:
        low = min(0.0, low)
    room = (high - low or abs(high) or 1.0) * 0.08
    return (low if zero else low - room), high + room


@dataclass(slots=True)
class Plot:
    """One drawing; marks are added, then `svg` returns it."""

    x: Axis
    y: Axis
    width: float = 640.0
    height: float = 320.0
    about: str = ""
    bottom: float = BOTTOM
    _marks: list[str] = field(default_factory=list)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a value."""
        across = LEFT + self.x.share(x) * (self.width - LEFT - RIGHT)
        down = self.height - self.bottom - self.y.share(y) * (self.height - TOP - self.bottom)
        return across, down

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Draw a line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in points))
        self._marks.append(f'<polyline class="line {kind}" points="{path}"/>')

    def steps(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Draw what a front leaves unbeaten: down from point to point, never between them."""
        path: list[tuple[float, float]] = []
        for x, y in points:
            if path:
                path.append((x, path[-1][1]))
            path.append((x, y))
        self.line(path, kind)

    def level(self, y: float, text: str) -> None:
        """Draw a limit: a line across, with its name above it at the left."""
        if not self.y.low <= y <= self.y.high:
            return
        left, down = self.place(self.x.low, y)
        right = self.width - RIGHT
        self._marks.append(
            f'<line class="limit" x1="{left:.1f}" x2="{right:.1f}" y1="{down:.1f}" y2="{down:.1f}"/>'
            f'<text class="limit" x="{left + 6:.1f}" y="{down - 5:.1f}">{escape(text)}</text>'
        )

    def zero(self) -> None:
        """Draw a line across at 0."""
        (left, down), right = self.place(self.x.low, 0.0), self.width - RIGHT
        self._marks.append(f'<path class="zero" d="M{left:.1f},{down:.1f} H{right:.1f}"/>')

    def upright(self, x: float, text: str) -> None:
        """Draw a line up, with its name at the top."""
        across, down = self.place(x, self.y.low)
        self._marks.append(
            f'<line class="upright" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP:.1f}" y2="{down:.1f}"/>'
            f'<text class="upright" x="{across + 5:.1f}" y="{TOP + 10:.1f}">{escape(text)}</text>'
        )

    def point(self, x: float, y: float, kind: Kind, title: str, *, holds: bool = True) -> None:
        """Draw a point: full if the budget is held, hollow if not, an arrow if it is off the top."""
        across, down = self.place(x, y)
        state = "" if holds else " fails"
        inner = f"<title>{escape(title)}</title>"
        if y > self.y.high:
            shape = f"M{across - 6:.1f},{down + 9:.1f} L{across:.1f},{down:.1f} L{across + 6:.1f},{down + 9:.1f} Z"
            self._marks.append(f'<path class="point {kind}{state}" d="{shape}">{inner}</path>')
            return
        radius = 6.0 if kind in ("start", "best") else 4.5
        self._marks.append(
            f'<circle class="point {kind}{state}" cx="{across:.1f}" cy="{down:.1f}" r="{radius}">{inner}</circle>'
        )

    def spread(self, x: float, low: float, high: float, kind: Kind) -> None:
        """Draw from where to where the truth may lie."""
        across, bottom = self.place(x, low)
        _, top = self.place(x, high)
        if bottom - top < 1:
            return
        self._marks.append(
            f'<path class="spread {kind}" d="M{across:.1f},{bottom:.1f} V{top:.1f} '
            f'M{across - 3:.1f},{bottom:.1f} h6 M{across - 3:.1f},{top:.1f} h6"/>'
        )

    def text(
        self, x: float, y: float, text: str, kind: str = "", *, dx: float = 10.0, dy: float = 4.0
    ) -> None:
        """Write beside a value; near the right edge, on its left."""
        across, down = self.place(x, y)
        left = across + dx + 6.5 * len(text) > self.width
        anchor = ' text-anchor="end"' if left else ""
        at = across - dx if left else across + dx
        self._marks.append(
            f'<text class="name {kind}" x="{at:.1f}" y="{down + dy:.1f}"{anchor}>{escape(text)}</text>'
        )

    def svg(self) -> str:
        """Return the drawing."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self.about, quote=True)}">{self._frame()}{"".join(self._marks)}</svg>'
        )

    def _frame(self) -> str:
        """Return axes, their lines and their labels."""
        left, bottom = self.place(self.x.low, self.y.low)
        right, top = self.width - RIGHT, TOP
        parts: list[str] = []
        for value, name in self.y.marks(max(4, round(self.height / 55))):
            _, down = self.place(self.x.low, value)
            parts.append(
                f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{down:.1f}" y2="{down:.1f}"/>'
                f'<text class="tick" x="{left - 7:.1f}" y="{down + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            )
        for value, name in self.x.marks(max(2, round(self.width / 90))):
            across, _ = self.place(value, self.y.low)
            parts.append(
                f'<line class="tick" x1="{across:.1f}" x2="{across:.1f}" y1="{bottom:.1f}" y2="{bottom + 4:.1f}"/>'
                f'<text class="tick" x="{across:.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{escape(name)}</text>'
            )
        parts.append(
            f'<path class="axis" d="M{left:.1f},{top:.1f} V{bottom:.1f} H{right:.1f}"/>'
            f'<text class="label" x="{(left + right) / 2:.1f}" y="{self.height - 6:.1f}" '
            f'text-anchor="middle">{escape(self.x.label)}</text>'
            f'<text class="label" transform="translate(14 {(top + bottom) / 2:.1f}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y.label)}</text>'
        )
        return "".join(parts)

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
    """Return the ends of an axis that shows `values`, those above `most` at its high end."""
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
        self._line("limit", left, down, self.width - RIGHT, down)
        self._text("limit", left + 6, down - 5, text)

    def zero(self) -> None:
        """Draw a line across at 0."""
        left, down = self.place(self.x.low, 0.0)
        self._line("zero", left, down, self.width - RIGHT, down)

    def upright(self, x: float, text: str) -> None:
        """Draw a line up, with its name at the bottom: at the top is that of the budget."""
        across, down = self.place(x, self.y.low)
        self._line("upright", across, TOP, across, down)
        beyond = across + 5 + 6.5 * len(text) > self.width - RIGHT
        at, anchor = (across - 5, "end") if beyond else (across + 5, "start")
        self._text("upright", at, down - 6, text, anchor)

    def point(self, x: float, y: float, kind: Kind, title: str, *, holds: bool = True) -> None:
        """Draw a point: full if it holds the budget, else hollow; an arrow if off the top."""
        across, down = self.place(x, y)
        classes = f"point {kind}" if holds else f"point {kind} fails"
        inner = f"<title>{escape(title)}</title>"
        if y > self.y.high:
            shape = f"M{across - 6:.1f},{down + 9:.1f} l6,-9 l6,9 Z"
            self._marks.append(f'<path class="{classes}" d="{shape}">{inner}</path>')
            return
        radius = 6.0 if kind in ("start", "best") else 4.5
        where = f'cx="{across:.1f}" cy="{down:.1f}" r="{radius}"'
        self._marks.append(f'<circle class="{classes}" {where}>{inner}</circle>')

    def spread(self, x: float, low: float, high: float, kind: Kind) -> None:
        """Draw from where to where the truth may lie."""
        across, bottom = self.place(x, low)
        _, top = self.place(x, high)
        if bottom - top < 1:
            return
        ends = f"M{across - 3:.1f},{bottom:.1f} h6 M{across - 3:.1f},{top:.1f} h6"
        path = f"M{across:.1f},{bottom:.1f} V{top:.1f} {ends}"
        self._marks.append(f'<path class="spread {kind}" d="{path}"/>')

    def text(
        self, x: float, y: float, text: str, kind: str = "", *, dx: float = 10.0, dy: float = 4.0
    ) -> None:
        """Write beside a value; near the right edge, on its left."""
        across, down = self.place(x, y)
        beyond = across + dx + 6.5 * len(text) > self.width
        at, anchor = (across - dx, "end") if beyond else (across + dx, "start")
        self._text(f"name {kind}", at, down + dy, text, anchor)

    def svg(self) -> str:
        """Return the drawing."""
        frame = Plot(self.x, self.y, self.width, self.height, bottom=self.bottom)
        frame._frame()
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self.about, quote=True)}">'
            f"{''.join(frame._marks + self._marks)}</svg>"
        )

    def _frame(self) -> None:
        """Draw axes, their lines and their labels."""
        left, bottom = self.place(self.x.low, self.y.low)
        right, top = self.width - RIGHT, TOP
        for value, name in self.y.marks(max(4, round(self.height / 55))):
            _, down = self.place(self.x.low, value)
            self._line("grid", left, down, right, down)
            self._text("tick", left - 7, down + 4, name, "end")
        for value, name in self.x.marks(max(2, round(self.width / 90))):
            across, _ = self.place(value, self.y.low)
            self._line("tick", across, bottom, across, bottom + 4)
            self._text("tick", across, bottom + 17, name, "middle")
        self._marks.append(
            f'<path class="axis" d="M{left:.1f},{top:.1f} V{bottom:.1f} H{right:.1f}"/>'
        )
        self._text("label", (left + right) / 2, self.height - 6, self.x.label, "middle")
        turned = f'transform="translate(14 {(top + bottom) / 2:.1f}) rotate(-90)"'
        name = escape(self.y.label)
        self._marks.append(f'<text class="label" {turned} text-anchor="middle">{name}</text>')

    def _line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self._marks.append(f'<line class="{kind}" {ends}/>')

    def _text(self, kind: str, x: float, y: float, text: str, anchor: str = "start") -> None:
        where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self._marks.append(f'<text class="{kind}" {where}>{escape(text)}</text>')

"""What is seen of a search for capacity while it runs: a picture in a terminal, else lines."""

import math
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from voice.capacity import Goal, Level, Verdict
from voice.capacity_search import Status, Watcher

BARS = "▁▂▃▄▅▆▇█"

HISTORY = 48
"""Values of each figure that its curve shows."""

WIDTH, HEIGHT = 56, 9
"""Characters of the plot."""


def spark(values: Sequence[float], top: float) -> str:
    """Return a curve of one character a value, from 0 to `top`; what is above it is an ×."""
    return "".join(
        "×" if value > top else BARS[min(len(BARS) - 1, int(len(BARS) * max(value, 0.0) / top))]
        for value in values
    )


def plot(points: Sequence[tuple[float, float, bool]], budget: float) -> list[str]:
    """Return a drawing of latency over calls, `HEIGHT` lines with the budget as one of them.

    `points` are calls, seconds and whether that was a run of its own (●) or of the ramp (·). What
    is above 1.5 budgets is drawn at the top.
    """
    top = 1.5 * budget
    most = max((calls for calls, _, _ in points), default=1.0)
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]
    line = _row(budget, top)
    rows[line] = ["╌"] * WIDTH
    for calls, seconds, run in sorted(points, key=lambda point: point[2]):
        column = round((WIDTH - 1) * calls / most)
        rows[_row(min(seconds, top), top)][column] = "●" if run else "·"
    drawn = []
    for number, row in enumerate(rows):
        label = f"{1000 * budget:.0f} ms" if number == line else ""
        drawn.append(f"{label:>8} ┤{''.join(row)}")
    drawn.append(f"{'0 ms':>8} └{'─' * WIDTH}")
    drawn.append(f"{'':>10}0{f'{most:.0f} calls':>{WIDTH - 1}}")
    return drawn


def _row(seconds: float, top: float) -> int:
    return round((HEIGHT - 1) * (1 - seconds / top))


def told(measured: Level, verdict: Verdict, percent: float) -> str:
    """Return one line on what a number of calls gave; `percent` is which percentile its tail is."""
    kind = "run " if measured.steady else "ramp"
    parts = [
        f"{kind} {measured.calls:4} calls",
        f"p50 {ms(measured.p50)}  p{percent:g} {ms(measured.tail)}",
    ]
    parts.append(f"{sum(measured.bad.values())} bad of {measured.turns}")
    if (used := measured.used) is not None:
        parts.append(f"CPU {100 * used.cores:.0f} %")
        parts.append(f"{used.memory:.0f} MB")
    parts.append("passed" if verdict.passed else f"failed: {verdict.reason}")
    return "  ".join(parts)


def ms(seconds: float | None) -> str:
    """Return milliseconds to read."""
    if seconds is None:
        return "   – ms"
    return "  never" if math.isinf(seconds) else f"{1000 * seconds:4.0f} ms"


class View(Watcher):
    """Shows a search on a console; use it as a context."""

    def __init__(self, console: Console, title: str, goal: Goal) -> None:
        """Show it under `title`; the budget of `goal` scales the curves."""
        self.budget, self._percent = goal.budget, goal.percentile
        self._title, self._console = title, console
        self._status = Status()
        self._seen = 0
        self._curves: dict[str, deque[float]] = {
            name: deque(maxlen=HISTORY) for name in ("calls", "p50", "tail", "cpu", "memory")
        }
        self._points: list[tuple[float, float, bool]] = []
        self._lines: deque[str] = deque(maxlen=5)
        self._live = (
            Live(console=console, refresh_per_second=4, get_renderable=self._drawn)
            if console.is_terminal
            else None
        )
        self._said = ""

    def __enter__(self) -> "View":
        if self._live is not None:
            self._live.start()
        else:
            self._print(self._title)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, status: Status) -> None:
        """Take what is going on now."""
        self._status = status
        if self._live is None:
            if status.doing != self._said:
                self._said = status.doing
                self._print(f"{status.doing}; {status.then}; about {_clock(status.left)} left")
            return
        self._seen += 1
        if self._seen % 4 == 0:
            self._remember(status)

    def take(self, measured: Level, verdict: Verdict) -> None:
        """Take what a number of calls gave."""
        if measured.tail is not None:
            self._points.append((float(measured.calls), measured.tail, measured.steady))
        if self._live is None:
            self._print(told(measured, verdict, self._percent))
        else:
            self._lines.append(told(measured, verdict, self._percent))

    def _remember(self, status: Status) -> None:
        used = status.used
        values = {
            "calls": float(status.calls),
            "p50": status.p50,
            "tail": status.tail,
            "cpu": used.cores if used is not None else None,
            "memory": used.memory if used is not None else None,
        }
        for name, value in values.items():
            if value is not None:
                self._curves[name].append(value)

    def _drawn(self) -> RenderableType:
        status = self._status
        head = Text.assemble((self._title, "bold"), f"   about {_clock(status.left)} left")
        doing = Text.assemble((status.doing, "cyan"), "   ", (status.then, "dim"))
        lines = [Text(line, style="red" if "failed" in line else "") for line in self._lines]
        drawing = [Text(line) for line in plot(self._points, self.budget)] if self._points else []
        return Group(head, doing, self._figures(), *drawing, *lines)

    def _figures(self) -> Table:
        status, used = self._status, self._status.used
        table = Table(box=None, show_header=False, padding=(0, 1))
        over = status.tail is not None and status.tail > self.budget
        budget = f"of {1000 * self.budget:.0f} ms"
        table.add_row("calls", str(status.calls), self._curve("calls"), "")
        table.add_row("p50", ms(status.p50), self._curve("p50", self.budget), "")
        style = "red" if over else "green"
        tail = Text(ms(status.tail), style=style)
        table.add_row(
            f"p{self._percent:g}", tail, Text(self._curve("tail", self.budget), style=style), budget
        )
        if used is not None:
            of = f"of {_cores(used.of)}; others {100 * used.others:.0f} %"
            table.add_row(
                "CPU", f"{100 * used.cores:.0f} %", self._curve("cpu", used.of * 1.05), of
            )
            table.add_row("memory", f"{used.memory:.0f} MB", self._curve("memory"), "")
        bad = ", ".join(f"{count} {fault}" for fault, count in status.bad.items()) or "none"
        table.add_row("bad turns", Text(bad, style="" if bad == "none" else "red"), "", "")
        return table

    def _curve(self, name: str, top: float = 0.0) -> str:
        values = self._curves[name]
        low = min(values, default=0.0) if name == "memory" else 0.0
        top = top or max(values, default=0.0) - low or 1.0
        return spark([value - low for value in values], top)

    def _print(self, line: str) -> None:
        self._console.print(escape(line), soft_wrap=True, highlight=False)


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"

"""One turn as a drawing in the terminal: a row a stage on one axis of time.

Solid is what the caller waited for, and the solid bars of all rows add up to the gap; shaded is
work that was hidden behind that wait. The drawing is lines of styled pieces, so that whoever
prints chooses the colours and a test can read the text. Pure.
"""

from collections.abc import Mapping
from typing import Any

from latency.spans import REST, Record, Segment, hidden, rows, segments, waited

WIDTH = 80
"""Columns of a drawing, where nothing else is said."""

NARROWEST = 48
"""Columns below which nothing can be drawn."""

NAME = 13
"""Columns of the stages' names."""

NUMBER = 8
"""Columns of a number of milliseconds."""

WITH_BUDGET = 2.0
"""The axis reaches the budget if that is within this many times of what is drawn."""

BEYOND = 1.5
"""Times the gap that the axis reaches at most, for work that ends after it."""

APART = 8
"""Columns between two numbers of the axis, at least."""

STEPS = tuple(factor * 10.0**power for power in range(-3, 4) for factor in (1, 2, 5))
"""Seconds between two numbers of the axis: one of these."""

LANES = 4
"""Lines of marks."""

MARKS = {
    "speculation": "speculation",
    "dropped": "dropped",
    "decided": "decided",
    "let_go": "let go",
    "barge_in": "barge-in",
    "stopped": "stopped",
    "played": "played",
}
"""Moments that are drawn, and how they are called; the others are ends of stages."""

Piece = tuple[str, str]
"""Text and its style: "title", "name", "number", "quiet", "axis", "hidden", "decided", "budget",
"over", "mark", or the name of the stage whose colour it has."""

Line = list[Piece]


def text(line: Line) -> str:
    """Return a line without its styles."""
    return "".join(piece for piece, _ in line).rstrip()


def waterfall(record: Record, width: int = WIDTH) -> list[Line]:
    """Draw one turn; `record` is a call's event "trace" or "turn".

    Returns lines of at most `width` columns; none if there is nothing to draw.
    """
    cut = segments(record)
    if not cut:
        return []
    width = max(width, NARROWEST)
    behind = any(not segment.waited for segment in cut)
    columns = width - NAME - NUMBER * (2 if behind else 1)
    axis = Axis(_reach(record, cut), columns)
    heads = [("wait", "quiet")] if not behind else [("wait", "quiet"), ("hidden", "quiet")]
    lines = [_title(record, width)]
    lines.append([(" " * (NAME - 1) + axis.numbers(), "axis"), *right(heads)])
    lines.append([(" " * NAME + axis.line(), "axis")])
    lines += [_row(record, cut, stage, axis, behind) for stage in rows(cut)]
    lines.append(_sum(record, axis, behind))
    lines += _marks(record, axis)
    lines += _facts(record, width)
    return lines


class Axis:
    """Seconds to columns."""

    def __init__(self, end: float, columns: int) -> None:
        """Put 0 to `end` seconds on so many columns."""
        self.end, self.columns = end, columns
        self._steps = _steps(end, max(1, columns // APART))

    def column(self, seconds: float) -> int:
        """Return the column in which a moment lies."""
        return min(self.columns - 1, max(0, int(seconds / self.end * self.columns)))

    def has(self, seconds: float) -> bool:
        """Whether a moment is on it."""
        return 0 <= seconds <= self.end

    def line(self) -> str:
        """Return the line with its ticks."""
        ticks = {self.column(step) for step in self._steps}
        return "".join("┬" if at in ticks else "─" for at in range(self.columns))

    def numbers(self) -> str:
        """Return the numbers over the ticks, in ms; they begin one column before the line."""
        shown = [" "] * (self.columns + 1)
        for step in self._steps:
            number = f"{step * 1000:.0f}"
            first = max(0, self.column(step) + 1 - len(number) // 2)
            first = min(first, len(shown) - len(number))
            shown[first : first + len(number)] = number
        return "".join(shown)

    def bar(self, canvas: list[Piece], begin: float, end: float, style: str, fill: str) -> None:
        """Draw a bar, to half a column; the shortest is a line."""
        halves = 2 * self.columns / self.end
        first, last = round(max(begin, 0.0) * halves), round(min(end, self.end) * halves)
        if begin > self.end or end < 0:
            return
        if first == last:
            at = self.column((begin + end) / 2)
            if fill == "█" or canvas[at][0] == " ":
                canvas[at] = ("▏" if fill == "█" else fill, style)
            return
        for half in range(first, last):
            at = half // 2
            if at >= self.columns:
                break
            left, right = first <= 2 * at, 2 * at + 1 < last
            if fill != "█" and canvas[at][0] in "█▌▐":
                continue
            whole = fill if left and right else ("▌" if left else "▐")
            canvas[at] = (whole if fill == "█" else fill, style)


def _reach(record: Record, cut: list[Segment]) -> float:
    """Return the seconds at which the axis ends."""
    total = float(record.get("total") or 0.0)
    latest = max(segment.end for segment in cut)
    reach = min(latest, BEYOND * total) if total > 0 else latest
    reach = max(reach, total, 1e-3)
    budget = float(record.get("budget") or 0.0)
    if reach < budget <= WITH_BUDGET * reach:
        reach = budget
    return reach * 1.02


def _steps(end: float, most: int) -> list[float]:
    """Return the round numbers of an axis of `end` seconds, at most `most` and 0."""
    step = next((step for step in STEPS if end / step <= most), end)
    return [step * place for place in range(int(end / step) + 1)]


def _title(record: Record, width: int) -> Line:
    """Say which turn it was, how long it took, and what became of it."""
    total, budget, over = record.get("total"), record.get("budget") or 0.0, record.get("over")
    line: Line = [(f"turn {record.get('turn', '?')}", "title"), ("   ", "quiet")]
    if total is None:
        line.append(("never heard", "over"))
    else:
        line.append((f"{total * 1000:.0f} ms", "over" if over else "title"))
        if budget:
            line.append((f", budget {budget * 1000:.0f}", "quiet"))
        if over:
            line.append((f"   over: {str(over).replace('_', ' ')}", "over"))
    ends = [str(record[name]) for name in ("transport", "outcome") if record.get(name)]
    if record.get("cut_in"):
        ends.append("cut in")
    if record.get("missed"):
        ends.append("not understood")
    right = " · ".join(ends)
    room = width - sum(len(piece) for piece, _ in line)
    if right and len(right) + 2 <= room:
        line.append((right.rjust(room), "quiet"))
    return line


def _row(record: Record, cut: list[Segment], stage: str, axis: Axis, behind: bool) -> Line:
    """Draw one stage."""
    canvas = _ground(record, axis)
    of_stage = [segment for segment in cut if segment.stage == stage]
    for segment in of_stage:
        if not segment.waited:
            axis.bar(canvas, segment.begin, segment.end, "hidden", "░")
    for segment in of_stage:
        if segment.waited:
            axis.bar(canvas, segment.begin, segment.end, stage, "█")
    seconds = waited(cut, stage)
    if stage == REST:
        seconds = (record.get("stages") or {}).get(REST, seconds)
    over = record.get("over") == stage
    line: Line = [(stage.replace("_", " ").ljust(NAME), "over" if over else "name"), *canvas]
    numbers = [(f"{seconds * 1000:.1f}" if seconds else "·", "number" if seconds else "quiet")]
    if behind:
        unseen = hidden(cut, stage)
        numbers.append((f"{unseen * 1000:.1f}" if unseen else "", "hidden"))
    return [*line, *right(numbers)]


def _sum(record: Record, axis: Axis, behind: bool) -> Line:
    """Draw the whole wait and how far the budget is."""
    total, budget = float(record.get("total") or 0.0), float(record.get("budget") or 0.0)
    canvas = _ground(record, axis)
    style = "over" if budget and total > budget else "title"
    if total:
        for at in range(axis.column(total) + 1):
            late = style == "over" and at > axis.column(budget)
            canvas[at] = ("━", "over" if late else "title")
    note = f"budget {budget * 1000:.0f} ▸"
    free = axis.columns - axis.column(total) - 2
    if budget > axis.end and free >= len(note):
        canvas[-len(note) :] = [(letter, "budget") for letter in note]
    number = (f"{total * 1000:.1f}", style) if total else ("–", "quiet")
    ends = [number, ("", "quiet")] if behind else [number]
    return [("total".ljust(NAME), "title"), *canvas, *right(ends)]


def _ground(record: Record, axis: Axis) -> list[Piece]:
    """Return an empty row with the lines that go through all: the decision and the budget."""
    canvas: list[Piece] = [(" ", "quiet")] * axis.columns
    decided = (record.get("marks") or {}).get("decided")
    if decided is not None and axis.has(decided):
        canvas[axis.column(decided)] = ("┊", "decided")
    budget = float(record.get("budget") or 0.0)
    if budget and axis.has(budget):
        canvas[axis.column(budget)] = ("│", "budget")
    return canvas


def _marks(record: Record, axis: Axis) -> list[Line]:
    """Draw the moments under the axis, those beside it as words."""
    marks: Mapping[str, float] = record.get("marks") or {}
    there = [(float(marks[name]), shown) for name, shown in MARKS.items() if name in marks]
    there.append((float(record.get("budget") or 0.0) or -1.0, "budget"))
    together: dict[int, list[str]] = {}
    for at, shown in sorted(mark for mark in there if axis.has(mark[0])):
        together.setdefault(axis.column(at), []).append(shown)
    lanes: list[list[str]] = []
    for column, names in together.items():
        shown = ", ".join(names)
        label, first = f"▴ {shown}", column
        if first + len(label) > axis.columns:
            label, first = f"{shown} ▴", column - len(shown) - 1
        if first < 0:
            continue
        for lane in lanes:
            if all(cell == " " for cell in lane[max(0, first - 1) : first + len(label) + 1]):
                break
        else:
            if len(lanes) == LANES:
                continue
            lane = [" "] * axis.columns
            lanes.append(lane)
        lane[first : first + len(label)] = label
    return [[(" " * NAME + "".join(lane), "mark")] for lane in lanes]


def _facts(record: Record, width: int) -> list[Line]:
    """Say in words what has no place on the axis."""
    facts = [*_beside(record), *_pace(record)]
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + 3 + len(fact) <= width - NAME:
            lines[-1] += f" · {fact}"
        else:
            lines.append(fact)
    return [[(" " * NAME + line, "quiet")] for line in lines]


def _beside(record: Record) -> list[str]:
    """Return the moments before and after the axis."""
    marks: Mapping[str, float] = record.get("marks") or {}
    cut = segments(record)
    end = _reach(record, cut) if cut else 0.0
    beside = [(marks[name], shown) for name, shown in MARKS.items() if name in marks]
    return [
        f"{shown} after {at:.2f} s" if at > 0 else f"{shown} {-at:.2f} s before"
        for at, shown in beside
        if not 0 <= at <= end
    ]


def _pace(record: Record) -> list[str]:
    """Return the engines' pace and what was worked in vain."""
    facts: list[str] = []
    llm: Mapping[str, Any] = record.get("llm") or {}
    if "ttft" in llm:
        facts.append(f"llm ttft {llm['ttft'] * 1000:.0f} ms")
    if "tokens_per_second" in llm:
        facts.append(f"{llm['tokens_per_second']:.0f} tok/s")
    if "itl_p95" in llm:
        facts.append(f"itl {llm['itl_p50'] * 1000:.1f}/{llm['itl_p95'] * 1000:.1f} ms p50/p95")
    factors = ((engine, (record.get(engine) or {}).get("rtf")) for engine in ("asr", "tts"))
    facts += [f"{engine} rtf {factor:.3g}" for engine, factor in factors if factor]
    tried: Mapping[str, int] = record.get("speculations") or {}
    if tried.get("begun"):
        facts.append(f"speculations {tried.get('kept', 0)} of {tried['begun']} kept")
    if record.get("wasted"):
        facts.append(
            f"wasted {record['wasted'] * 1000:.0f} of {record.get('worked', 0) * 1000:.0f} ms"
        )
    barge: Mapping[str, float] = record.get("barge_in") or {}
    if barge.get("stopped") is not None:
        facts.append(f"silent {(barge['stopped'] - barge['heard']) * 1000:.0f} ms after barge-in")
    if record.get("underruns"):
        facts.append(f"underruns {record['underruns']}")
    return facts


def right(numbers: list[Piece]) -> Line:
    """Return numbers in columns of `NUMBER` characters."""
    return [(f"{number:>{NUMBER}}", style) for number, style in numbers]

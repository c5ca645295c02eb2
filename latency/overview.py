"""Many turns as a drawing in the terminal: a row a turn, what was waited for end to end. Pure."""

from collections.abc import Sequence

from latency.spans import REST, Record, rows, segments
from latency.waterfall import WIDTH, Axis, Line, Piece, right

FILLS = "█▓"
"""What neighbouring stages are filled with, by turns: without colours they can be told apart."""

NUMBERS = 8
"""Columns of a turn's milliseconds."""

STAGE = 14
"""Columns of the stage that took longest."""


def overview(turns: Sequence[tuple[str, Record]], width: int = WIDTH) -> list[Line]:
    """Draw turns under one axis; each comes with the label of its row.

    Returns lines of at most `width` columns; none if no turn was heard.
    """
    heard = [(label, record) for label, record in turns if record.get("total")]
    if not heard:
        return []
    label = max(4, *(len(name) for name, _ in turns)) + 2
    longest = max(float(record["total"]) for _, record in heard)
    budgets = [float(record.get("budget") or 0.0) for _, record in heard]
    reach = max([longest, *(budget for budget in budgets if budget < 2 * longest)])
    axis = Axis(reach * 1.02, max(10, width - label - NUMBERS - STAGE))
    heads: list[Piece] = [("total", "quiet")]
    lines: list[Line] = [
        [
            (" " * (label - 1) + axis.numbers(), "axis"),
            *right(heads),
            ("  longest", "quiet"),
        ],
        [(" " * label + axis.line(), "axis")],
    ]
    lines += [_row(name.ljust(label), record, axis) for name, record in turns]
    return [*lines, *_legend([record for _, record in heard], axis, label, width)]


def longest_stage(record: Record) -> str:
    """Return the stage that was waited for longest, "" if none was."""
    lengths = {stage: s for stage, s in (record.get("stages") or {}).items() if stage != REST}
    return max(lengths, key=lengths.__getitem__, default="")


def _row(label: str, record: Record, axis: Axis) -> Line:
    """Draw one turn."""
    canvas: list[Piece] = [(" ", "quiet")] * axis.columns
    budget, total = float(record.get("budget") or 0.0), record.get("total")
    if budget and axis.has(budget):
        canvas[axis.column(budget)] = ("│", "budget")
    if not total:
        outcome = str(record.get("outcome", "never heard"))
        return [(label, "name"), *canvas, *right([("–", "quiet")]), (f"  {outcome}", "quiet")]
    for place, (stage, first, last) in enumerate(_seen(record, axis)):
        canvas[first:last] = [(FILLS[place % 2], stage)] * (last - first)
    over = str(record.get("over") or "")
    style = "over" if over else "number"
    stage = (over or longest_stage(record)).replace("_", " ")
    return [
        (label, "name"),
        *canvas,
        *right([(f"{total * 1000:.0f}", style)]),
        (f"  {stage}", "over" if over else "quiet"),
    ]


def _seen(record: Record, axis: Axis) -> list[tuple[str, int, int]]:
    """Return what was waited for as stage, first and last column, without what is too short."""
    seen = []
    for segment in segments(record):
        first, last = axis.column(segment.begin), axis.column(segment.end)
        if segment.waited and last > first:
            last += segment.end >= record["total"]
            seen.append((segment.stage, first, last))
    return seen


def _legend(records: Sequence[Record], axis: Axis, label: int, width: int) -> list[Line]:
    """Name the colours that are seen."""
    seen = {stage for record in records for stage, _, _ in _seen(record, axis)}
    cut = [segment for record in records for segment in segments(record)]
    lines: list[Line] = [[(" " * label, "quiet")]]
    used = label
    for stage in (stage for stage in rows(cut) if stage in seen):
        name = f"{stage.replace('_', ' ')}  "
        if used + len(name) + 2 > width:
            lines.append([(" " * label, "quiet")])
            used = label
        lines[-1] += [("■ ", stage), (name, "quiet")]
        used += len(name) + 2
    return lines

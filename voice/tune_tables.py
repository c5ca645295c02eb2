"""The tables in the report of `voice tune`. Pure."""

import math
from collections.abc import Iterable
from html import escape

from voice.tune_figures import gain
from voice.tune_findings import Findings, shown_price, shown_value, shown_values
from voice.tune_runs import Measured


def changes(findings: Findings) -> str:
    """Return what the best has elsewhere than the start, and what each change did by itself."""
    head = [("knob", True), ("value", False), (f"p{findings.goal.percentile:g}", False)]
    rows = [_head([*head, ("cost", False), ("bad turns", False)])]
    for place, ladder in enumerate(findings.results.ladders):
        begin, chosen = ladder.values[ladder.start], ladder.values[findings.best.point[place]]
        name = [(ladder.name, True)]
        if begin == chosen:
            row = [*name, (shown_value(begin), False), ("as it was", False), ("", False)]
            rows.append(_row([*row, ("", False)], ""))
            continue
        value = f"{shown_value(begin)} → {shown_value(chosen)}"
        effects = [(effect, False) for effect in _effects(findings, place)]
        rows.append(_row([*name, (value, False), *effects], "best"))
    return _table(rows)


def _effects(findings: Findings, place: int) -> tuple[str, str, str]:
    """Return what the change of a knob did by itself to latency, cost and bad turns."""
    alone = gain(findings, place)
    if alone is None or alone.p is None or alone.cost is None:
        return "not tried", "alone", ""
    low, high = alone.p_spread
    bad = [entry.bad / max(1, entry.turns) for entry in (alone.against, alone.measured)]
    return (
        f"{1000 * alone.p:+.0f} ± {500 * (high - low):.0f} ms",
        f"{alone.cost:+.0%} ± {alone.cost_spread:.0%}",
        f"{bad[0]:.0%} → {bad[1]:.0%}",
    )


def every_configuration(findings: Findings) -> str:
    """Return all that was measured, one row for each configuration and number of calls."""
    percent = f"p{findings.goal.percentile:g}"
    names = ["calls", "runs", "turns", "p50, ms", f"{percent}, ms", "95 % sure, ms", "bad turns"]
    names += ["cut in", "gaps", "core-s per call-minute", "MB a call"]
    names += ["price per call-minute"] * bool(findings.about.cost_per_hour)
    rows = [_head([("configuration", True), ("verdict", True), *((name, False) for name in names)])]
    entries = (entry for entry in findings.results.measured.values() if entry.runs)
    rows += [_configuration(findings, entry, len(names)) for entry in entries]
    return _table(rows)


def _configuration(findings: Findings, entry: Measured, width: int) -> str:
    goal, results = findings.goal, findings.results
    values, moved = results.values(entry.point), results.differing(entry.point)
    what = shown_values(values, moved) if moved else f"start: {shown_values(values)}"
    kind = ""
    if entry.calls == goal.calls and entry.point in (findings.best.point, results.start):
        kind = "best" if entry.point == findings.best.point else "start"
    cells = f'<td class="text what">{escape(what)}</td>'
    if not entry.good:
        failed = f"failed: {escape(entry.failed)}"
        return f'<tr>{cells}<td class="text no" colspan="{width + 1}">{failed}</td></tr>'
    wrong = ", ".join(entry.faults(goal))
    cells += f'<td class="text no">{escape(wrong)}</td>' if wrong else '<td class="text">holds</td>'
    low, high = entry.span(goal.percentile)
    numbers = [
        *(entry.calls, len(entry.runs), entry.turns),
        *(_ms(entry.at(50)), _ms(entry.at(goal.percentile)), f"{_ms(low)} to {_ms(high)}"),
        *(entry.bad, entry.cut_ins, entry.underruns, f"{entry.cost:.2f}", f"{entry.memory:.1f}"),
    ]
    numbers += [shown_price(findings, entry)] * bool(findings.about.cost_per_hour)
    cells += "".join(f"<td>{number}</td>" for number in numbers)
    return f'<tr class="{kind}">{cells}</tr>'


def _ms(seconds: float) -> str:
    return "–" if math.isinf(seconds) else f"{1000 * seconds:.0f}"


Cell = tuple[str, bool]
"""What stands in a cell, and whether it is text, not a number."""


def _head(cells: Iterable[Cell]) -> str:
    return _row(cells, "", "th")


def _row(cells: Iterable[Cell], kind: str, tag: str = "td") -> str:
    drawn = (
        f'<{tag} class="{"text" if is_text else ""}">{escape(text)}</{tag}>'
        for text, is_text in cells
    )
    return f'<tr class="{kind}">{"".join(drawn)}</tr>'


def _table(rows: Iterable[str]) -> str:
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'

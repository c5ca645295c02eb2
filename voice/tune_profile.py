"""The profile file of `voice tune`: settings as `voice serve --config` takes them, and what was
measured, as comments. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from voice.settings import SECRET, Effective, value_of
from voice.tune_findings import Findings, shown_ms, shown_price, shown_value
from voice.tune_ladders import JOINED, setting_values

LEFT_OUT = ("host", "port", "data", *SECRET)
"""Settings of the place, not of the profile."""


def profile(effective: Effective, findings: Findings) -> str:
    """Return the best configuration as TOML: all that was set before, with the knobs as found."""
    goal, about, best = findings.goal, findings.about, findings.best
    results = findings.results
    kept = {
        name: value_of(effective.settings, name)
        for name, source in effective.sources.items()
        if source != "default" and not source.startswith("profile ") and name not in LEFT_OUT
    }
    knobs = results.values(best.point)
    values: dict[str, Any] = {"profile": effective.settings.profile} | kept
    if "budget.total" in effective.sources:
        values |= {"budget.total": goal.budget, "budget.percentile": goal.percentile}
    values |= setting_values(knobs)
    lines = [
        f"# {findings.verdict()}",
        f"# {about.date}, sidetone {about.version}, {about.machine}",
        f"# {about.command}",
    ]
    if about.interrupted:
        lines.append("# The search was interrupted: this is the best that was known by then.")
    if best.good:
        low, high = best.span(goal.percentile)
        at, sure = shown_ms(best.at(goal.percentile)), f"{shown_ms(low)} to {shown_ms(high)}"
        lines += [
            f"# Measured in {best.turns} turns: p50 {shown_ms(best.at(50))},",
            f"#   p{goal.percentile:g} {at} (95 % sure: {sure}),",
            f"#   {best.bad} bad turns ({best.cut_ins} cut in, {best.underruns} with gaps),",
            f"#   {shown_price(findings, best)} {findings.unit}",
        ]
        lines.append(f"#   calls held, of the numbers tried: {results.held_shown(best.point)}")
    notes = _notes(findings)
    return "\n".join([*lines, "", *_toml(values, notes), ""])


def _notes(findings: Findings) -> dict[str, str]:
    """Return for each setting of a knob where it came from."""
    results, notes = findings.results, dict[str, str]()
    for place, ladder in enumerate(results.ladders):
        start, best = (p[place] for p in (results.start, findings.best.point))
        if start == best:
            note = "tried, left as it was"
        else:
            note = f"was {shown_value(ladder.values[start])}"
        for setting in JOINED.get(ladder.name, (ladder.name,)):
            notes[setting] = note
    return notes


def _toml(values: Mapping[str, Any], notes: Mapping[str, str]) -> Sequence[str]:
    """Return settings as lines of TOML, those without a group first."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        group, _, last = name.rpartition(".")
        note = f"  # {notes[name]}" if name in notes else ""
        groups.setdefault(group, []).append(f"{last} = {_literal(value)}{note}")
    lines = groups.pop("", [])
    for group, entries in sorted(groups.items()):
        lines += ["", f"[{group}]", *entries]
    return lines


def _literal(value: Any) -> str:
    """Return a value in TOML, whose strings, numbers and truths are those of JSON here."""
    return json.dumps(value, ensure_ascii=False)

"""The report of `voice tune`: one HTML page, mostly drawings, that needs nothing else. Pure."""

from collections.abc import Callable
from html import escape

from voice.capacity import BAD
from voice.tune_figures import by_calls, by_cost, front_of_three, knob
from voice.tune_findings import Findings, shown_ms, shown_value, shown_values
from voice.tune_results import LEAST_COST, LEAST_P, SURE
from voice.tune_runs import Measured
from voice.tune_style import STYLE
from voice.tune_tables import changes, every_configuration


def report(findings: Findings) -> str:
    """Return the page."""
    about, calls = findings.about, findings.goal.calls
    engines = ", ".join(f"{room} {name}" for room, name in about.engines.items())
    stopped = " The search was interrupted: this is what was known by then." * about.interrupted
    knobs = "".join(_knob(findings, place) for place in range(len(findings.results.ladders)))
    figures = (
        ("Latency, as calls are added", _MEANS_BARS, by_calls(findings)),
        (
            f"Latency and cost of every configuration at {calls} calls",
            _MEANS_LINE,
            by_cost(findings),
        ),
        ("The front in latency, calls and cost", _MEANS_FRONT, front_of_three(findings)),
        ("What the best changed", "Effect of each by itself.", changes(findings)),
    )
    body = f"""
<h1>{escape(findings.verdict())}</h1>
<p class="soft">{escape(about.date)} · {escape(about.machine)} · {escape(engines)}.{stopped}</p>
{_tiles(findings)}
{_key()}
<div class="two">{"".join(_figure(*figure) for figure in figures)}</div>
<h2>What each knob bought</h2>
<p class="soft">{escape(_around(findings))}</p>
<div class="knobs">{knobs}</div>
<h2>Every configuration tried</h2>
{every_configuration(findings)}
<h2>How this was measured</h2>
{_method(findings)}
"""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>voice tune</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


_MEANS_BARS = "Bars: where the percentile lies, 95 % sure."
_MEANS_LINE = "The line: of what cuts nobody off, nothing is both quicker and cheaper."
_MEANS_FRONT = "Purple: nothing tried is as good in all three. Numbers are calls at once."


def _figure(name: str, meaning: str, drawing: str) -> str:
    return (
        f"<figure><figcaption>{escape(name)}</figcaption><p>{escape(meaning)}</p>{drawing}</figure>"
    )


def _tiles(findings: Findings) -> str:
    """Return the figures that matter most, of the best and of the start."""
    goal, best, start = findings.goal, findings.best, findings.start
    search, results = findings.search, findings.results
    percent = goal.percentile

    def tile(name: str, shown: Callable[[Measured], str], unit: str = "") -> str:
        before = "" if best.point == start.point else f"start: {shown(start)} "
        return _tile(name, shown(best), before + unit)

    if findings.about.cost_per_hour:
        cost = tile("price with the calls held", findings.price_held, "per call-minute")
    else:
        cost = tile("cost", lambda m: f"{m.cost:.2f}", "core-s per call-minute")
    tried = [m for m in results.measured.values() if m.runs]
    turns = sum(m.turns for m in tried)
    spent = f"{len(search.trials)} runs, {turns} turns, {search.spent / 60:.0f} min"
    return (
        '<div class="tiles">'
        + tile(f"p{percent:g} at {goal.calls} calls", lambda m: shown_ms(m.at(percent)))
        + cost
        + tile("calls held, of those tried", lambda m: results.held_shown(m.point))
        + tile("bad turns", lambda m: f"{m.bad} of {m.turns}")
        + _tile("configurations", str(len({m.point for m in tried})), spent)
        + "</div>"
    )


def _tile(name: str, value: str, more: str) -> str:
    return (
        f'<div class="tile"><small>{escape(name)}</small><b>{escape(value)}</b>'
        f"<span>{escape(more)}</span></div>"
    )


def _key() -> str:
    circle = '<circle class="point {}" cx="7" cy="7" r="4.5"/>'
    signs = (
        (circle.format("start"), "start"),
        (circle.format("best"), "best"),
        (circle.format("other"), "others"),
        (circle.format("other fails"), "hollow: does not hold the budget, or cuts in"),
        ('<path class="limit-key" d="M0,7 H14"/>', "budget"),
        ('<path class="point other" d="M2,11 L7,3 L12,11 Z"/>', "slower than the axis is long"),
    )
    drawn = (f'<span><svg viewBox="0 0 14 14">{sign}</svg>{text}</span>' for sign, text in signs)
    return f'<div class="key">{"".join(drawn)}</div>'


def _around(findings: Findings) -> str:
    """Return what the drawings of the knobs have in common."""
    results = findings.results
    around = "as configured"
    if results.base != results.start:
        what = shown_values(results.values(results.base), results.differing(results.base))
        around = f"as in the first configuration found that holds the budget ({what})"
    return (
        f"One knob at a time at {findings.goal.calls} calls, all others {around}. Values go from "
        "safe to quick. Bars of latency are where the percentile lies, 95 % sure; cost is against "
        "that configuration, and its bars are the least difference that is more than noise."
    )


def _knob(findings: Findings, place: int) -> str:
    ladder = findings.results.ladders[place]
    begin, chosen = ladder.values[ladder.start], ladder.values[findings.best.point[place]]
    said = f"{shown_value(begin)} → {shown_value(chosen)}"
    if chosen == begin:
        said = f"{shown_value(begin)}, left as it was"
    return _figure(ladder.name, said, knob(findings, place))


def _method(findings: Findings) -> str:
    about = findings.about
    facts = {
        "machine": about.machine,
        "date": about.date,
        "server": f"sidetone {about.version}",
        "load": f"{about.load} {_disturbed(findings)}",
        "rules": _rules(findings),
        "cost": _cost(findings),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f"<pre>{escape(about.command)}</pre><dl>{rows}</dl>"


def _rules(findings: Findings) -> str:
    goal = findings.goal
    return (
        f"A configuration holds if p{goal.percentile:g} is at most {shown_ms(goal.budget)}, at "
        f"most {BAD:.0%} of the turns are bad (unanswered, with gaps, cut short, or the agent "
        "spoke before the caller was done), no reply of a long run has a gap and no call is lost. "
        "Of those that hold, the cheapest is best; of those alike in cost, the quickest; of those "
        "alike in both, the nearest to the start. Alike is what differs by less than "
        f"{SURE:g} standard errors, than {LEAST_COST:.0%} of the cost or than "
        f"{1000 * LEAST_P:.0f} ms."
    )


def _cost(findings: Findings) -> str:
    about, noise = findings.about, findings.results.noise_of(lambda run: run.cost)
    said = (
        "Processor time of the server and all its engine processes, in core-seconds per minute of "
        f"each call. Between runs of the same it had a standard deviation of {noise:.3f}."
    )
    if about.cost_per_hour:
        said += (
            f" The price is that of the machine, {about.cost_per_hour:g} an hour, by the calls it "
            "has. The search itself goes by processor time, which is what limits the calls."
        )
    return said


def _disturbed(findings: Findings) -> str:
    late = [outcome.late for _, outcome in findings.search.trials if outcome.disturbed]
    if not late:
        return ""
    return (
        f"In {len(late)} of {len(findings.search.trials)} runs callers sent late, by up to "
        f"{shown_ms(max(late))}: other work kept the machine busy. Where another run of the same "
        "was not disturbed, those do not count; else their latencies may be too long."
    )

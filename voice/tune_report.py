"""The report of `voice tune`: one HTML page, mostly drawings, that needs nothing else. Pure."""

import math
from html import escape

from voice.tune_figures import by_calls, by_cost, front_of_three, gain, knob
from voice.tune_findings import Findings, price_shown, shown_ms, shown_value, shown_values
from voice.tune_search import LEAST_COST, LEAST_P, SURE, Measured

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #fff; --ink: #1d2427; --soft: #5c686d;
  --rule: #d9dedd; --grid: #eceeed; --best: #00757f; --start: #8a5a00; --limit: #b3261e;
  --front: #5b3fa8; --other: #9aa5a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181a; --card: #1c2224; --ink: #e8ecec;
  --soft: #a3afb2; --rule: #364043; --grid: #283033; --best: #4fd0d6; --start: #e6b450;
  --limit: #ff8a80; --front: #b9a3ff; --other: #77858a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 24px 60px; max-width: 1120px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; line-height: 1.3; margin: 0 0 6px; text-wrap: balance; }
h2 { font-size: 17px; margin: 36px 0 4px; }
p { margin: 0 0 10px; max-width: 75ch; } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px;
  margin: 20px 0; }
.tile, figure { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tile { padding: 12px 16px; } .tile b { display: block; font-size: 25px; line-height: 1.25;
  font-variant-numeric: tabular-nums; color: var(--best); }
.tile small, .tile span { color: var(--soft); font-size: 13px; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 16px; }
.knobs { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 16px; }
figure { margin: 0; padding: 14px 14px 10px; } figcaption { font-weight: 600; }
figcaption + p { font-size: 13px; margin: 2px 0 6px; color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg text.label { font-size: 12.5px; fill: var(--ink); }
.zero { stroke: var(--soft); } .grid { stroke: var(--grid); } .axis { fill: none; stroke: var(--rule); }
line.tick { stroke: var(--rule); }
.limit-key { stroke: var(--limit); stroke-width: 2; stroke-dasharray: 5 3; }
line.limit { stroke: var(--limit); stroke-width: 1.3; stroke-dasharray: 6 4; }
svg text.limit { fill: var(--limit); } line.upright { stroke: var(--soft); stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 2; stroke: var(--other); }
.line.faint { stroke-width: 1.2; } .line.start { stroke: var(--start); }
.line.best { stroke: var(--best); } .line.front { stroke: var(--front); stroke-width: 1.5; }
.point { stroke-width: 2; stroke: var(--other); fill: var(--other); }
.point.start { stroke: var(--start); fill: var(--start); }
.point.best { stroke: var(--best); fill: var(--best); }
.point.front { stroke: var(--front); fill: var(--front); } .point.fails { fill: var(--card); }
.spread { fill: none; stroke-width: 1.3; stroke: var(--other); }
.spread.start { stroke: var(--start); } .spread.best { stroke: var(--best); }
svg text.name { font-weight: 600; } svg text.start { fill: var(--start); }
svg text.best { fill: var(--best); } svg text.front { fill: var(--front); font-weight: 400; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft);
  margin: 0 0 12px; } .key svg { display: inline-block; width: 14px; height: 14px;
  vertical-align: -2px; margin-right: 5px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--rule); text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; } td.text, th.text { text-align: left; }
td.what { white-space: normal; min-width: 220px; } tr.best td { color: var(--best);
  font-weight: 600; } tr.start td { color: var(--start); font-weight: 600; }
td.no { color: var(--limit); } pre { background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: 12px 14px; overflow-x: auto; font-size: 13px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0;
  font-size: 14px; } dt { color: var(--soft); } dd { margin: 0; }
"""


def report(findings: Findings) -> str:
    """Return the page."""
    about = findings.about
    engines = ", ".join(f"{room} {name}" for room, name in about.engines.items())
    stopped = " The search was interrupted: this is what was known by then." * about.interrupted
    body = f"""
<h1>{escape(findings.verdict())}</h1>
<p class="soft">{escape(about.date)} · {escape(about.machine)} · {escape(engines)}.{stopped}</p>
{_tiles(findings)}
{_key()}
<div class="two">
<figure><figcaption>Latency, as calls are added</figcaption>
<p>Bars: where the percentile lies, 95 % sure.</p>{by_calls(findings)}</figure>
<figure><figcaption>Latency and cost of every configuration at {findings.goal.calls} calls</figcaption>
<p>The line is the front: nothing that cuts nobody off is both quicker and cheaper.</p>{by_cost(findings)}</figure>
<figure><figcaption>The front in latency, calls and cost</figcaption>
<p>Purple: no other run is as good in all three. Numbers are calls at once.</p>{front_of_three(findings)}</figure>
<figure><figcaption>What the best changed</figcaption>{_changes(findings)}</figure>
</div>
<h2>What each knob bought</h2>
<p class="soft">{_around(findings)}</p>
<div class="knobs">{"".join(_knob(findings, n) for n in range(len(findings.search.ladders)))}</div>
<h2>Every configuration tried</h2>
{_table(findings)}
<h2>How this was measured</h2>
{_method(findings)}
"""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>voice tune</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _tiles(findings: Findings) -> str:
    goal, best, start, search = findings.goal, findings.best, findings.start, findings.search
    price = price_shown(findings)
    same = best.point == start.point

    def tile(name: str, value: str, before: str, unit: str = "") -> str:
        was = "" if same else f"<span>start: {escape(before)}</span>"
        return f"<div class=tile><small>{escape(name)}</small><b>{escape(value)}</b>{was} <span>{escape(unit)}</span></div>"

    def bad(entry: Measured) -> str:
        return f"{entry.bad} of {entry.turns}"

    turns = sum(m.turns for m in search.measured.values())
    points = len({point for point, _ in search.measured})
    percentile = f"p{goal.percentile:g} at {goal.calls} calls"
    return (
        '<div class="tiles">'
        + tile(percentile, shown_ms(best.at(goal.percentile)), shown_ms(start.at(goal.percentile)))
        + tile("cost", price(findings.price(best)), price(findings.price(start)), findings.unit)
        + tile("calls held, of those tried", _held(findings, best), _held(findings, start))
        + tile("bad turns", bad(best), bad(start))
        + f"<div class=tile><small>tried</small><b>{points}</b><span>configurations, "
        f"{len(search.trials)} runs, {turns} turns, {search.spent / 60:.0f} min</span></div></div>"
    )


def _held(findings: Findings, entry: Measured) -> str:
    held = findings.search.held(entry.point)
    return str(held) if held else "none"


def _key() -> str:
    def sign(shape: str, text: str) -> str:
        return f'<span><svg viewBox="0 0 14 14">{shape}</svg>{text}</span>'

    circle = '<circle class="point {}" cx="7" cy="7" r="4.5"/>'
    return (
        '<div class="key">'
        + sign(circle.format("start"), "start")
        + sign(circle.format("best"), "best")
        + sign(circle.format("other"), "others")
        + sign(circle.format("other fails"), "hollow: does not hold the budget, or cuts in")
        + sign(
            '<path class="point other" d="M2,11 L7,3 L12,11 Z"/>', "slower than the axis is long"
        )
        + "</div>"
    )


def _changes(findings: Findings) -> str:
    """Return a table of the knobs that the best has elsewhere, and what each did by itself."""
    rows = []
    for place, ladder in enumerate(findings.search.ladders):
        before, after = (
            ladder.values[entry.point[place]] for entry in (findings.start, findings.best)
        )
        if before == after:
            rows.append(
                f"<tr><td class=text>{escape(ladder.name)}</td><td>{escape(shown_value(before))}</td>"
                "<td class=text>left as it was</td><td></td><td></td></tr>"
            )
            continue
        alone = gain(findings, place)
        p = cost = bad = "not tried alone"
        if alone is not None and alone.p is not None and alone.cost is not None:
            low, high = alone.p_spread
            p = f"{1000 * alone.p:+.0f} ms ({1000 * low:+.0f} to {1000 * high:+.0f})"
            cost = f"{alone.cost:+.0%} ± {alone.cost_spread:.0%}"
            share = [m.bad / max(1, m.turns) for m in (findings.start, alone.measured)]
            bad = f"{share[0]:.0%} → {share[1]:.0%}"
        value = f"{shown_value(before)} → {shown_value(after)}"
        rows.append(
            f"<tr class=best><td class=text>{escape(ladder.name)}</td><td>{escape(value)}</td>"
            f"<td class=text>{p}</td><td>{cost}</td><td>{bad}</td></tr>"
        )
    head = (
        f"<tr><th class=text>knob</th><th>value</th><th class=text>p{findings.goal.percentile:g} by itself</th>"
        "<th>cost</th><th>bad turns</th></tr>"
    )
    return f'<p>Effect of each by itself.</p><div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _around(findings: Findings) -> str:
    """Return what the drawings of the knobs have in common."""
    search = findings.search
    around = "as configured"
    if search.base != search.start:
        what = shown_values(search.values(search.base), search.differing(search.base))
        around = f"as in the first configuration found that holds the budget ({escape(what)})"
    return (
        f"One knob at a time at {findings.goal.calls} calls, all others {around}. Values go from safe "
        "to quick. Bars of latency are where the percentile lies, 95 % sure; cost is against that "
        "configuration, and its bars are the least difference that is more than noise."
    )


def _knob(findings: Findings, place: int) -> str:
    ladder = findings.search.ladders[place]
    chosen = ladder.values[findings.best.point[place]]
    begin = ladder.values[ladder.start]
    said = (
        f"{shown_value(begin)}, left as it was"
        if chosen == begin
        else f"{shown_value(begin)} → {shown_value(chosen)}"
    )
    return f"<figure><figcaption>{escape(ladder.name)}</figcaption><p>{escape(said)}</p>{knob(findings, place)}</figure>"


def _table(findings: Findings) -> str:
    goal, search, price = findings.goal, findings.search, price_shown(findings)
    percent = f"p{goal.percentile:g}"
    names = (
        *("calls", "runs", "turns", "p50, ms", f"{percent}, ms", "95 % sure, ms", "bad turns"),
        *("cut in", "gaps", findings.unit, "MB a call"),
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    head = f"<tr><th class=text>configuration</th><th class=text>verdict</th>{head}</tr>"
    rows = []
    for entry in search.measured.values():
        if not entry.runs:
            continue
        values, moved = search.values(entry.point), search.differing(entry.point)
        what = shown_values(values, moved) if moved else f"start: {shown_values(values)}"
        kind = ""
        if entry.calls == goal.calls and entry.point in (findings.best.point, search.start):
            kind = "best" if entry.point == findings.best.point else "start"
        wrong = ", ".join(entry.faults(goal))
        cells = [f'<td class="text what">{escape(what)}</td>']
        if entry.good:
            low, high = (1000 * end for end in entry.span(goal.percentile))
            numbers = (
                *(entry.calls, len(entry.runs), entry.turns),
                *(_ms(entry.at(50)), _ms(entry.at(goal.percentile)), f"{low:.0f} to {high:.0f}"),
                *(entry.bad, entry.cut_ins, entry.underruns),
                *(price(findings.price(entry)), f"{entry.memory:.1f}"),
            )
            cells.append(f'<td class="text no">{escape(wrong)}</td>' if wrong else _HOLDS)
            cells += [f"<td>{number}</td>" for number in numbers]
        else:
            cells.append(f'<td class="text no" colspan=12>failed: {escape(entry.failed)}</td>')
        rows.append(f'<tr class="{kind}">{"".join(cells)}</tr>')
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


_HOLDS = "<td class=text>holds</td>"


def _ms(seconds: float) -> str:
    return "–" if math.isinf(seconds) else f"{1000 * seconds:.0f}"


def _method(findings: Findings) -> str:
    goal, about, search = findings.goal, findings.about, findings.search
    noise = search.noise_of(lambda run: run.cost)
    rules = (
        f"A configuration holds if p{goal.percentile:g} is at most {shown_ms(goal.budget)}, at most 2 % of the "
        "turns are bad (unanswered, with gaps, cut short, or the agent spoke before the caller was done), no "
        "reply of a long run has a gap and no call is lost. Of those that hold, the cheapest is best; of those "
        "alike in cost the quickest; of those alike in both, the nearest to the start. Alike is what differs by "
        f"less than {SURE:g} standard errors, {LEAST_COST:.0%} of the cost or {1000 * LEAST_P:.0f} ms; between runs of the "
        f"same configuration the cost had a standard deviation of {noise:.3f} core-seconds a call-minute."
    )
    cost = "Cost is the processor time of the server and all its engine processes, per minute of each call."
    if about.cost_per_hour:
        cost += (
            f" The price is that of the machine, {about.cost_per_hour:g} an hour, divided by the calls it has; "
            "the search itself goes by processor time, which is what limits the calls."
        )
    return (
        f"<pre>{escape(about.command)}</pre><dl>"
        f"<dt>machine</dt><dd>{escape(about.machine)}</dd>"
        f"<dt>date</dt><dd>{escape(about.date)}</dd>"
        f"<dt>server</dt><dd>sidetone {escape(about.version)}</dd>"
        f"<dt>load</dt><dd>{escape(about.load)}</dd>"
        f"<dt>rules</dt><dd>{escape(rules)}</dd><dt>cost</dt><dd>{escape(cost)}</dd></dl>"
    )

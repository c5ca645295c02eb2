"""The figures of the report of `voice tune`. Pure."""

from collections.abc import Sequence

from voice.tune_findings import (
    Bought,
    Findings,
    bought,
    compared,
    shown_ms,
    shown_price,
    shown_value,
    shown_values,
)
from voice.tune_plots import Axis, Kind, Plot, reach
from voice.tune_runs import Measured, Point

MOST = 2.5
"""Budgets at which a latency's axis ends; what is slower is an arrow at its top."""


def kind_of(findings: Findings, point: Point) -> Kind:
    """Return how a configuration is drawn."""
    if point == findings.best.point:
        return "best"
    return "start" if point == findings.start.point else "other"


def told(findings: Findings, entry: Measured) -> str:
    """Return all about a measurement in some lines, for the pointer."""
    goal = findings.goal
    low, high = entry.span(goal.percentile)
    verdict = ", ".join(entry.faults(goal)) or "holds the budget"
    return (
        f"{shown_values(findings.results.values(entry.point))}\n"
        f"{entry.calls} calls, {entry.turns} turns\n"
        f"p50 {shown_ms(entry.at(50))}, p{goal.percentile:g} {shown_ms(entry.at(goal.percentile))} "
        f"({shown_ms(low)} to {shown_ms(high)})\n"
        f"{shown_price(findings, entry)} {findings.unit}\n"
        f"{entry.bad} bad turns, {entry.cut_ins} cut in, {entry.underruns} with gaps\n{verdict}"
    )


def latency_axis(findings: Findings, entries: Sequence[Measured]) -> Axis:
    """Return the axis of the goal's percentile, in ms, from zero past the budget."""
    goal = findings.goal
    values = [1000 * entry.at(goal.percentile) for entry in entries] + [1000 * goal.budget]
    low, high = reach(values, most=1000 * goal.budget * MOST)
    return Axis(low, high, f"p{goal.percentile:g} of voice-to-voice, ms")


def price_label(findings: Findings) -> str:
    """Return the label of an axis of costs."""
    if findings.about.cost_per_hour:
        return "price of a call-minute"
    return "cost of a call-minute, core-seconds"


def by_calls(findings: Findings) -> str:
    """Draw latency by the number of calls: the start and the best, and where the best bends up."""
    goal, best, start = findings.goal, findings.best, findings.start
    series: list[tuple[Kind, Point]] = [("best", best.point)]
    if start.point != best.point:
        series.insert(0, ("start", start.point))
    entries = [level.measured for _, point in series for level in findings.levels(point)]
    most = max((entry.calls for entry in entries), default=1)
    plot = Plot(
        Axis(0, most * 1.08, "calls at once"),
        latency_axis(findings, entries),
        about="Latency by the number of calls",
    )
    plot.level(1000 * goal.budget, f"budget {shown_ms(goal.budget)}")
    plot.upright(goal.calls, f"asked for: {goal.calls}")
    if (knee := findings.knee(best.point)) is not None and knee != goal.calls:
        plot.upright(knee, f"knee: {knee:g}")
    for kind, point in series:
        known = [level.measured for level in findings.levels(point)]
        known = [m for m in known if m.at(goal.percentile) < float("inf")]
        plot.line([(m.calls, 1000 * m.at(goal.percentile)) for m in known], kind)
        for entry in known:
            at = 1000 * entry.at(goal.percentile)
            low, high = entry.span(goal.percentile)
            plot.spread(entry.calls, 1000 * low, 1000 * high, kind)
            holds = entry.holds(goal)
            plot.point(entry.calls, at, kind, told(findings, entry), holds=holds)
        if known:
            last = 1000 * known[-1].at(goal.percentile)
            plot.text(known[-1].calls, last, kind, kind, dy=18)
    return plot.svg()


def by_cost(findings: Findings) -> str:
    """Draw latency by cost for every configuration at the calls asked for, with the front."""
    goal = findings.goal
    entries = [m for m in findings.results.known() if m.at(goal.percentile) < float("inf")]
    costs = [entry.cost for entry in entries]
    low, high = reach(costs, zero=False)
    plot = Plot(
        Axis(low, high, "cost of a call-minute, core-seconds"),
        latency_axis(findings, entries),
        about="Latency by cost at the calls asked for",
    )
    plot.level(1000 * goal.budget, f"budget {shown_ms(goal.budget)}")
    fair = [m for m in entries if not set(m.faults(goal)) - {"over budget"}]
    unbeaten: list[Measured] = []
    for entry in sorted(fair, key=lambda m: (m.cost, m.at(goal.percentile))):
        if not unbeaten or entry.at(goal.percentile) < unbeaten[-1].at(goal.percentile):
            unbeaten.append(entry)
    plot.steps([(m.cost, 1000 * m.at(goal.percentile)) for m in unbeaten], "front")
    order = {"other": 0, "start": 1, "best": 2}
    for entry in sorted(entries, key=lambda m: order[kind_of(findings, m.point)]):
        kind = kind_of(findings, entry.point)
        at = 1000 * entry.at(goal.percentile)
        plot.point(entry.cost, at, kind, told(findings, entry), holds=entry.holds(goal))
        if kind != "other":
            near = abs(findings.best.at(goal.percentile) - findings.start.at(goal.percentile))
            crowded = near * 1000 / (plot.y.high - plot.y.low) < 0.08
            alone = findings.best.point == findings.start.point
            name = "start = best" if alone else kind
            plot.text(entry.cost, at, name, kind, dy=-9 if crowded and kind == "start" else 18)
    return plot.svg()


def front_of_three(findings: Findings) -> str:
    """Draw what nothing beats in latency, calls and cost; each point is labelled with its calls."""
    goal, unbeaten = findings.goal, findings.front()
    every = [m for m in findings.results.measured.values() if m.good and m.turns]
    every = [m for m in every if m.at(goal.percentile) < float("inf")]
    priced = bool(findings.about.cost_per_hour)
    low, high = reach([findings.price(m) for m in every], zero=priced)
    plot = Plot(
        Axis(low, high, price_label(findings)),
        latency_axis(findings, every),
        about="What nothing beats in latency, calls and cost",
    )
    plot.level(1000 * goal.budget, f"budget {shown_ms(goal.budget)}")
    for entry in every:
        if entry not in unbeaten:
            at = 1000 * entry.at(goal.percentile)
            title = told(findings, entry)
            plot.point(findings.price(entry), at, "other", title, holds=entry.holds(goal))
    taken: list[tuple[float, float]] = []
    for entry in unbeaten:
        x, at = findings.price(entry), 1000 * entry.at(goal.percentile)
        plot.point(x, at, "front", told(findings, entry), holds=entry.holds(goal))
        across, down = plot.place(x, at)
        if all(abs(across - a) > 26 or abs(down - d) > 12 for a, d in taken):
            plot.text(x, at, str(entry.calls), "front", dx=7, dy=-5)
            taken.append((across, down))
    return plot.svg()


def knob(findings: Findings, place: int) -> str:
    """Draw what each value of a knob did to latency and to cost, all others as configured."""
    steps = bought(findings.results, place)
    names = [shown_value(step.value) for step in steps]
    goal, base = findings.goal, findings.results.base
    entries = [step.measured for step in steps]
    axis = Axis(-0.5, len(names) - 0.5, "", names)
    upper = Plot(
        axis,
        latency_axis(findings, entries),
        width=340,
        height=190,
        bottom=26,
        about=f"Latency by {findings.results.ladders[place].name}",
    )
    upper.level(1000 * goal.budget, "")
    costs = [100 * step.cost for step in steps if step.cost is not None]
    spreads = [100 * step.cost_spread for step in steps]
    bound = max([5.0, *(abs(c) + s for c, s in zip(costs, spreads, strict=False))])
    lower = Plot(
        axis,
        Axis(-bound, bound, "cost, %", shown=lambda value: f"{value:+.0f}" if value else "0"),
        width=340,
        height=110,
        bottom=26,
        about=f"Cost by {findings.results.ladders[place].name}",
    )
    lower.zero()
    for n, step in enumerate(steps):
        if not step.measured.good:
            upper.text(n, upper.y.low, "failed", "fails", dx=-18, dy=-6)
    known = [(n, step) for n, step in enumerate(steps) if step.p is not None]
    upper.line([(n, 1000 * step.measured.at(goal.percentile)) for n, step in known], "faint")
    for n, step in known:
        kind: Kind = "other"
        if step.measured.point[place] == findings.best.point[place]:
            kind = "best"
        elif step.measured.point[place] == findings.start.point[place]:
            kind = "start"
        at = 1000 * step.measured.at(goal.percentile)
        low, high = step.measured.span(goal.percentile)
        title = told(findings, step.measured)
        upper.spread(n, 1000 * low, 1000 * high, kind)
        upper.point(n, at, kind, title, holds=step.measured.holds(goal))
        assert step.cost is not None
        percent, spread = 100 * step.cost, 100 * step.cost_spread
        if step.measured.point != base:
            lower.spread(n, percent - spread, percent + spread, kind)
        lower.point(n, percent, kind, title, holds=step.measured.holds(goal))
    return upper.svg() + lower.svg()


def gain(findings: Findings, place: int) -> Bought | None:
    """Return what the best's value of a knob did against the start's, all others as in the base.

    None where both are the same, or one of them was not tried so.
    """
    results, to = findings.results, findings.best.point[place]
    begin = findings.start.point[place]
    known = {entry.point[place]: entry for entry in results.alone(place) if entry.turns}
    if to == begin or to not in known or begin not in known:
        return None
    return compared(results, place, known[to], known[begin])

"""What a search found, in words and numbers, for the terminal and the files. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from voice.cost import price
from voice.knee import CEILING, knee
from voice.tune_front import front
from voice.tune_results import Results
from voice.tune_runs import Ladder, Measured, Point, Value
from voice.tune_search import Search


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Where and how a search was made.

    Attributes:
        command: What reproduces it.
        date: When it ended, ISO 8601.
        machine: Processor, cores, memory.
        engines: What hears, thinks and speaks, by "asr", "llm", "tts".
        version: Of the server.
        load: What the callers did, in words.
        cost_per_hour: Of the machine, in a currency; 0 to tell cost as core-seconds.
        interrupted: Whether the search was stopped before its end.
    """

    command: str
    date: str
    machine: str
    engines: Mapping[str, str]
    version: str
    load: str
    cost_per_hour: float = 0.0
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Bought:
    """What one value of a knob did by itself, against another.

    Attributes:
        value: The value.
        measured: What was measured with it.
        against: What was measured with the other.
        p: Change of the percentile, in seconds; None without a result.
        p_spread: Where that change lies with 95 % confidence, from and to.
        cost: Change of the cost, as a share of the other's.
        cost_spread: The least such change that is one.
    """

    value: Value
    measured: Measured
    against: Measured
    p: float | None
    p_spread: tuple[float, float]
    cost: float | None
    cost_spread: float


def bought(results: Results, place: int) -> list[Bought]:
    """Return what each value of a knob did, all others as in the base, in the ladder's order."""
    base = results.of(results.base)
    return [compared(results, place, entry, base) for entry in results.alone(place)]


def compared(results: Results, place: int, entry: Measured, other: Measured) -> Bought:
    """Return what the value that `entry` has of a knob did against `other`."""
    value, percent = results.ladders[place].values[entry.point[place]], results.goal.percentile
    if math.isinf(entry.at(percent)) or math.isinf(other.at(percent)):
        return Bought(value, entry, other, None, (0.0, 0.0), None, 0.0)
    low, high = entry.span(percent)
    change = entry.at(percent) - other.at(percent)
    between = results.noise_p(entry, other)
    spread = (
        min(low - other.at(percent), change - between),
        max(high - other.at(percent), change + between),
    )
    noise = results.noise_cost(entry, other) / other.cost
    return Bought(value, entry, other, change, spread, entry.cost / other.cost - 1, noise)


@dataclass(frozen=True, slots=True)
class Level:
    """One configuration with one number of calls.

    Attributes:
        measured: What was measured.
        price: What a call-minute costs.
    """

    measured: Measured
    price: float


class Findings:
    """A search, read."""

    def __init__(self, search: Search, about: About) -> None:
        self.search, self.about = search, about
        self.results, self.goal = search.results, search.results.goal
        self.best, self.start = self.results.best, self.results.of(self.results.start)

    @property
    def holds(self) -> bool:
        """Whether anything holds the budget."""
        return bool(self.best.good) and self.best.holds(self.goal)

    @property
    def unit(self) -> str:
        """What costs are told in."""
        return "per call-minute" if self.about.cost_per_hour else "core-s per call-minute"

    def price(self, measured: Measured) -> float:
        """Return what a call-minute costs: the machine's price by its calls, or core-seconds."""
        if self.about.cost_per_hour:
            return price(self.about.cost_per_hour, measured.calls)
        return measured.cost

    def price_held(self, measured: Measured) -> str:
        """Return the price of a call-minute on a machine that has all the calls it holds."""
        held = self.results.held(measured.point)
        return f"{price(self.about.cost_per_hour, held):.5f}" if held else "–"

    def levels(self, point: Point) -> list[Level]:
        """Return what is known of a configuration by its number of calls, fewest first."""
        known = [m for (at, _), m in self.results.measured.items() if at == point and m.good]
        return [Level(m, self.price(m)) for m in sorted(known, key=lambda m: m.calls) if m.turns]

    def front(self) -> list[Measured]:
        """Return what nothing beats in latency, calls and cost, of what cuts nobody off."""
        fair = [
            m
            for m in self.results.measured.values()
            if m.good and not set(m.faults(self.goal)) - {"over budget"}
        ]
        percent = self.goal.percentile
        axes = [(m.at(percent), -m.calls, self.price(m)) for m in fair]
        return [fair[place] for place in front(axes)]

    def knee(self, point: Point) -> float | None:
        """Return the calls from which the latency of a configuration bends up."""
        percent = self.goal.percentile
        levels = [level.measured for level in self.levels(point)]
        curve = [(float(m.calls), m.at(percent)) for m in levels]
        return knee(curve, CEILING * self.goal.budget)

    def changed(self) -> list[tuple[Ladder, Value, Value]]:
        """Return the knobs that the best has elsewhere than the start, with both values."""
        places = zip(self.results.ladders, self.start.point, self.best.point, strict=True)
        return [(lad, lad.values[a], lad.values[b]) for lad, a, b in places if a != b]

    def verdict(self) -> str:
        """Return in one sentence what was found."""
        goal, best, start = self.goal, self.best, self.start
        wanted = f"p{goal.percentile:g} ≤ {shown_ms(goal.budget)} at {goal.calls} calls"
        if not best.good:
            return f"Nothing could be measured: {best.failed or 'no run ended'}."
        at = shown_ms(best.at(goal.percentile))
        if not self.holds:
            why = ", ".join(best.faults(goal))
            nearest = f"The nearest has p{goal.percentile:g} {at} ({why})."
            return f"No configuration tried holds {wanted}. {nearest}"
        if best.point == start.point and len(self.results.known()) == 1:
            return f"The start holds {wanted}, with {at}; there was no time to try another."
        if best.point == start.point:
            return f"The start holds {wanted}, with {at}, and nothing tried is clearly cheaper."
        if not start.good or not start.holds(goal):
            why = ", ".join(start.faults(goal))
            return f"Found: {wanted} is held, with {at}. The start does not hold it ({why})."
        saved = 1 - best.cost / start.cost
        if saved > self.results.noise_cost(best, start) / start.cost:
            return f"Found: {wanted} is held, with {at}, for {saved:.0%} less than the start."
        before = shown_ms(start.at(goal.percentile))
        return f"Found: {wanted} is held, with {at} instead of {before}, for the same cost."


def shown_ms(seconds: float) -> str:
    """Return seconds as milliseconds."""
    return "no answer" if math.isinf(seconds) else f"{1000 * seconds:.0f} ms"


def shown_value(value: Value) -> str:
    """Return a knob's value."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown_values(values: Mapping[str, Value], names: Sequence[str] = ()) -> str:
    """Return knobs with their values, all or some."""
    return ", ".join(f"{n} {shown_value(v)}" for n, v in values.items() if not names or n in names)


def shown_price(findings: Findings, measured: Measured) -> str:
    """Return what a call-minute costs, without the unit."""
    cost = findings.price(measured)
    return f"{cost:.5f}" if findings.about.cost_per_hour else f"{cost:.2f}"

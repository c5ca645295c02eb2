"""What a search for capacity found, and how it is said. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from voice.capacity import Goal, Level, Verdict
from voice.cost import core_seconds, price
from voice.knee import CEILING, knee

LIMITS: Mapping[str, str] = {
    "": "nothing was too much up to --most",
    "refused": "the server's admission",
    "lost": "calls that broke off",
    "latency": "latency",
    "unanswered": "turns without an answer",
    "underruns": "audio that ran dry",
    "talked over": "replies that came while the caller spoke",
    "in part": "replies that were cut short",
    "callers": "the callers' own machine, not the server",
    "others": "something else on the server's cores, not the server",
}
"""What limits, in words."""


NOT_THE_SERVER = ("callers", "others")
"""Limits that say nothing about the server."""


@dataclass(slots=True)
class Found:
    """How many calls a server carries, as far as is known.

    Attributes:
        goal: What they hold.
        alone: What one call met.
        idle: The server's memory before the first call, in MB; None where it cannot be seen.
        relative: Whether the goal was taken from what one call met.
        levels: Everything that was measured, with its verdict.
        seconds: How long that took.
    """

    goal: Goal
    alone: Level
    idle: float | None = None
    relative: bool = False
    levels: list[tuple[Level, Verdict]] = field(default_factory=list)
    seconds: float = 0.0

    def take(self, measured: Level, verdict: Verdict) -> None:
        """Take what one number of calls gave."""
        self.levels.append((measured, verdict))

    @property
    def best(self) -> Level | None:
        """The most calls that passed in a run of their own, None if not even one did."""
        passed = [
            measured for measured, verdict in self.levels if measured.steady and verdict.passed
        ]
        return max(passed, key=lambda measured: measured.calls, default=None)

    @property
    def failed(self) -> tuple[Level, Verdict] | None:
        """The fewest that did not, None if all did."""
        least = self.calls
        failed = [
            (measured, verdict)
            for measured, verdict in self.levels
            if measured.steady and not verdict.passed and measured.calls > least
        ]
        return min(failed, key=lambda pair: pair[0].calls, default=None)

    @property
    def calls(self) -> int:
        """The most calls that hold the goal."""
        return self.best.calls if self.best is not None else 0

    @property
    def limit(self) -> str:
        """What keeps one more from holding it."""
        return self.failed[1].limit if self.failed is not None else ""

    @property
    def at_least(self) -> bool:
        """Whether the server may bear more: what ended the search was not its own doing."""
        return self.limit in ("", *NOT_THE_SERVER) and self.best is not None

    @property
    def knee(self) -> int | None:
        """Calls from which latency bends upwards, None if it does not."""
        bend = knee(self.points, CEILING * self.goal.budget)
        return None if bend is None else round(bend)

    @property
    def points(self) -> list[tuple[float, float]]:
        """Calls and the goal's percentile in seconds, of all that tells of the server."""
        return [
            (float(measured.calls), measured.tail)
            for measured, verdict in self.levels
            if measured.tail is not None and verdict.limit not in NOT_THE_SERVER
        ]

    @property
    def memory_per_call(self) -> float | None:
        """MB that each call takes; None where that cannot be seen.

        From the ramp's largest good number: a run after it finds memory that was freed and that
        the process has kept.
        """
        grown = [
            (measured.calls, (measured.used.memory - self.idle) / measured.calls)
            for measured, verdict in self.levels
            if self.idle is not None and measured.used is not None and verdict.passed
            if not measured.steady
        ]
        return max(grown)[1] if grown else None

    def row(self, per_hour: float = 0.0) -> dict[str, Any]:
        """Return it as it is printed for machines; `per_hour` is the price of the server."""
        best, failed = self.best, self.failed
        row: dict[str, Any] = {
            "what": "capacity",
            "calls": self.calls,
            "at_least": self.at_least,
            "budget_ms": _ms(self.goal.budget),
            "budget": "one call's median + 250 ms" if self.relative else "given",
            "percentile": self.goal.percentile,
            "limit": self.limit or ("most" if best is not None else ""),
            "knee": self.knee,
        }
        if best is not None:
            row |= {"p50_ms": _ms(best.p50), self._name: _ms(best.tail), "turns": best.turns}
            row |= {"bad": dict(best.bad), **self._cost(best, per_hour)}
        if failed is not None:
            row["failed"] = {"calls": failed[0].calls, "why": failed[1].reason}
            hints = [r.retry_after for r in failed[0].refusals if r.retry_after is not None]
            if failed[0].refusals:
                row["failed"]["refused_within_ms"] = _ms(max(r.after for r in failed[0].refusals))
                row["failed"]["retry_after_s"] = max(hints, default=None)
        row["alone"] = {"p50_ms": _ms(self.alone.p50), self._name: _ms(self.alone.tail)}
        row["points"] = [
            [
                measured.calls,
                _ms(measured.p50),
                _ms(measured.tail),
                "run" * measured.steady or "ramp",
            ]
            for measured, _ in self.levels
        ]
        return row | {"took_s": round(self.seconds)}

    @property
    def _name(self) -> str:
        return f"p{self.goal.percentile:g}_ms"

    def _cost(self, best: Level, per_hour: float) -> dict[str, Any]:
        cost: dict[str, Any] = {"callers_late_ms": _ms(best.late)}
        if (used := best.used) is not None:
            cost |= {
                "cpu_percent": round(100 * used.cores, 1),
                "cpu_percent_per_call": round(100 * used.cores / best.calls, 3),
                "cores": used.of,
                "others_percent": round(100 * used.others, 1),
                "memory_mb": round(used.memory, 1),
                "core_seconds_per_call_minute": round(core_seconds(used.cores, best.calls), 4),
            }
        if (each := self.memory_per_call) is not None:
            cost["memory_mb_per_call"] = round(each, 3)
        if per_hour:
            cost |= {"cost_per_hour": per_hour}
            cost |= {"cost_per_call_minute": _significant(price(per_hour, best.calls))}
        return cost

    def sentences(self, per_hour: float = 0.0) -> list[str]:
        """Return it in words, the number first."""
        best, failed = self.best, self.failed
        within = f"p{self.goal.percentile:g} ≤ {_ms(self.goal.budget):.0f} ms"
        said = [f"{'at least ' * self.at_least}{_calls(self.calls)} at {within}"]
        if best is not None:
            bad = sum(best.bad.values())
            said.append(
                f"there: p50 {_spell(best.p50)}, p{self.goal.percentile:g} {_spell(best.tail)}, "
                f"{bad} bad of {best.turns} turns; one call alone: p50 {_spell(self.alone.p50)}"
            )
        if failed is not None:
            said.append(
                f"limit: {LIMITS[failed[1].limit]}; {_calls(failed[0].calls)}: {failed[1].reason}"
            )
        elif best is not None:
            said.append(f"limit: not found, {LIMITS['']}")
        bend = self.knee
        name = f"p{self.goal.percentile:g}"
        said.append(
            f"knee: {name} begins to bend at about {_calls(bend)}"
            if bend is not None
            else f"knee: none, {name} does not bend in what was measured"
        )
        if best is not None:
            said += self._told_cost(best, per_hour)
        return said

    def _told_cost(self, best: Level, per_hour: float) -> list[str]:
        cost, said = self._cost(best, per_hour), []
        if best.used is not None:
            each = f", {cost['memory_mb_per_call']} MB a call" * ("memory_mb_per_call" in cost)
            said.append(
                f"server: {cost['cpu_percent']} % of a core (it may use {best.used.of}), "
                f"{cost['cpu_percent_per_call']} % a call; {cost['memory_mb']} MB{each}"
            )
            said.append(f"cost: {cost['core_seconds_per_call_minute']} core-seconds a call-minute")
        else:
            said.append("server: its CPU and memory cannot be seen from here")
        if per_hour:
            each = _decimal(cost["cost_per_call_minute"])
            said.append(
                f"cost: {each} a call-minute, at {per_hour:g} an hour for what the server runs on"
            )
        return said


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _ms(seconds: float | None) -> float | None:
    """Return milliseconds, None for none and for never."""
    return None if seconds is None or math.isinf(seconds) else round(1000 * seconds, 1)


def _spell(seconds: float | None) -> str:
    return "none" if (ms := _ms(seconds)) is None else f"{ms:.0f} ms"


def _decimal(value: float) -> str:
    """Return a small number without an exponent."""
    return f"{value:.12f}".rstrip("0").rstrip(".")


def _significant(value: float) -> float:
    """Return `value` to three digits that count."""
    return float(f"{value:.3g}")

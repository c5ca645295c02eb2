"""`voice bench --profile bench --what cost`: what tracing and tuning take of a processor.

Two servers that differ in nothing else take calls side by side on one core, so that what happens
on the machine meanwhile weighs on both alike. Each such pair is one comparison.
"""

import asyncio
import os
from collections.abc import Mapping
from statistics import median
from time import monotonic
from typing import Any

from rich.console import Console

from voice import bench_server
from voice.bench_calls import UTTERANCES, Conditions, speech
from voice.bench_row import machine, print_row
from voice.callers import Plan, hold

ON: Mapping[str, str] = {"trace": "true", "tuner": "on"}
OFF: Mapping[str, str] = {"trace": "false", "tuner": "off"}

CALLS = 60
"""Calls at once of each server: of so many, two servers that are alike differ by half a percent."""

ROUNDS = 6
"""Pairs that are measured."""


async def cost(
    conditions: Conditions, count: int, turns: int, rounds: int, console: Console
) -> None:
    """Measure pairs of servers with `count` calls each; print a JSON line for each, and medians."""
    os.sched_setaffinity(0, bench_server.apart()[1])
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        order = (ON, OFF) if number % 2 else (OFF, ON)
        used = await asyncio.gather(*(_used(conditions, one, count, turns) for one in order))
        on, off = used if number % 2 else reversed(used)
        pairs.append((on, off))
        row = {"what": "cost", "pair": number + 1, "calls": count}
        print_row(console, row | {"on": round(on, 4), "off": round(off, 4)})
    print_row(console, summary(pairs) | {"calls": count} | conditions.described() | machine())


def summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return medians and extremes of pairs: seconds per call-minute with it and without."""
    more = sorted(100 * (on / off - 1) for on, off in pairs)
    on, off = (sorted(values) for values in zip(*pairs, strict=True))
    return {
        "what": "cost of tracing and tuning",
        "pairs": len(pairs),
        "on_median": round(median(on), 4),
        "off_median": round(median(off), 4),
        "more_percent_median": round(median(more), 2),
        "more_percent_least": round(more[0], 2),
        "more_percent_most": round(more[-1], 2),
    }


async def _used(
    conditions: Conditions, settings: Mapping[str, str], count: int, turns: int
) -> float:
    """Return processor seconds that a server takes for a minute of one call."""
    said, silence = await speech(conditions, UTTERANCES[:1])
    plan = Plan(speech=said, silence=silence, turns=turns + 1)
    given = {**conditions.settings(), **settings}
    async with bench_server.server(settings=given, cores=bench_server.apart()[0]) as server:
        begun: list[tuple[float, float]] = []
        await asyncio.sleep(1)
        await hold(
            "127.0.0.1",
            server.port,
            plan,
            count,
            begun=lambda: begun.append((monotonic(), server.usage().cpu)),
            limit=(turns + 3) * plan.period + 30,
        )
        (at, before), now, after = begun[0], monotonic(), server.usage().cpu
    return (after - before) / (count * (now - at) / 60)

"""The load of `voice tune`: calls against a server started for them, and what they heard and cost.

Some of the callers pause in the middle of what they say: a wait that is too short for people shows
as an agent that cuts in, not as a good latency.
"""

import asyncio
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from time import monotonic
from typing import Any

import numpy as np

from voice import bench_server
from voice.bench import QUESTIONS
from voice.bench_calls import faults, spoken
from voice.callers import RATE, Caller, Plan, Turn, hold, noisy, white
from voice.settings import Settings, names
from voice.tune_runs import Outcome
from voice.tune_search import LONG

PAUSED: Sequence[tuple[str, float, str]] = (
    ("Tell me the time in London.", 0.0, ""),
    ("I wonder,", 0.4, "what time is it?"),
    ("In Paris please,", 0.6, "what time is it?"),
)
"""What callers say to stubs, in turn: words, seconds of silence, and the rest. Of pauses inside
turns, 22 % are longer than 0.6 s (`voice.pauses`)."""

QUESTIONED: Sequence[tuple[str, float, str]] = (
    (QUESTIONS[0], 0.0, ""),
    ("what are your", 0.4, "opening hours on friday"),
    ("when are you", 0.6, "open on monday"),
)
"""The same to an agent that answers questions. The pauses stand where the words must go on: after
words that could be all, every server would sometimes answer."""

VOICE = "en-us+f3"
"""espeak-ng voice of the callers."""

HISS = -70.0
"""Level of the line's noise, in dBFS: a line that is digitally silent exists nowhere."""

REPLY = 0.8
"""Seconds of each reply of a stub voice."""

REAL_REPLY = 8.0
"""Seconds of a reply where a voice is real, about; a caller waits for its end all the same."""

SPARE = 0.3
"""Seconds between a reply that came just within the budget and the next utterance."""

TURNS = 40
"""Turns that a short run has, all calls together, at the least."""

MOST_TURNS = 9
"""Turns of each call in a short run, at most."""


TALKED_OVER = "talked over"
"""What `bench_calls.faults` calls a turn into which the agent spoke."""


@dataclass(frozen=True, slots=True)
class Load:
    """What every run of a search has in common.

    Attributes:
        plan: What a caller does.
        turns: Turns of each caller that are measured in a short run.
        reply: Seconds that a reply should have; None if nobody knows.
        real: Whether any engine computes.
    """

    plan: Plan
    turns: int
    reply: float | None
    real: bool

    def seconds(self, long: bool = False) -> float:
        """Return about how long a run takes, the server's start included."""
        return 4.0 + (self.turns * (LONG if long else 1) + 2) * self.plan.period


async def load(chosen: Settings, calls: int, budget: float, turns: int = 0) -> Load:
    """Return the load for `calls` at once; `turns` is of each call in a short run, 0 for enough."""
    real = any(getattr(chosen, room) != "bench" for room in ("asr", "llm", "tts"))
    texts = PAUSED if chosen.agent == "bench" else QUESTIONED
    said = []
    for first, pause, rest in texts:
        parts = [await spoken(first, VOICE)]
        if rest:
            parts += [np.zeros(round(pause * RATE), np.float32), await spoken(rest, VOICE)]
        said.append(np.concatenate(parts))
    speech, silence = noisy(said, white(HISS))
    longest = max(utterance.seconds for utterance in speech)
    steady = chosen.tts == "bench"
    period = longest + budget + (REPLY if steady else REAL_REPLY) + SPARE
    plan = Plan(
        speech=speech, silence=silence, turns=1, period=round(period, 2), patient=not steady
    )
    if not turns:
        each = min(MOST_TURNS, math.ceil(TURNS / calls))
        turns = math.ceil(each / len(texts)) * len(texts)
    return Load(plan, turns, REPLY if steady else None, real)


def always(calls: int) -> dict[str, Any]:
    """Return settings that hold in every run: the configuration is all that changes, and nobody is
    refused or asked whether they are still there."""
    wanted = {
        "bench.reply": REPLY,
        "turn.idle": 600.0,
        "max_calls": max(100, 2 * calls),
        "tuner": "off",
        "admission": False,
    }
    known = names()
    return {name: value for name, value in wanted.items() if name in known}


async def measure(
    load: Load, settings: Mapping[str, Any], calls: int, *, long: bool = False
) -> Outcome:
    """Start a server with `settings`, hold `calls` with it, and return what came of it.

    A server that does not start is an outcome, too.
    """
    began = monotonic()
    turns = load.turns * (LONG if long else 1)
    plan = replace(load.plan, turns=turns + 1)
    server_cores, own_cores = bench_server.apart()
    if load.real:
        server_cores = set(bench_server.CORES)
    os.sched_setaffinity(0, own_cores)
    try:
        async with bench_server.server(settings=settings, cores=server_cores) as server:
            await asyncio.sleep(0.5)
            idle = server.usage()
            begun: list[tuple[float, bench_server.Usage]] = []
            callers = await hold(
                "127.0.0.1",
                server.port,
                plan,
                calls,
                begun=lambda: begun.append((monotonic(), server.usage())),
                limit=(turns + 3) * plan.period * (1 if not plan.patient else 2) + 30,
            )
            (at, start), end = begun[0], server.usage()
            minutes = (monotonic() - at) * calls / 60
    except (RuntimeError, OSError, ValueError) as error:
        return Outcome(failed=str(error), took=monotonic() - began)
    finally:
        os.sched_setaffinity(0, set(bench_server.CORES))
    return _outcome(
        callers,
        turns,
        load.reply,
        cost=(end.cpu - start.cpu) / minutes,
        memory=(end.memory - idle.memory) / calls,
        took=monotonic() - began,
    )


def _outcome(
    callers: Sequence[Caller],
    turns: int,
    reply: float | None,
    *,
    cost: float,
    memory: float,
    took: float,
) -> Outcome:
    """Add up what the callers heard; the first turn of each is not counted."""
    judged = [pair for caller in callers for pair in _judged(caller.turns[: turns + 2], reply)]
    measured = [turn for turn, _ in judged]
    wrong = [kinds for _, kinds in judged]
    late = max((caller.late for caller in callers), default=0.0)
    lost = [caller.lost for caller in callers if caller.lost]
    failed = ""
    if not measured:
        failed = f"no turn was held: {lost[0]}" if lost else "no turn was held"
    return Outcome(
        gaps=tuple(
            turn.reply.first - turn.ended
            for turn, kinds in judged
            if turn.reply and turn.ended and TALKED_OVER not in kinds
        ),
        turns=len(measured),
        bad=sum(map(bool, wrong)),
        cut_ins=sum(TALKED_OVER in kinds for kinds in wrong),
        underruns=sum("gap" in kinds and TALKED_OVER not in kinds for kinds in wrong),
        lost=len(lost),
        cost=cost,
        memory=memory,
        late=late,
        took=took,
        failed=failed,
    )


def _judged(turns: Sequence[Turn], reply: float | None) -> Iterator[tuple[Turn, list[str]]]:
    """Yield a caller's turns from the second to the last but one with what was wrong with each.

    Where the agent cuts in, the caller's ear takes it for more of the reply before: that has no
    gap for it.
    """
    for turn, following in pairwise(turns[1:]):
        kinds = faults(turn, reply)
        if following.early is not None:
            kinds = [kind for kind in kinds if kind != "gap"]
        yield turn, kinds

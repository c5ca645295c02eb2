"""What the way to an engine process costs: the same engines here and there.

    python tests/bench_engine_process.py [--rounds N] [--calls N]

One JSON line a stage: microseconds from a push of 20 ms to the hypothesis it leads to, from a
phrase to its first chunk, from a question to its first piece; with engines that do nothing,
in this process and in their own. Then the CPU time that a second of audio of one call costs
either process, with CALLS calls at once.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from asr.engine import Listening
from llm.engine import Message, Params
from voice.engine_ears import RemoteEars
from voice.engine_mind import RemoteMind
from voice.engine_mouth import RemoteMouth
from voice.engine_process import EngineProcess
from voice.engine_wire import Make

import unruly

FRAME = np.zeros(320, np.float32)
WARM_UP = 50
PAUSE = 0.002
"""Seconds between two rounds: calls do not come one right behind the other."""


async def pushes(ears: Any, rounds: int) -> list[float]:
    """Return the time from each push to its hypothesis, in seconds."""
    stream = ears.open(Listening())
    shown = stream.hypotheses()
    took = []
    for _ in range(rounds):
        await asyncio.sleep(PAUSE)
        began = time.perf_counter()
        stream.push(FRAME)
        await anext(shown)
        took.append(time.perf_counter() - began)
    stream.close()
    return took


async def phrases(mouth: Any, rounds: int) -> list[float]:
    """Return the time from each phrase to its chunk, in seconds."""

    async def said() -> AsyncIterator[str]:
        yield "hello"

    took = []
    for _ in range(rounds):
        await asyncio.sleep(PAUSE)
        began = time.perf_counter()
        async with aclosing(mouth.speak(said(), "", 0.0)) as chunks:
            await anext(chunks)
            took.append(time.perf_counter() - began)
    return took


async def questions(mind: Any, rounds: int) -> list[float]:
    """Return the time from each `generate` to its first piece, in seconds."""
    items = [Message("system", "Be brief. " * 200), Message("user", "say hello")]
    took = []
    for _ in range(rounds):
        await asyncio.sleep(PAUSE)
        began = time.perf_counter()
        thread = mind.open(items, [])
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            await anext(pieces)
            took.append(time.perf_counter() - began)
        thread.close()
    return took


async def audio(ears: Any, pid: int, calls: int, seconds: float) -> tuple[float, float]:
    """Return CPU seconds a second of audio of one call, here and in process `pid`."""

    def spent() -> tuple[float, float]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        there = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        own = resource.getrusage(resource.RUSAGE_SELF)
        return own.ru_utime + own.ru_stime, there

    streams = [ears.open(Listening()) for _ in range(calls)]
    before = spent()
    due = time.monotonic()
    for _ in range(round(seconds / 0.02)):
        for stream in streams:
            stream.push(FRAME)
        due += 0.02
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    after = spent()
    for stream in streams:
        stream.close()
    here, there = (b - a for a, b in zip(before, after, strict=True))
    return here / seconds / calls, there / seconds / calls


def told(what: str, where: str, seconds: Sequence[float]) -> None:
    """Print one line."""
    micros = np.array(seconds[WARM_UP:]) * 1e6
    p50, p95 = (round(float(np.percentile(micros, p)), 1) for p in (50, 95))
    print(json.dumps({"what": what, "where": where, "unit": "us", "p50": p50, "p95": p95}))


async def main(rounds: int, calls: int) -> None:
    """Measure and print."""
    makes = {"ears": "unruly:Ears", "mind": "unruly:Mind", "mouth": "unruly:Mouth"}
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    process = EngineProcess("unruly", {room: Make(made) for room, made in makes.items()})  # type: ignore[misc]
    ears, mind = RemoteEars(process, "ears"), RemoteMind(process, "mind")
    mouth = RemoteMouth(process, "mouth")
    await asyncio.gather(ears.start(), mind.start(), mouth.start())
    stages: list[tuple[str, Callable[[Any, int], Coroutine[Any, Any, list[float]]], Any, Any]] = [
        ("push to hypothesis", pushes, unruly.Ears(), ears),
        ("phrase to first chunk", phrases, unruly.Mouth(), mouth),
        ("question to first piece", questions, unruly.Mind(), mind),
    ]
    for what, measure, here, there in stages:
        told(what, "here", await measure(here, rounds + WARM_UP))
        told(what, "there", await measure(there, rounds + WARM_UP))
    here, there = await audio(ears, process.pid, calls, 5.0)
    cost = {"what": "audio of one call", "calls": calls, "unit": "CPU ms/s"}
    print(json.dumps(cost | {"here": round(here * 1e3, 3), "there": round(there * 1e3, 3)}))
    await asyncio.gather(ears.stop(), mind.stop(), mouth.stop())


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=64)
    given = parser.parse_args()
    uvloop.run(main(given.rounds, given.calls))

"""`voice bench`: what a caller hears, measured at the caller's end from the waveforms.

Voice-to-voice runs from the caller's last speech sample, sent in real time, to the
agent's first audible sample received. Calls ask about opening hours, so nothing is
written and every run is alike.
"""

import asyncio
import json
import os
import platform
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from latency.trace import percentile
from transport.audio import Pcm
from voice.calling import synthesise
from voice.client import Caller, dial

QUESTIONS = (
    "what are your opening hours on friday",
    "when are you open on monday",
    "what are your opening hours",
)

VOICES = ("en-us+f3", "en-us+m3", "en-us")
"""espeak-ng voices of the callers, by turns."""

STARTED_WITHIN = 120.0
"""Seconds a server started here may take to be ready."""

SETTLE = 0.7
"""Seconds between the agent's last word and the caller's next."""

LONGEST_REPLY = 40.0
"""Seconds after which a reply that has not ended counts as missing."""


@dataclass(slots=True)
class Measured:
    """What one run of calls gave.

    Attributes:
        gaps: Voice-to-voice of every answered turn, seconds.
        unanswered: Turns without an answer.
        underruns: Times that a caller with a 60 ms buffer ran dry within a reply.
    """

    gaps: list[float]
    unanswered: int = 0
    underruns: int = 0


async def bench(url: str, key: str, calls: Sequence[int], turns: int, console: Console) -> None:
    """Measure with each number of `calls` at once and print one JSON line for each.

    Without `url`, a server of the default profile is started here and its memory measured.

    Raises:
        RuntimeError: If the server does not get ready.
    """
    speech = [
        await synthesise(question, VOICES[number % len(VOICES)])
        for number, question in enumerate(QUESTIONS)
    ]
    async with _server(url, key, max(calls)) as (address, process):
        idle = resident(process) if process else None
        for count in calls:
            measured, memory = await _measure(address, key, count, turns, speech, process)
            row = {
                "what": "voice to voice",
                "unit": "ms",
                "calls": count,
                "turns": len(measured.gaps),
                **{
                    f"p{percent}": round(1000 * percentile(measured.gaps, percent), 1)
                    for percent in (50, 95, 99)
                    if measured.gaps
                },
                "unanswered": measured.unanswered,
                "underruns": measured.underruns,
                "memory_mb": memory,
                "idle_memory_mb": idle,
                "python": platform.python_version(),
                "machine": f"{os.cpu_count()} x {platform.machine()}",
            }
            console.print(json.dumps(row), soft_wrap=True, highlight=False)


async def _measure(
    url: str,
    key: str,
    count: int,
    turns: int,
    speech: Sequence[tuple[Pcm, int]],
    process: int | None,
) -> tuple[Measured, float | None]:
    """Run `count` calls at once; return what they heard and the server's peak memory in MB."""
    result = Measured([])
    peak = 0.0

    async def watch() -> None:
        nonlocal peak
        while process is not None:
            peak = max(peak, resident(process))
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(_one_call(url, key, turns, speech, number, result))
    finally:
        watching.cancel()
    return result, round(peak, 1) if process is not None else None


async def _one_call(
    url: str,
    key: str,
    turns: int,
    speech: Sequence[tuple[Pcm, int]],
    number: int,
    result: Measured,
) -> None:
    await asyncio.sleep(number * 0.29)  # callers do not all begin at the same moment
    async with dial(url, key=key) as caller:
        await caller.until(lambda: bool(caller.heard()), LONGEST_REPLY)
        for turn in range(turns):
            await asyncio.sleep(SETTLE + 0.013 * turn)  # all phases of frames against windows
            since = len(caller.events)
            pcm, rate = speech[(turn + number) % len(speech)]
            await caller.say(pcm, rate)
            await caller.until(partial(_spoke, caller, since), LONGEST_REPLY)
            gap = caller.answer_gap()
            if gap is None:
                result.unanswered += 1
            else:
                result.gaps.append(gap)
        result.underruns += underruns(caller)


def _spoke(caller: Caller, since: int) -> bool:
    return bool(caller.heard(since))


def underruns(caller: Caller, buffer: float = 0.06) -> int:
    """Return how often a player with a `buffer` of seconds ran dry inside a reply.

    Audio that comes within 300 ms of running dry belongs to the same reply.
    """
    count, dry = 0, float("-inf")
    for at, pcm in caller.audio:
        if at > dry:
            count += at - dry < 0.3
            dry = at + buffer
        dry += len(pcm) / caller.rate
    return count


def resident(process: int) -> float:
    """Return the resident memory of a process and all below it, in MB."""
    total, family = 0, [process]
    while family:
        parent = Path(f"/proc/{family.pop()}")
        try:
            total += int((parent / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in (parent / "task").iterdir():
                family += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has just ended
    return total / 1e6


@asynccontextmanager
async def _server(url: str, key: str, calls: int) -> AsyncIterator[tuple[str, int | None]]:
    """Yield the address of the server at `url`, or of one started here, with its process."""
    if url:
        yield url, None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as data:
        environment = os.environ | {
            "VOICE_DATA": data,
            "VOICE_MAX_CALLS": str(max(calls, 1)),
            "VOICE_KEY": key,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voice.cli", "serve", "--port", str(port)),
            env=environment,
            stdout=asyncio.subprocess.DEVNULL,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            await _ready(address, process)
            yield address, process.pid
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _ready(address: str, process: Any) -> None:
    """Wait until the server takes calls.

    Raises:
        RuntimeError: If it ends, or takes too long.
    """
    async with httpx.AsyncClient() as client:
        for _ in range(int(STARTED_WITHIN / 0.2)):
            if process.returncode is not None:
                raise RuntimeError(f"the server ended with status {process.returncode}")
            try:
                if (await client.get(f"{address}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)
    raise RuntimeError(f"the server was not ready after {STARTED_WITHIN:.0f} s")

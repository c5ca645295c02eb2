"""`voice bench`: what a caller hears, measured at the caller's end from the waveforms.

Voice-to-voice runs from the caller's last speech sample, sent in real time, to the
agent's first audible sample received. Calls ask about opening hours, so nothing is
written and every run is alike.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from transport.audio import Pcm
from voice.bench_row import machine, percentiles, print_row
from voice.bench_server import Measured, reachable, server
from voice.calling import synthesise
from voice.client import Caller, dial

QUESTIONS = (
    "what are your opening hours on friday",
    "when are you open on monday",
    "what are your opening hours",
)

VOICES = ("en-us+f3", "en-us+m3", "en-us")
"""espeak-ng voices of the callers, by turns."""

SETTLE = 0.7
"""Seconds between the agent's last word and the caller's next."""

LONGEST_REPLY = 40.0
"""Seconds after which a reply that has not ended counts as missing."""


@dataclass(slots=True)
class Heard:
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
        ValueError: If `url` is no address.
        RuntimeError: If the server does not get ready, or nobody takes calls at `url`.
    """
    if url:
        await reachable(url, key)
    speech = [
        await synthesise(question, VOICES[number % len(VOICES)])
        for number, question in enumerate(QUESTIONS)
    ]
    settings = {"max_calls": max(calls), "key": key}
    async with server(url, settings) as measuring:
        idle = round(measuring.usage().memory, 1) if measuring.process else None
        for count in calls:
            measured, memory = await _measure(measuring, key, count, turns, speech)
            row = {
                "what": "voice to voice",
                "unit": "ms",
                "calls": count,
                "turns": len(measured.gaps),
                **percentiles(measured.gaps, (50, 95, 99)),
                "unanswered": measured.unanswered,
                "underruns": measured.underruns,
                "memory_mb": memory,
                "idle_memory_mb": idle,
                **machine(),
            }
            print_row(console, row)


async def _measure(
    measuring: Measured,
    key: str,
    count: int,
    turns: int,
    speech: Sequence[tuple[Pcm, int]],
) -> tuple[Heard, float | None]:
    """Run `count` calls at once; return what they heard and the server's peak memory in MB."""
    result = Heard([])
    peak = 0.0

    async def watch() -> None:
        nonlocal peak
        while measuring.process is not None:
            peak = max(peak, measuring.usage().memory)
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(_one_call(measuring.url, key, turns, speech, number, result))
    finally:
        watching.cancel()
    return result, round(peak, 1) if measuring.process is not None else None


async def _one_call(
    url: str,
    key: str,
    turns: int,
    speech: Sequence[tuple[Pcm, int]],
    number: int,
    result: Heard,
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

"""`voice bench --profile bench`: everything but the engines, with callers by the hundred.

The engines take fixed times (`voice.stubs`), so what is measured is the server's own:
finding the end of speech, overlap, pacing, interruption, and what a call costs.
"""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from time import monotonic
from typing import Any

import httpx
import numpy as np
from rich.console import Console

from transport.audio import Pcm, Resampler
from voice import bench_server
from voice.bench_row import machine, percentiles, print_row
from voice.callers import RATE, Plan, Turn, babble, hold, noisy, white
from voice.calling import synthesise
from voice.settings import from_process, within

UTTERANCES = (
    "Could you please tell me the time in London?",
    "Wait, stop, I have another question for you.",
    "No, that is not what I meant at all.",
)
"""Those of the comparison with other servers; the first for latency, all to interrupt with."""

BABBLE = ("en-us+f2", "en-us+m2", "en-us+m7", "en-us+f5")
"""espeak-ng voices of the babble in the background."""

REAL_PERIOD = 15.0
"""Seconds from one utterance to the next where engines are real, at the least: their voice decides
how long a reply is, and nobody speaks before its end."""

LEAST = 0.9
"""Share of a reply that must come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is measured under which conditions.

    Attributes:
        reply: Seconds of agent audio in each reply.
        delays: Factor on the engines' delays; 0 for none.
        overlap: Whether answers are begun before the decision.
        noise: Level of noise throughout the calls, in dBFS; -inf for digital silence.
        babble: Whether it is many voices, not white noise.
        wait: Seconds of silence that end a turn; 0 lets the server decide.
    """

    reply: float = 2.0
    delays: float = 1.0
    overlap: bool = True
    noise: float = -math.inf
    babble: bool = False
    wait: float = 0.2

    def __post_init__(self) -> None:
        within("--reply", self.reply, 0.1, 600.0, "s")
        within("--delays", self.delays, 0.0, 100.0)
        if self.wait:
            within("--wait", self.wait, 0.1, 3.0, "s")
        if not self.noise <= 0.0:
            raise ValueError(f"--noise is {self.noise:g} dBFS; expected 0, full scale, or less")

    def settings(self) -> dict[str, Any]:
        """Return them as the server's settings."""
        chosen: dict[str, Any] = {
            "profile": "bench",
            "bench.reply": self.reply,
            "bench.delays": self.delays,
        }
        if not self.overlap:
            chosen["turn.speculations"] = 0
        if self.wait:
            chosen |= {"turn.shortest_wait": self.wait, "turn.longest_wait": self.wait}
        else:
            chosen |= {"turn.shortest_wait": 0.15, "turn.longest_wait": 1.5}
        return chosen

    def described(self) -> dict[str, Any]:
        """Return them as they are printed."""
        kind = "babble" if self.babble else "white"
        return {
            "reply_s": self.reply,
            "delays": self.delays,
            "overlap": self.overlap,
            "wait_s": self.wait or "adaptive",
            "noise": "none" if math.isinf(self.noise) else f"{kind} {self.noise:g} dBFS",
        }


async def speech(conditions: Conditions, texts: Sequence[str]) -> tuple[list[Any], list[bytes]]:
    """Return utterances ending on their last sample, and the silence between, as frames."""
    said = [await spoken(text, "en-us") for text in texts]
    return noisy(said, await noise(conditions))


async def noise(conditions: Conditions) -> Pcm:
    """Return the noise of the callers' line, at `RATE`, to be repeated."""
    if not conditions.babble:
        return white(conditions.noise)
    voices = [await spoken(UTTERANCES[n % 3], voice) for n, voice in enumerate(BABBLE)]
    return babble(voices, conditions.noise)


async def spoken(text: str, voice: str) -> Pcm:
    """Return speech at `RATE`, from its first to its last sample above -40 dB of full scale."""
    pcm, rate = await synthesise(text, voice)
    resampler = Resampler(rate, RATE)
    whole = np.concatenate([resampler.push(pcm), resampler.flush()])
    loud = np.flatnonzero(np.abs(whole) > 0.01)
    whole = whole[loud[0] : loud[-1] + 1]
    return np.asarray(0.8 * whole / np.abs(whole).max(), np.float32)


async def latency(
    conditions: Conditions, counts: Sequence[int], turns: int, console: Console
) -> None:
    """Measure voice-to-voice with each number of calls at once; print one JSON line for each."""
    for count in counts:
        print_row(console, await _run(conditions, count, turns))


async def interruptions(conditions: Conditions, turns: int, console: Console) -> None:
    """Measure how soon the agent is silent once the caller speaks; print one JSON line."""
    said, silence = await speech(conditions, UTTERANCES)
    plan = Plan(speech=said, silence=silence, turns=turns, interrupt=1, period=0)
    server_core, own_core = bench_server.apart()
    os.sched_setaffinity(0, own_core)
    async with bench_server.server(settings=conditions.settings(), cores=server_core) as server:
        (caller,) = await hold("127.0.0.1", server.port, plan, 1)
    row: dict[str, Any] = {"what": "barge-in", "unit": "ms", **conditions.described()}
    for place, text in enumerate(UTTERANCES):
        chosen = [t for t in caller.turns[1:] if t.interrupting and t.number % 3 == place]
        stops = [t.early - t.started for t in chosen if t.early is not None]
        # The agent had stopped before the first of its messages could meet the caller's voice.
        stops += [0.0 for t in chosen if t.early is None]
        row[f"speech{place + 1}"] = {"text": text, "n": len(stops), **percentiles(stops, (50, 95))}
    every = [
        0.0 if t.early is None else t.early - t.started for t in caller.turns[1:] if t.interrupting
    ]
    print_row(console, row | percentiles(every, (50, 95)) | machine())


async def soak(conditions: Conditions, count: int, minutes: float, console: Console) -> None:
    """Hold calls with interruptions for long; print resident memory each minute, and its slope.

    Raises:
        RuntimeError: If a call was lost or got stuck, or something was left behind.
    """
    said, silence = await speech(conditions, UTTERANCES)
    plan = Plan(speech=said, silence=silence, turns=10**6, interrupt=3, period=0)
    server_core, own_core = bench_server.apart()
    os.sched_setaffinity(0, own_core)
    async with bench_server.server(settings=conditions.settings(), cores=server_core) as server:
        idle, idle_tasks = server.usage(), await _tasks(server.url)
        samples: list[tuple[float, float]] = []
        began = monotonic()

        async def watch() -> None:
            while True:
                await asyncio.sleep(60)
                used, minute = server.usage(), (monotonic() - began) / 60
                samples.append((minute, used.memory))
                row = {"minute": round(minute, 1), "memory_mb": round(used.memory, 2)}
                row |= {"files": used.files, "tasks": await _tasks(server.url)}
                print_row(console, {"what": "soak", "calls": count, **row})

        watching = asyncio.create_task(watch())
        try:
            callers = await hold("127.0.0.1", server.port, plan, count, limit=minutes * 60)
        finally:
            watching.cancel()
        await asyncio.sleep(5)
        after, after_tasks = server.usage(), await _tasks(server.url)
    turns = [turn for caller in callers for turn in caller.turns[:-1]]
    # In the first third of half an hour every conversation reaches its bound (`context.MOST`).
    settled = [sample for sample in samples if sample[0] >= minutes / 3]
    slope, error = _slope(settled)
    row = {
        "what": "soak",
        "calls": count,
        "minutes": minutes,
        "turns": len(turns),
        "interruptions": sum(turn.interrupting for turn in turns),
        "unanswered": sum(turn.reply is None for turn in turns),
        "lost": sum(bool(caller.lost) for caller in callers),
        "memory_mb_per_minute": slope,
        "standard_error": error,
        "files_left": after.files - idle.files,
        "tasks_left": after_tasks - idle_tasks,
        **conditions.described(),
    }
    print_row(console, row | machine())
    if row["lost"] or row["files_left"] > 0 or row["tasks_left"] > 0:
        raise RuntimeError("calls were lost, or something was left behind: see the line above")


async def _run(conditions: Conditions, count: int, turns: int) -> dict[str, Any]:
    """Hold `count` calls and return what they heard and what they cost."""
    said, silence = await speech(conditions, UTTERANCES[:1])
    plan = Plan(speech=said, silence=silence, turns=turns + 1)
    cores, own_core = bench_server.apart()
    settings = conditions.settings()
    if real := real_engines():
        settings["turn.idle"] = 600.0  # nobody shall ask whether the caller is still there
        plan = replace(plan, period=REAL_PERIOD, patient=True)
        cores = set(bench_server.CORES)
    os.sched_setaffinity(0, own_core)
    async with bench_server.server(settings=settings, cores=cores) as server:
        await asyncio.sleep(1)
        idle = server.usage()
        begun: list[tuple[float, bench_server.Usage]] = []
        callers = await hold(
            "127.0.0.1",
            server.port,
            plan,
            count,
            begun=lambda: begun.append((monotonic(), server.usage())),
            limit=(turns + 3) * plan.period * (2 if real else 1) + 30,
        )
        (at, start), end = begun[0], server.usage()
        seconds = monotonic() - at
    measured = [turn for caller in callers for turn in caller.turns[1 : turns + 1]]
    good = [turn for turn in measured if turn.reply is not None and turn.early is None]
    gaps = [turn.reply.first - turn.ended for turn in good if turn.reply and turn.ended]
    described = conditions.described()
    if "tts" in real:  # how long a reply is to be, nobody knows but by the others
        lengths = [turn.reply.seconds for turn in measured if turn.reply]
        described["reply_s"] = round(float(np.median(lengths)), 2) if lengths else None
    bad = [kinds for turn in measured if (kinds := faults(turn, described["reply_s"]))]
    return {
        "what": "voice to voice",
        "unit": "ms",
        "calls": count,
        "turns": len(measured),
        **percentiles(gaps, (50, 95, 99)),
        **({"mean": round(1000 * float(np.mean(gaps)), 1)} if gaps else {}),
        "bad_turns": len(bad),
        "bad": dict(Counter(chain.from_iterable(bad))),
        "lost": sum(bool(caller.lost) for caller in callers),
        "cpu_percent": round(100 * (end.cpu - start.cpu) / seconds, 1),
        "cpu_percent_per_call": round(100 * (end.cpu - start.cpu) / seconds / count, 3),
        "memory_mb_per_call": round((end.memory - idle.memory) / count, 3),
        "caller_late_ms": round(1000 * max(caller.late for caller in callers), 1),
        **described,
        **({"engines": real} if real else {}),
        **machine(),
    }


def real_engines() -> dict[str, str]:
    """Return the engines of the profile that were replaced by ones that compute (`VOICE_ASR=…`)."""
    chosen = from_process({"profile": "bench"}).settings
    every = {"asr": chosen.asr, "llm": chosen.llm, "tts": chosen.tts}
    return {room: name for room, name in every.items() if name != "bench"}


def faults(turn: Turn, reply: float | None) -> list[str]:
    """Return what was wrong with a turn whose reply should have lasted `reply` seconds."""
    heard = turn.reply
    wrong = {
        "talked over": turn.early is not None,
        "unanswered": heard is None,
        "gap": heard is not None and heard.underruns > 0,
        "in part": heard is not None and heard.seconds < LEAST * (reply or 0.0),
    }
    return [name for name, is_so in wrong.items() if is_so]


def _slope(samples: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    """Return the slope of a line through `samples` and its standard error, None for too few."""
    if len(samples) < 3:
        return None, None
    x, y = np.array(samples).T
    slope, offset = np.polyfit(x, y, 1)
    rest = y - slope * x - offset
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(((x - x.mean()) ** 2).sum()))
    return round(float(slope), 4), round(error, 4)


async def _tasks(url: str) -> int:
    """Return how many tasks the server's loop has."""
    async with httpx.AsyncClient() as client:
        with suppress(httpx.TransportError, StopIteration, ValueError):
            text = (await client.get(f"{url}/metrics")).text
            line = next(line for line in text.splitlines() if line.startswith("voice_tasks "))
            return int(float(line.split()[1]))
    return 0

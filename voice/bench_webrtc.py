"""`voice bench --profile bench --transport webrtc`: how many WebRTC calls one core holds.

The server has one core, the callers (`voice.webrtc_callers`) another. All say the same
sentence in an endless loop, spread evenly over it; the loop is an odd number of frames
long, so that the ends of speech meet a voice detector's 32 ms windows in every position.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from rich.console import Console

from latency.trace import percentile
from transport.audio import Resampler
from transport.codec import SPEAKING_RATE
from transport.line import FRAME, HEARING_RATE, Line, Pcm
from transport.webrtc import answer
from voice import bench_server
from voice.bench_calls import UTTERANCES, Conditions, noise, spoken
from voice.bench_row import machine, percentiles, print_row
from voice.callers import RATE
from voice.capacity import BAD, SLOWER
from voice.webrtc_callers import SAMPLES, Caller, Loop, Pump, calls, make_loop

MOST_LAG = 1920
"""Samples at `SPEAKING_RATE` by which what is heard may lag: two frames."""


async def held(conditions: Conditions, counts: Sequence[int], turns: int, console: Console) -> None:
    """Measure with each number of calls in `counts`.

    Prints one JSON line for each, after the one-way delay and one call alone.

    Raises:
        RuntimeError: If the server does not get ready, or refuses a call.
    """
    loop = make_loop(
        await spoken(UTTERANCES[0], "en-us"), RATE, conditions.reply, await noise(conditions)
    )
    server_core, own_core = bench_server.apart()
    os.sched_setaffinity(0, own_core)
    async with bench_server.server(settings=conditions.settings(), cores=server_core) as server:
        print_row(console, await one_way())
        idle = server.usage().memory
        alone = await _measure(server, idle, 1, max(turns, 8), loop, conditions)
        print_row(console, alone)
        for count in counts:
            row = await _measure(server, idle, count, turns, loop, conditions)
            slow = not row["turns"] or row.get("p95", 0) > alone["p50"] + 1000 * SLOWER
            bad = sum(row["bad"].values()) > BAD * row["turns"]
            print_row(console, row | {"passed": not (slow or bad or row["lost_calls"])})


async def _post(http: httpx.AsyncClient, url: str, offer: str) -> str:
    """Return the answer to an offer.

    Raises:
        RuntimeError: If it is refused.
    """
    headers = {"Content-Type": "application/sdp"}
    got = await http.post(f"{url}/v1/webrtc", content=offer, headers=headers)
    if got.status_code != 201:
        raise RuntimeError(f"the server refused a call ({got.status_code}): {got.text}")
    return got.text


async def _measure(
    server: bench_server.Measured,
    idle: float,
    count: int,
    turns: int,
    loop: Loop,
    conditions: Conditions,
) -> dict[str, Any]:
    """Hold `count` calls for `turns` turns after the first; return the row."""
    turn, (core,) = len(loop.payloads) * FRAME, bench_server.apart()[0]
    async with httpx.AsyncClient(timeout=30) as http:

        async def post(offer: str) -> str:
            return await _post(http, server.url, offer)

        async with calls(count, loop, conditions.reply, post) as (callers, pump):
            await asyncio.sleep(1.0 + 2 * turn)  # all have begun, and had their first turn
            for caller in callers:
                caller.score.gaps.clear()
                caller.score.bad.clear()
                caller.score.turns = caller.missing = 0
            pump.late = 0.0
            cpu, driver = server.usage().cpu, time.process_time()
            busy = bench_server.busy_seconds(core)
            began = time.monotonic()
            await asyncio.sleep(turns * turn)
            window = time.monotonic() - began
            used = server.usage()
            cpu, driver = used.cpu - cpu, time.process_time() - driver
            others = bench_server.busy_seconds(core) - busy - cpu
            lost = sum(not caller.connected for caller in callers)
            scores = [caller.score for caller in callers]
    gaps = [gap for score in scores for gap in score.gaps]
    return {
        "what": "webrtc calls",
        "calls": count,
        "turns": sum(score.turns for score in scores),
        **percentiles(gaps, (50, 95, 99)),
        "unit": "ms",
        "bad": _summed(score.bad for score in scores),
        "lost_calls": lost,
        "lost_packets": sum(caller.missing for caller in callers),
        "cpu_percent": round(100 * cpu / window, 1),
        "cpu_percent_per_call": round(100 * cpu / window / count, 2),
        "memory_mb": round(used.memory, 1),
        "memory_mb_per_call": round((used.memory - idle) / count, 2),
        "others_percent": round(100 * max(0.0, others) / window, 1),
        "callers_cpu_percent": round(100 * driver / window, 1),
        "callers_late_ms": round(1000 * pump.late, 1),
        **conditions.described(),
        **machine(),
    }


def _summed(tables: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for table in tables:
        for reason, number in table.items():
            total[reason] = total.get(reason, 0) + number
    return total


class _Ear:
    """A conversation that notes when it hears what."""

    def __init__(self, line: Line) -> None:
        self.heard: list[tuple[float, Pcm]] = []
        self._clock = time.monotonic

    def hear(self, pcm: Pcm, arrived: float | None = None) -> None:
        self.heard.append((self._clock(), pcm))

    def receive(self, message: Mapping[str, Any]) -> None:
        pass

    def lost(self, reason: str) -> None:
        pass


async def one_way(seconds: float = 3.0) -> dict[str, Any]:
    """Return the delay from a packet handed to its socket to its samples in `Call.hear`.

    Both ends are in this process. On top come the 20 ms that a packet takes to fill,
    and `codec_ms`: by how much what is heard lags behind what was said, found by
    laying one over the other.
    """
    ears: list[_Ear] = []
    peers = []

    def attach(line: Line) -> _Ear:
        ears.append(_Ear(line))
        return ears[-1]

    async def post(offer: str) -> str:
        peers.append(await answer(offer, attach, loopback=True))
        return peers[-1].sdp

    noise = np.random.default_rng(1).standard_normal(HEARING_RATE // 2).astype(np.float32)
    smooth = 0.1 * np.convolve(noise, np.hanning(32) / 16, "same")
    loop = make_loop(smooth.astype(np.float32), HEARING_RATE, 0.1)
    caller, pump = Caller(loop, 0.1, keep=True), Pump()
    try:
        await caller.connect(post)
        assert caller.sent is not None
        pump.add(caller, 0)
        caller.speak_after(5)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pump.run(), seconds)
        await asyncio.sleep(0.05)  # the last are on their way
    finally:
        await caller.close()
        await asyncio.gather(*(peer.close() for peer in peers))
    heard = ears[0].heard
    delays = [at - sent for sent, (at, _) in zip(caller.sent, heard, strict=False)]
    return {
        "what": "one way, packet sent to Call.hear",
        "unit": "ms",
        "packets": len(delays),
        "sent": len(caller.sent),
        **{f"p{p}": round(1000 * percentile(delays, p), 2) for p in (50, 95, 99)},
        "framing_ms": round(1000 * FRAME, 1),
        "codec_ms": round(1000 * _lag(loop, np.concatenate([pcm for _, pcm in heard])), 2),
    }


def _lag(loop: Loop, heard: Pcm) -> float:
    """Return by how many seconds `heard`, at `HEARING_RATE`, is behind one round of `loop`."""
    resampler = Resampler(HEARING_RATE, SPEAKING_RATE)  # soft in itself: half of it each way
    fine = np.concatenate([resampler.push(heard), resampler.flush()])
    begin = 5 * SAMPLES  # of silence before the loop
    length = min(loop.spoken * SAMPLES, len(fine) - begin - MOST_LAG)
    fits = [np.dot(fine[begin + lag :][:length], loop.pcm[:length]) for lag in range(MOST_LAG)]
    return int(np.argmax(fits)) / SPEAKING_RATE

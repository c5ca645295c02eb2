"""How many WebRTC calls one core holds, and what they hear. Run: python -m voice.bench_webrtc

The server has one core, the callers (`voice.webrtc_callers`) another. All say the same
sentence in an endless loop, spread evenly over it; the loop is an odd number of frames
long, so that the ends of speech meet a voice detector's 32 ms windows in every position.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import sys
import tempfile
import time
import wave
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from rich.console import Console

from latency.trace import percentile
from transport.audio import Resampler, from_pcm16
from transport.codec import SPEAKING_RATE
from transport.line import FRAME, HEARING_RATE, Line, Pcm
from transport.webrtc import answer
from voice.bench_server import usage
from voice.calling import synthesise
from voice.webrtc_callers import SAMPLES, Caller, Loop, Pump, calls, make_loop

QUESTION = "Could you please tell me the time in London?"

SLOWER = 0.25
"""Seconds by which the 95th percentile may be slower than one call's median."""

BAD = 0.02
"""Share of turns that may be bad."""

COUNTS: Final = (10, 25, 45, 60, 80, 100, 130, 170, 220)
"""Calls at once, until one fails."""

STEP = 5
"""Calls to which the limit is found."""

MOST_LAG = 1920
"""Samples at `SPEAKING_RATE` by which what is heard may lag: two frames."""

STARTED_WITHIN = 60.0
"""Seconds that the server may take to be ready."""


def next_count(passed: Mapping[int, bool], counts: Sequence[int] = COUNTS) -> int | None:
    """Return how many calls to try next, None once the limit is known to `STEP` calls."""
    held = max((count for count, good in passed.items() if good), default=0)
    failed = min((count for count, good in passed.items() if not good), default=None)
    if failed is None:
        return next((count for count in counts if count > held), None)
    middle = (held + failed) // 2 // STEP * STEP
    return middle if held < middle < failed else None


@dataclass(slots=True)
class Server:
    """The server that is measured.

    Attributes:
        url: Its address.
        key: Its key.
        process: Its process, None if it was not started here.
        core: The core it has to itself, as far as other work leaves it; None likewise.
        idle_mb: Its memory before the first call.
    """

    url: str
    key: str
    process: int | None
    core: int | None = None
    idle_mb: float = 0.0

    async def post(self, http: httpx.AsyncClient, offer: str) -> str:
        """Return the answer to an offer.

        Raises:
            RuntimeError: If it is refused.
        """
        headers = {"Content-Type": "application/sdp"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        got = await http.post(f"{self.url}/v1/webrtc", content=offer, headers=headers)
        if got.status_code != 201:
            raise RuntimeError(f"the server refused a call ({got.status_code}): {got.text}")
        return got.text


async def bench(
    console: Console,
    *,
    url: str = "",
    key: str = "",
    counts: Sequence[int] = COUNTS,
    turns: int = 4,
    reply: float = 2.0,
    noise_db: float | None = None,
    wav: Path | None = None,
    search: bool = True,
) -> None:
    """Measure with each number of calls in `counts` at once; print one JSON line for each.

    With `search` it goes on until a number fails and halves down to a step of 5. The
    callers say `wav` (16 bit, mono), or `QUESTION`. Without `url`, a server of the
    profile "bench" is started here, on another core than the callers'.

    Raises:
        RuntimeError: If the server does not get ready, or refuses a call.
    """
    speech, rate = _read(wav) if wav else await synthesise(QUESTION, "en-us+f3")
    loop = make_loop(speech, rate, reply, noise_db)
    async with _server(url, key, reply) as server:
        console.print(json.dumps(await one_way()), soft_wrap=True, highlight=False)
        alone = await _measure(server, 1, max(turns, 8), loop, reply)
        console.print(json.dumps(alone), soft_wrap=True, highlight=False)
        passed: dict[int, bool] = {}
        given = iter(counts)
        while (count := next_count(passed, counts) if search else next(given, None)) is not None:
            row = await _measure(server, count, turns, loop, reply)
            slow = not row["turns"] or row.get("p95", 0) > alone["p50"] + 1000 * SLOWER
            bad = sum(row["bad"].values()) > BAD * row["turns"]
            passed[count] = not (slow or bad or row["lost_calls"])
            row["passed"] = passed[count]
            console.print(json.dumps(row), soft_wrap=True, highlight=False)


async def _measure(
    server: Server, count: int, turns: int, loop: Loop, reply: float
) -> dict[str, Any]:
    """Hold `count` calls for `turns` turns after the first; return the row."""
    turn = len(loop.payloads) * FRAME
    async with httpx.AsyncClient(timeout=30) as http:

        async def post(offer: str) -> str:
            return await server.post(http, offer)

        async with calls(count, loop, reply, post) as (callers, pump):
            await asyncio.sleep(1.0 + 2 * turn)  # all have begun, and had their first turn
            for caller in callers:
                caller.score.gaps.clear()
                caller.score.bad.clear()
                caller.score.turns = caller.missing = 0
            pump.late = 0.0
            cpu, driver = cpu_seconds(server.process), time.process_time()
            busy = busy_seconds(server.core)
            began = time.monotonic()
            await asyncio.sleep(turns * turn)
            window = time.monotonic() - began
            cpu, driver = cpu_seconds(server.process) - cpu, time.process_time() - driver
            others = busy_seconds(server.core) - busy - cpu
            memory = usage(server.process).memory if server.process else 0.0
            lost = sum(not caller.connected for caller in callers)
            scores = [caller.score for caller in callers]
    gaps = [gap for score in scores for gap in score.gaps]
    return {
        "what": "webrtc calls",
        "calls": count,
        "turns": sum(score.turns for score in scores),
        **{
            f"p{percent}": round(1000 * percentile(gaps, percent), 1)
            for percent in (50, 95, 99)
            if gaps
        },
        "unit": "ms",
        "bad": _summed(score.bad for score in scores),
        "lost_calls": lost,
        "lost_packets": sum(caller.missing for caller in callers),
        "cpu_percent": round(100 * cpu / window, 1),
        "cpu_percent_per_call": round(100 * cpu / window / count, 2),
        "memory_mb": round(memory, 1),
        "memory_mb_per_call": round((memory - server.idle_mb) / count, 2),
        "others_percent": round(100 * max(0.0, others) / window, 1),
        "callers_cpu_percent": round(100 * driver / window, 1),
        "callers_late_ms": round(1000 * pump.late, 1),
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} x {platform.machine()}",
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

    def hear(self, pcm: Pcm) -> None:
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


def cpu_seconds(process: int | None) -> float:
    """Return the CPU time of a process and all below it so far."""
    total, family = 0, [process] if process else []
    while family:
        parent = Path(f"/proc/{family.pop()}")
        try:
            fields = (parent / "stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
            for task in (parent / "task").iterdir():
                family += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has just ended
    return total / os.sysconf("SC_CLK_TCK")


def busy_seconds(core: int | None) -> float:
    """Return for how long a core has worked so far, for whomever."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *times = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, *more = map(int, times)
            return (user + nice + system + sum(more[:3])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _read(wav: Path) -> tuple[Pcm, int]:
    with wave.open(str(wav)) as file:
        return from_pcm16(file.readframes(file.getnframes())), file.getframerate()


@asynccontextmanager
async def _server(url: str, key: str, reply: float) -> AsyncIterator[Server]:
    """Yield the server at `url`, or one started here on a core of its own."""
    if url:
        yield Server(url, key, None)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as data:
        os.sched_setaffinity(0, cores[-1:])  # the server inherits it
        try:
            command = ("-m", "voice.cli", "serve", "--profile", "bench", "--port", str(port))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *command, "--reply", str(reply)),
                env=os.environ | {"VOICE_DATA": data, "VOICE_KEY": key},
                stdout=asyncio.subprocess.DEVNULL,
            )
            os.sched_setaffinity(0, cores[-2:-1] or cores)
            server = Server(f"http://127.0.0.1:{port}", key, process.pid, cores[-1])
            try:
                await _ready(server, process)
                server.idle_mb = usage(process.pid).memory
                yield server
            finally:
                if process.returncode is None:
                    process.terminate()
                await process.wait()
        finally:
            os.sched_setaffinity(0, cores)


async def _ready(server: Server, process: asyncio.subprocess.Process) -> None:
    """Wait until `server` takes calls.

    Raises:
        RuntimeError: If it ends, or takes too long.
    """
    async with httpx.AsyncClient() as http:
        for _ in range(round(STARTED_WITHIN / 0.1)):
            if process.returncode is not None:
                raise RuntimeError(f"the server ended with status {process.returncode}")
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"{server.url}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the server was not ready after {STARTED_WITHIN:.0f} s")


def main() -> None:
    """Measure from the command line."""
    import uvloop

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", default="", help="a running server; else one is started")
    parser.add_argument("--key", default="")
    parser.add_argument("--calls", type=int, nargs="+", help="these numbers only, no search")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--reply", type=float, default=2.0)
    parser.add_argument("--noise-db", type=float)
    parser.add_argument("--wav", type=Path)
    given = parser.parse_args()
    uvloop.run(
        bench(
            Console(),
            url=given.url,
            key=given.key,
            counts=given.calls or COUNTS,
            turns=given.turns,
            reply=given.reply,
            noise_db=given.noise_db,
            wav=given.wav,
            search=given.calls is None,
        )
    )


if __name__ == "__main__":
    main()

"""How many WebRTC calls one core holds, and what they hear. Run: python -m voice.bench_webrtc

Every caller is a real peer connection (ICE, DTLS, SRTP, Opus, a data channel), but
its speech is encoded beforehand and its packets pass aiortc by, so that a hundred
callers fit on the core beside the server's. All say the same sentence in an endless
loop, spread evenly over it; the loop is an odd number of frames long, so that the
ends of speech meet a voice detector's 32 ms windows in every position.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import socket
import sys
import tempfile
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import SessionDescription
from rich.console import Console

from latency.trace import percentile
from transport.audio import Resampler, from_pcm16, level_db
from transport.codec import SPEAKING_RATE, Decoder, Encoder
from transport.line import FRAME, HEARING_RATE, Line, Pcm
from transport.rtp import RtpPacket
from transport.webrtc import answer
from transport.webrtc_addresses import only_loopback
from transport.webrtc_line import LABEL
from transport.webrtc_wire import Wire
from voice.bench import resident
from voice.calling import synthesise
from voice.client import AUDIBLE_DB

QUESTION = "Could you please tell me the time in London?"

SAMPLES = round(FRAME * SPEAKING_RATE)

ROOM = 1.1
"""Seconds of a turn that are neither speech nor reply: the answer's delay and the pauses."""

JITTER_BUFFER = 0.06
"""Seconds that a caller's loudspeaker holds back, as the comparison with other servers has it."""

SAME_REPLY = 0.3
"""Seconds after running dry within which audio belongs to the same reply."""

WHOLE = 0.9
"""Share of a reply that has to come."""

SLOWER = 0.25
"""Seconds by which the 95th percentile may be slower than one call's median."""

BAD = 0.02
"""Share of turns that may be bad."""

COUNTS: Final = (10, 25, 45, 60, 80, 100, 130, 170, 220)
"""Calls at once, until one fails."""

STEP = 5
"""Calls to which the limit is found."""

SLOTS = 20
"""Moments within a frame at which callers send: they do not all at once."""

STARTED_WITHIN = 60.0
"""Seconds that the server may take to be ready."""

Answerer = Callable[[str], Awaitable[str]]


@dataclass(slots=True)
class Score:
    """What one caller hears, turn by turn. Pure: moments are seconds of any one clock.

    Attributes:
        reply: Seconds that every reply lasts.
        gaps: From the last packet with speech to the first audible one, of each good turn.
        bad: Turns that were not, by reason.
        turns: Turns scored.
    """

    reply: float
    gaps: list[float] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)
    turns: int = 0
    _speaking: bool = True
    _silent_at: float | None = None
    _first: float | None = None
    _packets: int = 0
    _dry: float = 0.0
    _spoiled: str = ""

    @property
    def wants_sound(self) -> bool:
        """Whether it matters if the next packet is audible; after the first it does not."""
        return self._speaking or self._first is None

    def speak(self, now: float) -> None:
        """The caller begins to speak: the turn before is over."""
        if self._silent_at is not None:
            self._close(self._silent_at)
        self._speaking, self._silent_at, self._first = True, None, None
        self._packets, self._spoiled = 0, ""

    def fall_silent(self, now: float) -> None:
        """The last packet with speech has left."""
        self._speaking, self._silent_at = False, now

    def hear(self, now: float, audible: bool) -> None:
        """A packet came."""
        if self._speaking:
            if audible:
                self._spoiled = "talked_over"
            return
        if self._first is None:
            if not audible:
                return
            self._first, self._dry = now, now + JITTER_BUFFER
        elif now > self._dry:
            if now - self._dry < SAME_REPLY and self._packets < self.reply / FRAME - 1:
                self._spoiled = self._spoiled or "underrun"
            self._dry = now + JITTER_BUFFER
        self._packets += 1
        self._dry += FRAME

    def _close(self, silent_at: float) -> None:
        self.turns += 1
        if self._first is None:
            self._spoiled = self._spoiled or "no_reply"
        elif self._packets * FRAME < WHOLE * self.reply:
            self._spoiled = self._spoiled or "short"
        else:
            self.gaps.append(self._first - silent_at)
        if self._spoiled:
            self.bad[self._spoiled] = self.bad.get(self._spoiled, 0) + 1


def next_count(passed: Mapping[int, bool], counts: Sequence[int] = COUNTS) -> int | None:
    """Return how many calls to try next, None once the limit is known to `STEP` calls."""
    held = max((count for count, good in passed.items() if good), default=0)
    failed = min((count for count, good in passed.items() if not good), default=None)
    if failed is None:
        return next((count for count in counts if count > held), None)
    middle = (held + failed) // 2 // STEP * STEP
    return middle if held < middle < failed else None


@dataclass(frozen=True, slots=True)
class Loop:
    """One turn of speech and silence, encoded; it repeats without a seam.

    Attributes:
        payloads: Opus, 20 ms each.
        spoken: How many of them hold speech; the first is the first.
        pcm: What they hold, at `SPEAKING_RATE`.
    """

    payloads: list[bytes]
    spoken: int
    pcm: Pcm


def make_loop(speech: Pcm, rate: int, reply: float, noise_db: float | None = None) -> Loop:
    """Encode `speech`, and silence for a reply of `reply` seconds.

    `noise_db` is the level of a noise under all of it, in dB of full scale.
    """
    resampler = Resampler(rate, SPEAKING_RATE)
    voice = np.concatenate([resampler.push(speech), resampler.flush()])
    loud = np.flatnonzero(np.abs(voice) > 0.01)
    voice = voice[loud[0] : loud[-1] + 1]
    spoken = math.ceil(len(voice) / SAMPLES)
    frames = (spoken + round((reply + ROOM) / FRAME)) | 1
    pcm = np.zeros(frames * SAMPLES, np.float32)
    pcm[spoken * SAMPLES - len(voice) : spoken * SAMPLES] = voice  # ends with a packet
    if noise_db is not None:
        noise = np.random.default_rng(0).standard_normal(len(pcm))
        pcm += (10 ** (noise_db / 20) * noise).astype(np.float32)
    encoder = Encoder("opus")
    encoded = [encoder.encode(frame) for frame in np.tile(pcm.reshape(-1, SAMPLES), (2, 1))]
    return Loop(encoded[frames:], spoken, pcm)


class Nothing(MediaStreamTrack):
    """A track without frames: the packets pass it by."""

    kind = "audio"

    async def recv(self) -> Any:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()
        raise MediaStreamError


class Caller:
    """One call.

    Attributes:
        score: What it hears.
        sent: When each packet was handed to the socket, where `keep` was asked for.
        missing: Packets that never came.
    """

    def __init__(self, loop: Loop, reply: float, *, keep: bool = False) -> None:
        self.score = Score(reply)
        self.sent: list[float] | None = [] if keep else None
        self.missing = 0
        self._loop = loop
        self._clock = time.monotonic
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._sender = self._connection.addTrack(Nothing())
        self._connection.createDataChannel(LABEL)
        self._wire: Wire | None = None
        self._decoder = Decoder("opus")
        self._expected: int | None = None
        self._packets = 0
        self._place = loop.spoken  # silence, until `speak_at`
        self._speaks = False

    async def connect(self, post: Answerer) -> None:
        """Offer with `post`; return when connected.

        Raises:
            TimeoutError: If that takes more than 10 s.
        """
        connection = self._connection
        only_loopback(connection)
        await connection.setLocalDescription(await connection.createOffer())
        sdp = await post(connection.localDescription.sdp)
        connected = asyncio.Event()
        connection.on("connectionstatechange", lambda: connected.set() if self.connected else None)
        await connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        async with asyncio.timeout(10):
            await connected.wait()
        media = next(m for m in SessionDescription.parse(sdp).media if m.kind == "audio")
        self._wire = Wire(self._sender, connection.getReceivers()[0], media, self._hear)

    @property
    def connected(self) -> bool:
        """Whether the call goes on."""
        return self._connection.connectionState == "connected"

    def speak_after(self, frames: int) -> None:
        """Begin to speak `frames` from now, and in every turn after that."""
        self._place = -frames
        self._speaks = True

    def send(self) -> None:
        """Send the next packet."""
        if self._wire is None:
            return
        loop, place = self._loop, self._place
        if place == 0:
            self.score.speak(self._clock())
        payload = loop.payloads[place if self._speaks and place >= 0 else -1]
        if self.sent is not None:
            self.sent.append(self._clock())
        self._wire.send(payload, self._packets * SAMPLES, marker=False)
        self._packets += 1
        if self._speaks:
            self._place = (place + 1) % len(loop.payloads) if place >= 0 else place + 1
            if place == loop.spoken - 1:
                self.score.fall_silent(self._clock())

    def _hear(self, packet: RtpPacket) -> None:
        now = self._clock()
        if self._expected is not None:
            self.missing += max(
                0, (packet.sequence_number - self._expected + 2**15) % 2**16 - 2**15
            )
        self._expected = (packet.sequence_number + 1) & 0xFFFF
        audible = False
        if self.score.wants_sound:
            audible = level_db(self._decoder.decode(packet.payload)) > AUDIBLE_DB
        self.score.hear(now, audible)

    async def close(self) -> None:
        """Hang up."""
        await self._connection.close()


class Pump:
    """Sends every caller's packets, 20 ms apart, on one monotonic schedule.

    Attributes:
        late: The most that a packet was late, in seconds.
    """

    def __init__(self) -> None:
        self.late = 0.0
        self._slots: list[list[Caller]] = [[] for _ in range(SLOTS)]

    def add(self, caller: Caller, number: int) -> None:
        """Send the packets of `caller` from now on."""
        self._slots[number * 7 % SLOTS].append(caller)  # neighbours are apart

    async def run(self) -> None:
        """Send until cancelled."""
        clock = time.monotonic  # uvloop's own counts whole milliseconds
        begun, tick = clock(), 0
        while True:
            due = begun + tick * FRAME / SLOTS
            now = clock()
            if now < due:
                await asyncio.sleep(due - now)
            else:
                self.late = max(self.late, now - due)
                if tick % SLOTS == 0:
                    await asyncio.sleep(0)  # what comes in is due, too
            for caller in self._slots[tick % SLOTS]:
                caller.send()
            tick += 1
            while tick % SLOTS and not self._slots[tick % SLOTS]:
                tick += 1


@asynccontextmanager
async def _calls(count: int, loop: Loop, reply: float, post: Answerer) -> AsyncIterator[Any]:
    """Yield `count` callers in calls, and what sends their packets."""
    pump, callers = Pump(), [Caller(loop, reply) for _ in range(count)]
    sending = asyncio.create_task(pump.run())
    try:
        for number, caller in enumerate(callers):
            await caller.connect(post)
            pump.add(caller, number)
        for number, caller in enumerate(callers):
            caller.speak_after(50 + number * len(loop.payloads) // count)
        yield callers, pump
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await asyncio.gather(*(caller.close() for caller in callers))


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
        queue = list(counts)
        while queue if not search else (following := next_count(passed, counts)) is not None:
            count = following if search else queue.pop(0)
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

        async with _calls(count, loop, reply, post) as (callers, pump):
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
            memory = resident(server.process) if server.process else 0.0
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

    noise = np.random.default_rng(1).standard_normal(HEARING_RATE).astype(np.float32)
    smooth = np.convolve(noise, np.hanning(32).astype(np.float32) / 16, "same") * 0.1
    loop = make_loop(smooth, HEARING_RATE, 0.1)
    caller, pump = Caller(loop, 0.1, keep=True), Pump()
    try:
        await caller.connect(post)
        assert caller.sent is not None
        pump.add(caller, 0)
        caller.speak_after(5)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pump.run(), seconds)
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
    length = loop.spoken * SAMPLES
    fits = [
        float(np.dot(fine[begin + shift :][:length], loop.pcm[:length])) for shift in range(1920)
    ]
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
                server.idle_mb = resident(process.pid)
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

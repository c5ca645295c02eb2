"""Callers by the hundred, to measure a server with: each as light as it can be.

A caller sends frames that were encoded beforehand, 20 ms every 20 ms, and looks at
what comes back only as far as needed: is it sound, how long, when. Voice-to-voice
runs from the write of the frame that ends with the last speech sample to the first
audible message received; where it is `stamped`, from that sample on the microphone's
clock to the first audible sample as the kernel received it. Noise, where wanted, goes on
through speech and silence.
"""

import asyncio
import json
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Protocol, cast

import numpy as np
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from transport.audio import Pcm, to_pcm16
from transport.line import FRAME
from voice.arrivals import StampedWire
from voice.packet_timer import PacketTimer
from voice.talker import AUDIBLE as AUDIBLE
from voice.talker import BUFFER as BUFFER
from voice.talker import GIVE_UP as GIVE_UP
from voice.talker import Plan as Plan
from voice.talker import Reply as Reply
from voice.talker import Speech as Speech
from voice.talker import Talker
from voice.talker import Turn as Turn

RATE = 16_000
SAMPLES = round(RATE * FRAME)

NOISE_LOOP = 5.0
"""Seconds after which noise repeats."""

Heed = Callable[["Caller", Mapping[str, Any]], None]
"""Takes the JSON events that a caller is told."""


class Connection(Protocol):
    """What a caller needs of its connection; see `asyncio.Transport`."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


def frames(pcm: Pcm) -> list[bytes]:
    """Return samples as encoded WebSocket messages of 20 ms; the mask is zero."""
    head = Frame(Opcode.BINARY, b"\0" * 2 * SAMPLES).serialize(mask=False)[:4]
    head = bytes([head[0], head[1] | 0x80]) + head[2:] + b"\0\0\0\0"
    pieces = pcm.reshape(-1, SAMPLES)
    return [head + to_pcm16(piece) for piece in pieces]


def noisy(speech: Sequence[Pcm], noise: Pcm) -> tuple[list[Speech], list[bytes]]:
    """Return utterances and the silence between them, both with `noise` throughout."""
    loop = noise[: len(noise) // SAMPLES * SAMPLES]
    mixed = []
    for pcm in speech:
        whole = np.pad(pcm, (-len(pcm) % SAMPLES, 0))
        mixed.append(Speech(frames(whole + np.resize(loop, len(whole)))))
    return mixed, frames(loop)


def white(level_db: float) -> Pcm:
    """Return white noise of an RMS of `level_db` dBFS; -inf for digital silence."""
    if math.isinf(level_db):
        return np.zeros(SAMPLES, np.float32)
    noise = np.random.default_rng(5).standard_normal(round(NOISE_LOOP * RATE))
    return (noise * 10 ** (level_db / 20)).astype(np.float32)


def babble(voices: Sequence[Pcm], level_db: float) -> Pcm:
    """Return many voices at once, of an RMS of `level_db` dBFS."""
    mix = np.zeros(round(NOISE_LOOP * RATE), np.float32)
    random = np.random.default_rng(6)
    for pcm in voices:
        for _ in range(3):
            mix += np.roll(np.resize(pcm, len(mix)), int(random.integers(len(mix))))
    return mix * np.float32(10 ** (level_db / 20) / np.sqrt(np.mean(np.square(mix))))


class Caller(asyncio.Protocol):
    """A call: speaks the plan's utterances, and goes on after its last turn until hung up."""

    def __init__(
        self,
        address: str,
        plan: Plan,
        offset: float,
        *,
        first: int = 0,
        exact: bool = False,
        heed: Heed | None = None,
    ) -> None:
        """Call `address` (ws://…) and begin to speak `offset` seconds after the call's begin.

        It says the plan's utterances from place `first` on, sends by an `exact` timer or
        the loop's, and gives the events it is told to `heed`.
        """
        self.talker = Talker(plan, first)
        self.name = ""
        """The call, as the server names it; known where somebody heeds the events."""
        self.lost = ""
        """Why the call ended before it was hung up, "" if it did not."""
        self.late = 0.0
        """The longest that a frame was sent after it was due, in seconds."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._offset, self._heed = offset, heed
        self._delay: Callable[[], float] | None = None
        self._protocol = ClientProtocol(parse_uri(address), max_size=2**24)
        self._error = ""
        self._begin = 0.0
        self._held: deque[tuple[float, bytes]] = deque()
        self._timer = PacketTimer(self._tick, exact=exact)
        self._hung_up = False

    @property
    def turns(self) -> list[Turn]:
        """What happened, turn by turn."""
        return self.talker.turns

    @property
    def read_late(self) -> float:
        """The longest that something waited for this process to read it; 0 if unknown."""
        return self._wire.read_late if isinstance(self._wire, StampedWire) else 0.0

    # The wire.

    def connection_made(self, transport: asyncio.BaseTransport | StampedWire) -> None:
        """Ask for the WebSocket."""
        self._wire = cast(Connection, transport)
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the server has ended the call."""
        self._timer.close()
        if not self._hung_up:
            self.lost = self.lost or self._error or "the server closed the connection"
        self._finish()

    def data_received(self, data: bytes) -> None:
        """Take what the server sent."""
        self.take(data, monotonic())

    def take(self, data: bytes, now: float) -> None:
        """Take what the server sent and was received at `now`."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._opened(monotonic())
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                self._hear(event.data, now)
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT and self._heed:
                self._read(self._heed, event.data)
        self._flush()

    def _opened(self, now: float) -> None:
        if self._protocol.handshake_exc is not None:
            self.lost = str(self._protocol.handshake_exc)
            self._wire.close()
            return
        self._begin = now + 1.0 + self._offset
        self._timer.set(self._begin)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._wire.write(data)

    def hang_up(self) -> None:
        """End the call."""
        self._hung_up = True
        self._timer.close()
        self._wire.close()

    async def leave(self) -> None:
        """End the call."""
        self.hang_up()

    def hold_up(self, most: float) -> None:
        """Hold up packets by up to `most` seconds each, at random and in their order."""
        self._delay = (lambda: random.uniform(0.0, most)) if most else None

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    # Listening.

    def _hear(self, data: bytes | bytearray | memoryview, now: float) -> None:
        seconds = len(data) / 2 / RATE
        loud: float | None = None
        if self.talker.listens_closely:
            samples = np.frombuffer(data, "<i2").astype(np.int32)
            found = np.flatnonzero(np.abs(samples) >= AUDIBLE)
            if len(found):
                loud = int(found[0]) / RATE
        elif max(memoryview(data).cast("h"), default=0) >= AUDIBLE:
            loud = 0.0
        self.talker.hear(seconds, loud, now)

    def _read(self, heed: Heed, data: bytes | bytearray | memoryview) -> None:
        event = json.loads(bytes(data))
        if event.get("type") == "start":
            self.name = event["call"]
        elif event.get("type") == "error":
            self._error = str(event.get("message", ""))
        elif event.get("type") == "end":
            self._error = f"the server ended the call: {event.get('reason', '')}"
        heed(self, event)

    # Speaking.

    def _tick(self) -> None:
        """Send every frame that is due."""
        now = monotonic()
        due = self._begin + self.talker.sent * FRAME
        if due <= now:
            self.late = max(self.late, now - due)
        while due <= now:
            self._send(self.talker.next(now, due), due)
            due = self._begin + self.talker.sent * FRAME
        if self.talker.done:
            self._finish()
        while self._held and self._held[0][0] <= now:
            self._wire.write(self._held.popleft()[1])
        self._timer.set(min(due, self._held[0][0]) if self._held else due)

    def _send(self, frame: bytes, due: float) -> None:
        if self._delay is None and not self._held:
            self._wire.write(frame)
            return
        leaves = due + (self._delay() if self._delay is not None else 0.0)
        self._held.append((max(leaves, self._held[-1][0] if self._held else 0.0), frame))


async def hold(
    host: str,
    port: int,
    plan: Plan,
    count: int,
    *,
    path: str = "/v1/stream?rate=16000",
    begun: Callable[[], None] = lambda: None,
    limit: float = math.inf,
    stamped: bool = False,
    heed: Heed | None = None,
) -> list[Caller]:
    """Hold `count` calls until each has had its turns; return them, hung up.

    They begin spread evenly over a turn, so that the load is steady; `begun` is called when
    all have. `limit` is in seconds. `stamped` calls send and receive by the kernel's clock, and
    begin with different utterances; their events go to `heed`.

    Raises:
        OSError: If nobody listens there.
    """
    callers: list[Caller] = []
    for number in range(count):
        spread = (plan.period or 5.0) * number / count + 0.007 * (number % 3)
        caller = await place(
            host, port, plan, spread, number, path=path, stamped=stamped, heed=heed
        )
        callers.append(caller)
        await asyncio.sleep(0.02)
    await asyncio.sleep((plan.period or 5.0) + 1.5)
    begun()
    await asyncio.wait(
        [caller.done for caller in callers], timeout=None if math.isinf(limit) else limit
    )
    for caller in callers:
        caller.hang_up()
    await asyncio.sleep(0.2)
    return callers


async def place(
    host: str,
    port: int,
    plan: Plan,
    offset: float,
    number: int,
    *,
    path: str = "/v1/stream?rate=16000",
    stamped: bool = False,
    heed: Heed | None = None,
) -> Caller:
    """Place one call, the run's `number`th, that speaks from `offset` seconds on; see `hold`.

    Raises:
        OSError: If nobody listens there.
    """
    address = f"ws://{host}:{port}{path}"
    if stamped:
        caller = Caller(address, plan, offset, first=number, exact=True, heed=heed)
        wire = await StampedWire.connect(host, port, caller.take, caller.connection_lost)
        caller.connection_made(wire)
    else:
        caller = Caller(address, plan, offset, heed=heed)
        await asyncio.get_running_loop().create_connection(lambda: caller, host, port)
    return caller

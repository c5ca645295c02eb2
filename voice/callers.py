"""Callers by the hundred, to measure a server with: each as light as it can be.

A caller sends frames that were encoded beforehand, 20 ms every 20 ms, and looks at
what comes back only as far as needed: is it sound, how long, when. Voice-to-voice
runs from the write of the frame that ends with the last speech sample to the first
audible message received. Noise, where wanted, goes on through speech and silence.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import cast

import numpy as np
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from transport.audio import Pcm, to_pcm16
from transport.line import FRAME

RATE = 16_000
SAMPLES = round(RATE * FRAME)

BUFFER = 0.06
"""Seconds that the listener holds a reply's first audio before it plays it."""

AUDIBLE = 256
"""Peak, of 32768, from which a message is sound and not silence (-42 dBFS)."""

GIVE_UP = 6.0
"""Seconds without an answer after which a caller speaks again."""

NOISE_LOOP = 5.0
"""Seconds after which noise repeats."""


@dataclass(frozen=True, slots=True)
class Speech:
    """An utterance as WebSocket frames, ending exactly on its last speech sample."""

    frames: Sequence[bytes]

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.frames) * FRAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every caller of a run does.

    Attributes:
        speech: Utterances, taken in turn.
        silence: Frames between them, over and over.
        turns: Turns of each caller; it goes on speaking until it is hung up.
        period: Seconds from one utterance to the next; 0 begins it `pause` after the reply.
        interrupt: Every how many turns the caller speaks `barge_after` into the reply; 0 never.
        barge_after: Seconds of the reply that are heard before an interruption.
        pause: Seconds between a reply's end and the next utterance.
        patient: Whether an utterance that `period` makes due waits for `pause` after the reply's
            end, too: where nobody knows beforehand how long replies are.
    """

    speech: Sequence[Speech]
    silence: Sequence[bytes]
    turns: int
    period: float = 5.22
    interrupt: int = 0
    barge_after: float = 1.0
    pause: float = 0.7
    patient: bool = False


@dataclass(slots=True)
class Reply:
    """The agent's sound after one turn, as a listener with a fixed buffer plays it.

    Attributes:
        first: When its first message came.
        last: When its last did.
        play_end: When all that came will have been played.
        seconds: How much came.
        underruns: How often the listener ran dry within it.
    """

    first: float
    last: float = 0.0
    play_end: float = 0.0
    seconds: float = 0.0
    underruns: int = 0

    def add(self, seconds: float, now: float) -> None:
        """Take one message of sound that came at `now`."""
        if not self.seconds:
            self.play_end = now + BUFFER
        elif now > self.play_end:
            self.underruns += 1
            self.play_end = now
        self.play_end += seconds
        self.seconds += seconds
        self.last = now


@dataclass(slots=True)
class Turn:
    """What happened in one turn; monotonic times in seconds.

    Attributes:
        number: Which turn of its caller.
        started: When the first frame of the utterance was sent.
        ended: When the last one was.
        interrupting: Whether it began in the middle of a reply.
        reply: The sound that answered it.
        early: When sound of the agent came last while the caller spoke.
    """

    number: int
    started: float
    ended: float | None = None
    interrupting: bool = False
    reply: Reply | None = None
    early: float | None = None


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

    def __init__(self, address: str, plan: Plan, offset: float) -> None:
        """Call `address` (ws://…) and begin to speak `offset` seconds after the call's begin."""
        self.turns: list[Turn] = []
        self.lost = ""
        """Why the call ended before it was hung up, "" if it did not."""
        self.late = 0.0
        """The longest that a frame was sent after it was due, in seconds."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._plan, self._offset = plan, offset
        self._protocol = ClientProtocol(parse_uri(address), max_size=2**24)
        self._begin = 0.0
        self._sent = 0
        self._base = 0
        self._silent = 0
        self._timer: asyncio.Handle | None = None
        self._hung_up = False

    # The wire.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the WebSocket."""
        self._wire = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the server has ended the call."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._hung_up:
            self.lost = self.lost or "the server closed the connection"
        self._finish()

    def data_received(self, data: bytes) -> None:
        """Take what the server sent."""
        now = monotonic()
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._opened(now)
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                self._hear(event.data, now)
        self._flush()

    def _opened(self, now: float) -> None:
        if self._protocol.handshake_exc is not None:
            self.lost = str(self._protocol.handshake_exc)
            self._wire.close()
            return
        self._begin = now + 1.0 + self._offset
        self._timer = asyncio.get_running_loop().call_at(self._begin, self._tick)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._wire.write(data)

    def hang_up(self) -> None:
        """End the call."""
        self._hung_up = True
        if self._timer is not None:
            self._timer.cancel()
        self._wire.close()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    # Listening.

    def _hear(self, data: bytes | bytearray | memoryview, now: float) -> None:
        if not self.turns:
            return
        turn, seconds = self.turns[-1], len(data) / 2 / RATE
        if max(memoryview(data).cast("h"), default=0) < AUDIBLE:
            if turn.ended is not None and turn.reply is not None:
                turn.reply.add(seconds, now)  # a voice has pauses: they are played like the rest
            return
        if turn.ended is not None:
            if turn.reply is None:
                turn.reply = Reply(now)
            turn.reply.add(seconds, now)
            return
        turn.early = now
        if len(self.turns) > 1 and (reply := self.turns[-2].reply) is not None:
            reply.add(seconds, now)

    # Speaking.

    def _tick(self) -> None:
        """Send every frame that is due."""
        now = monotonic()
        due = self._begin + self._sent * FRAME
        self.late = max(self.late, now - due)
        while due <= now:
            self._wire.write(self._next(now))
            due = self._begin + self._sent * FRAME
        self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _next(self, now: float) -> bytes:
        """Return the frame that is due, beginning a turn when its time has come."""
        plan = self._plan
        if self._time_to_speak(now):
            interrupting = bool(self.turns) and self._interrupts(self.turns[-1].number + 1)
            self._base = self._sent
            self.turns.append(Turn(len(self.turns), now, interrupting=interrupting))
            if len(self.turns) > plan.turns:
                self._finish()
        turn = self.turns[-1]
        speech = plan.speech[turn.number % len(plan.speech)].frames
        position = self._sent - self._base
        self._sent += 1
        if position < len(speech):
            if position == len(speech) - 1:
                turn.ended = now
            return speech[position]
        self._silent += 1
        return plan.silence[self._silent % len(plan.silence)]

    def _interrupts(self, number: int) -> bool:
        return bool(self._plan.interrupt) and number % self._plan.interrupt == 0

    def _time_to_speak(self, now: float) -> bool:
        if not self.turns:
            return True
        plan, turn = self._plan, self.turns[-1]
        if plan.period and not plan.interrupt:
            if self._sent - self._base < round(plan.period / FRAME):
                return False
            return not (plan.patient and turn.reply and now <= turn.reply.play_end + plan.pause)
        if turn.ended is None:
            return False
        if turn.reply is None:
            return now - turn.ended > GIVE_UP
        if self._interrupts(turn.number + 1):
            return now - turn.reply.first >= plan.barge_after
        return now > turn.reply.play_end + plan.pause


async def hold(
    host: str,
    port: int,
    plan: Plan,
    count: int,
    *,
    path: str = "/v1/stream?rate=16000",
    begun: Callable[[], None] = lambda: None,
    limit: float = math.inf,
) -> list[Caller]:
    """Hold `count` calls until each has had its turns; return them, hung up.

    They begin spread evenly over a turn, so that the load is steady; `begun` is called when
    all have. `limit` is in seconds.

    Raises:
        OSError: If nobody listens there.
    """
    loop = asyncio.get_running_loop()
    callers = []
    for number in range(count):
        spread = (plan.period or 5.0) * number / count + 0.007 * (number % 3)
        caller = Caller(f"ws://{host}:{port}{path}", plan, spread)
        await loop.create_connection(lambda caller=caller: caller, host, port)  # type: ignore[misc]
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

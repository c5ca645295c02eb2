"""`/v1/stream`: a call over one WebSocket, for apps.

Binary messages are PCM16 little-endian mono at the agreed rate, both ways; text
messages are JSON events. What a client gets wrong is answered with an `error`
event and dropped; the call goes on. What would grow without bound ends the call:
a client that does not read, a client that sends far faster than real time.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.audio import Resampler, from_pcm16, to_pcm16
from transport.line import FRAME, HEARING_RATE, Call, Line, Pcm
from transport.websocket_wire import Wire

RATES = (8000, 16000, 24000, 48000)
"""Sample rates a client may choose, in hertz."""

LONGEST_MESSAGE = 2.0
"""Seconds of audio that one message may hold."""

LONGEST_TEXT = 64 * 1024
"""Characters that one text message may have."""

AHEAD = 3.0
"""Seconds by which a client's audio may be ahead of real time; what is beyond is dropped."""

FLOOD = 60.0
"""Seconds of dropped audio that end the call."""

GAP = 0.25
"""Seconds without a message, twice the longest message at least, that count as silence."""

FILLED = 2.0
"""Seconds of silence that stand for such a gap at most; turns end long before."""

UNREAD = 3.0
"""Seconds of agent audio that may wait for a client that does not read."""

MAX_EVENTS = 1000
"""Events that may wait, likewise."""

HUNG_UP = 1000, "the caller hung up"
TOO_FAST = 1008, "the client sends too fast"
DOES_NOT_READ = 1008, "the client does not read"
FAILED = 1011, "something failed here"
"""Codes and reasons with which a socket is closed (RFC 6455, section 7.4.1)."""

WIRE_BROKE = (WebSocketDisconnect, OSError, TimeoutError, RuntimeError)
"""What a socket raises that the other side has closed; RuntimeError is Starlette's word for it."""

Tick = Callable[[float], None]
"""Takes the loop's time, in seconds."""


class WebSocketLine:
    """The agent's side of the wire: what it says leaves at once, or waits for a slow client."""

    transport = "websocket"
    codec_delay = 0.0

    def __init__(self, rate: int, wire: Wire) -> None:
        self.rate = rate
        self.dropped = 0
        """Samples of the caller that were dropped because they came too fast."""
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        """Close code and reason, once this side wants to close."""
        self.error: Exception | None = None
        """What failed here, if that is the reason."""
        self._wire = wire
        self._held: deque[bytes | str] = deque()
        self._audio = 0
        self._closing = False

    def play(self, frame: Pcm) -> None:
        """Send one frame of samples at `rate`."""
        if self._audio * FRAME >= UNREAD:
            self.end(*DOES_NOT_READ)
        else:
            self._put(to_pcm16(frame))

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send one JSON event."""
        if len(self._held) - self._audio >= MAX_EVENTS:
            self.end(*DOES_NOT_READ)
        else:
            self._put(json.dumps(event))

    def clear(self) -> None:
        """Drop the frames that have not left yet."""
        self._held = deque(message for message in self._held if isinstance(message, str))
        self._audio = 0

    def close(self) -> None:
        """Close the socket after what was sent so far has left."""
        self._closing = True
        self.resumed()

    def end(self, code: int, reason: str) -> None:
        """Close the socket at once; only the first reason counts."""
        if not self.ended.done():
            self.ended.set_result((code, reason))

    def fail(self, error: Exception) -> None:
        """Close the socket because something failed here."""
        if not self.ended.done():
            self.error = error
            self.end(*FAILED)

    def resumed(self) -> None:
        """Send what waits, as far as the client reads."""
        while self._held and self._wire.write(self._held[0]):
            self._audio -= isinstance(self._held.popleft(), bytes)
        if self._closing and not self._held:
            self.end(*HUNG_UP)

    def _put(self, message: bytes | str) -> None:
        if not self._held and self._wire.write(message):
            return
        self._held.append(message)
        self._audio += isinstance(message, bytes)


class Inlet:
    """The caller's side of the wire: checks what comes and gives it to the call."""

    def __init__(self, call: Call, line: WebSocketLine, started: float) -> None:
        """Count real time from `started`, in seconds of the clock that `take` is given."""
        self._call, self._line, self._started = call, line, started
        self._resampler = Resampler(line.rate, HEARING_RATE)
        self._samples = 0
        self._too_fast = False
        self._heard_at: float | None = None
        self._patience = GAP
        self._filled = 0.0

    def take(self, message: bytes | str, now: float) -> None:
        """Take one message that came at `now`; none is taken once the call ends."""
        if self._line.ended.done():
            return
        if isinstance(message, bytes):
            self._take_audio(message, now)
        else:
            self._take_text(message)

    def tick(self, now: float) -> None:
        """Hear silence where a client sends nothing, as those do that send speech alone."""
        if self._heard_at is None or now - self._heard_at < self._patience:
            return
        missing = min(now - self._heard_at, FILLED) - self._filled
        if missing > 0:
            self._filled += missing
            self._call.hear(np.zeros(round(missing * HEARING_RATE), np.float32))

    def _take_audio(self, data: bytes, now: float) -> None:
        rate, samples = self._line.rate, len(data) // 2
        if not data:
            return
        if len(data) % 2:
            self._refuse("odd_length", f"{len(data)} bytes of audio; expected whole 2-byte samples")
        elif samples > LONGEST_MESSAGE * rate:
            self._refuse(
                "audio_too_long",
                f"{samples / rate:.1f} s of audio in one message; expected at most "
                f"{LONGEST_MESSAGE:.0f} s, best {FRAME * 1000:.0f} ms",
            )
        elif self._samples + samples > (now - self._started + AHEAD) * rate:
            self._line.dropped += samples
            if not self._too_fast:
                self._refuse(
                    "too_fast",
                    f"audio is more than {AHEAD:.0f} s ahead of real time; it is dropped until "
                    "real time has caught up: send 20 ms every 20 ms",
                )
            self._too_fast = True
            if self._line.dropped > FLOOD * rate:
                self._line.end(*TOO_FAST)
        else:
            self._too_fast = False
            self._samples += samples
            self._heard_at, self._filled = now, 0.0
            self._patience = max(self._patience, 2 * samples / rate)
            self._call.hear(self._resampler.push(from_pcm16(data)))

    def _take_text(self, text: str) -> None:
        if len(text) > LONGEST_TEXT:
            self._refuse(
                "text_too_long", f"{len(text)} characters; expected at most {LONGEST_TEXT}"
            )
            return
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            self._refuse(
                "bad_message",
                'text messages are JSON objects with a "type"; audio goes in binary messages',
            )
            return
        self._call.receive(message)

    def _refuse(self, code: str, message: str) -> None:
        self._line.tell({"type": "error", "turn": 0, "code": code, "message": message})


class Gaps:
    """Lets the inlets of all calls know that time passes, with one timer. For one event loop.

    A tick that comes late is left out: what was sent meanwhile has not been read yet.
    """

    def __init__(self) -> None:
        self._ticks: set[Tick] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @contextmanager
    def filled(self, tick: Tick) -> Iterator[None]:
        """Call `tick` with the loop's time some times a second within this context."""
        self._ticks.add(tick)
        if self._timer is None:
            self._arm()
        try:
            yield
        finally:
            self._ticks.remove(tick)
            if not self._ticks and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + GAP / 2
        self._timer = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        on_time = now - self._due < GAP / 2
        self._arm()
        if on_time:
            for tick in tuple(self._ticks):
                tick(now)


async def serve(socket: WebSocket, rate: int, attach: Callable[[Line], Call], gaps: Gaps) -> None:
    """Carry one call over an accepted `socket` until either side ends it.

    Raises:
        Exception: Whatever the call could not handle; the socket is closed.
    """
    clock = asyncio.get_running_loop().time
    wire = Wire.of(socket)
    line = WebSocketLine(rate, wire)
    call = attach(line)
    inlet = Inlet(call, line, clock())

    def take(message: bytes | str) -> None:
        try:
            inlet.take(message, clock())
        except Exception as error:
            line.fail(error)

    def tick(now: float) -> None:
        try:
            inlet.tick(now)
        except Exception as error:
            line.fail(error)

    code, reason = HUNG_UP
    leaving = asyncio.create_task(socket.receive())  # the end is all that is left to receive
    leaving.add_done_callback(lambda _: line.end(*HUNG_UP))
    try:
        wire.take_over(take, line.resumed)
        with gaps.filled(tick):
            code, reason = await line.ended
    finally:
        call.lost(reason)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    try:
        async with asyncio.timeout(1.0):
            await socket.close(code, reason)
    except TimeoutError:
        wire.transport.abort()  # it does not read
    except WIRE_BROKE:
        pass  # the client was faster, or is gone
    if line.error is not None:
        raise line.error

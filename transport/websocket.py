"""`/v1/stream`: a call over one WebSocket, for apps.

Binary messages are PCM16 little-endian mono at the agreed rate, both ways; text
messages are JSON events. What a client gets wrong is answered with an `error`
event and dropped; the call goes on. What would grow without bound ends the call:
a client that does not read, a client that sends far faster than real time.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.audio import Resampler, from_pcm16, to_pcm16
from transport.line import FRAME, HEARING_RATE, Call, Line, Pcm

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

WIRE_BROKE = (WebSocketDisconnect, OSError, TimeoutError, RuntimeError)
"""What a socket raises that the other side has closed; RuntimeError is Starlette's word for it."""


class WebSocketLine:
    """The agent's side of the wire: what waits to be sent."""

    transport = "websocket"

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.dropped = 0
        """Samples of the caller that were dropped because they came too fast."""
        self._out: deque[bytes | str] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._audio = 0
        self.unread = asyncio.get_running_loop().create_future()
        """Done when the client has not read for `UNREAD` seconds."""

    def play(self, frame: Pcm) -> None:
        """Send one frame of samples at `rate`."""
        if self._audio * FRAME >= UNREAD:
            self._give_up()
        else:
            self._audio += 1
            self._put(to_pcm16(frame))

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send one JSON event."""
        if len(self._out) - self._audio >= MAX_EVENTS:
            self._give_up()
        else:
            self._put(json.dumps(event))

    def clear(self) -> None:
        """Drop the frames that have not left yet."""
        self._out = deque(message for message in self._out if isinstance(message, str))
        self._audio = 0

    def close(self) -> None:
        """Close the socket after what was sent so far has left."""
        self._closing = True
        self._wake.set()

    def _give_up(self) -> None:
        if not self.unread.done():
            self.unread.set_result(None)

    def _put(self, message: bytes | str) -> None:
        self._out.append(message)
        self._wake.set()

    async def send_all(self, socket: WebSocket) -> None:
        """Write to `socket` until it is closed."""
        while True:
            while self._out:
                message = self._out.popleft()
                if isinstance(message, bytes):
                    self._audio -= 1
                    await socket.send_bytes(message)
                else:
                    await socket.send_text(message)
            if self._closing:
                return
            self._wake.clear()
            await self._wake.wait()


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
        """Take one message that came at `now`."""
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

    @property
    def flooded(self) -> bool:
        """Whether so much audio had to be dropped that the call should end."""
        return self._line.dropped > FLOOD * self._line.rate

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


async def serve(socket: WebSocket, rate: int, attach: Callable[[Line], Call]) -> None:
    """Carry one call over an accepted `socket` until either side ends it."""
    loop = asyncio.get_running_loop()
    line = WebSocketLine(rate)
    call = attach(line)
    inlet = Inlet(call, line, loop.time())
    sending = asyncio.create_task(line.send_all(socket))
    receiving = asyncio.create_task(_receive_all(socket, inlet))
    filling = asyncio.create_task(_fill_gaps(inlet))
    code, reason = 1000, "the caller hung up"
    try:
        tasks = {sending, receiving, filling}
        await asyncio.wait({*tasks, line.unread}, return_when=asyncio.FIRST_COMPLETED)
        if line.unread.done():
            code, reason = 1008, "the client does not read"
        elif inlet.flooded:
            code, reason = 1008, "the client sends too fast"
    finally:
        call.lost(reason)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for error in results:
        if isinstance(error, Exception) and not isinstance(error, WIRE_BROKE):
            raise error
    try:
        async with asyncio.timeout(1.0):
            await socket.close(code, reason)
    except WIRE_BROKE:
        pass  # the client was faster, or is gone


async def _fill_gaps(inlet: Inlet) -> None:
    """Let `inlet` know that time passes, some times a second."""
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(GAP / 2)
        inlet.tick(clock())


async def _receive_all(socket: WebSocket, inlet: Inlet) -> None:
    """Give all that comes to `inlet` until the client leaves or floods."""
    clock = asyncio.get_running_loop().time
    while not inlet.flooded:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes")
        inlet.take(data if data is not None else message.get("text") or "", clock())

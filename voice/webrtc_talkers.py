"""Callers over WebRTC that converse by a plan, and measure what they hear to the sample.

Beside `voice.webrtc_callers`, which are many and light, these follow a `voice.talker.Plan`
(interruptions, pauses), decode all they hear, and know when the kernel received it. That needs
asyncio's own loop: uvloop reads datagrams where nobody can look.
"""

import asyncio
import json
import random
from collections.abc import Sequence
from time import monotonic
from typing import Any

import httpx
import numpy as np

from transport.audio import Resampler
from transport.codec import SPEAKING_RATE, Decoder, Encoder
from transport.line import FRAME, HEARING_RATE, Pcm
from transport.rtp import RtpPacket, is_rtp
from voice.arrivals import StampedDatagrams
from voice.packet_timer import PacketTimer
from voice.talker import AUDIBLE, Plan, Speech, Talker, Turn
from voice.webrtc_callers import SAMPLES, Connection

BEFORE = 2
"""Silent packets that the encoder sees before an utterance, as in a call."""

AFTER = 2
"""Silent packets after it that are part of it: Opus looks ahead, its last sound comes later."""

STEP = 290
"""Samples by which the ends of utterances lie apart within their packets."""


def encoded(said: Sequence[Pcm], rate: int) -> tuple[list[Speech], list[bytes]]:
    """Return utterances at `rate` as Opus, ending anywhere in a packet, and one of silence."""
    nothing = np.zeros(SAMPLES, np.float32)
    speech = []
    for number, pcm in enumerate(said):
        resampler = Resampler(rate, SPEAKING_RATE)
        fine = np.concatenate([resampler.push(pcm), resampler.flush()])
        loud = np.flatnonzero(np.abs(fine) >= AUDIBLE / 32768)
        after = STEP * number % SAMPLES
        fine = np.concatenate([fine[loud[0] : loud[-1] + 1], np.zeros(after, np.float32)])
        whole = np.pad(fine, (-len(fine) % SAMPLES, 0)).reshape(-1, SAMPLES)
        encoder = Encoder("opus")
        for _ in range(BEFORE):
            encoder.encode(nothing)
        payloads = [encoder.encode(frame) for frame in (*whole, *[nothing] * AFTER)]
        speech.append(Speech(payloads, after / SPEAKING_RATE + AFTER * FRAME))
    encoder = Encoder("opus")
    silence = [encoder.encode(nothing) for _ in range(10)]
    return speech, silence[5:]


class WebRtcTalker:
    """One call."""

    def __init__(self, plan: Plan, first: int) -> None:
        """Follow `plan`, from the utterance of place `first` on."""
        self.talker = Talker(plan, first)
        self.name = ""
        """The call, as the server names it."""
        self.late = 0.0
        """The longest that a packet was sent after it was due, in seconds."""
        self.read_late = 0.0
        """The longest that a packet waited for this process, in seconds."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = ""
        """Why the call ended before it was hung up, "" if it did not."""
        self._connection = Connection(self._take, self._read)
        self._stamped: StampedDatagrams | None = None
        self._decoder = Decoder("opus")
        self._timer = PacketTimer(self._tick)
        self._begin = 0.0

    @property
    def turns(self) -> list[Turn]:
        """What happened, turn by turn."""
        return self.talker.turns

    async def call(self, http: httpx.AsyncClient, url: str, offset: float) -> None:
        """Call the server at `url`; begin to speak after `offset` seconds.

        Raises:
            RuntimeError: If the call is refused.
            TimeoutError: If it does not get connected.
        """

        async def post(offer: str) -> str:
            headers = {"Content-Type": "application/sdp"}
            got = await http.post(f"{url}/v1/webrtc", content=offer, headers=headers)
            if got.status_code != 201:
                raise RuntimeError(f"the server refused a call ({got.status_code}): {got.text}")
            return got.text

        await self._connection.connect(post)
        self._stamped = StampedDatagrams.under(self._connection.datagrams)
        self._begin = monotonic() + 1.0 + offset
        self._timer.set(self._begin)

    async def hang_up(self) -> None:
        """End the call."""
        if not self._connection.connected:
            self.lost = "the connection broke"
        self._timer.close()
        await self._connection.close()

    async def leave(self) -> None:
        """End the call."""
        await self.hang_up()

    def hold_up(self, most: float) -> None:
        """Hold up packets by up to `most` seconds each, at random, whatever their order."""
        if not isinstance(self._connection.datagrams, Disturbed):
            self._connection.datagrams = Disturbed(self._connection.datagrams)
        self._connection.datagrams.most = most

    def _take(self, packet: RtpPacket) -> None:
        now = monotonic()
        at = self._stamped.at if self._stamped is not None else now
        self.read_late = max(self.read_late, now - at)
        pcm = self._decoder.decode(packet.payload)
        found = np.flatnonzero(np.abs(pcm) >= AUDIBLE / 32768)
        loud = int(found[0]) / HEARING_RATE if len(found) else None
        self.talker.hear(len(pcm) / HEARING_RATE, loud, at)

    def _read(self, text: str) -> None:
        event: dict[str, Any] = json.loads(text)
        if event.get("type") == "start":
            self.name = event["call"]

    def _tick(self) -> None:
        """Send every packet that is due."""
        now = monotonic()
        due = self._begin + self.talker.sent * FRAME
        if due <= now:
            self.late = max(self.late, now - due)
        while due <= now:
            position = self.talker.sent * SAMPLES
            self._connection.send(self.talker.next(now, due), position)
            due = self._begin + self.talker.sent * FRAME
        if self.talker.done and not self.done.done():
            self.done.set_result(None)
        self._timer.set(due)


class Disturbed:
    """Stands in for a datagram transport and holds up audio at random, whatever its order.

    Attributes:
        most: Seconds that a packet is held up at most; may change at any time.
    """

    def __init__(self, transport: Any, most: float = 0.0, seed: int = 7) -> None:
        self.most = most
        self._transport, self._random = transport, random.Random(seed)

    def sendto(self, data: bytes, address: Any = None) -> None:
        """Send one datagram, later if it is audio."""
        if self.most and is_rtp(data):
            after = self._random.uniform(0.0, self.most)
            asyncio.get_running_loop().call_later(after, self._transport.sendto, data, address)
        else:
            self._transport.sendto(data, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def hold(url: str, plan: Plan, count: int) -> list[WebRtcTalker]:
    """Hold `count` calls until each has had its turns; return them, hung up.

    Raises:
        RuntimeError: If a call is refused.
        TimeoutError: If one does not get connected.
    """
    callers: list[WebRtcTalker] = []
    try:
        async with httpx.AsyncClient(timeout=30) as http:
            for number in range(count):
                callers.append(WebRtcTalker(plan, number))
                spread = (plan.period or 5.0) * number / count + 0.007 * (number % 3)
                await callers[-1].call(http, url, spread)
        await asyncio.wait([caller.done for caller in callers])
    finally:
        await asyncio.gather(*(caller.hang_up() for caller in callers))
    return callers

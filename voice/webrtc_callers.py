"""Callers over WebRTC by the hundred: what they say, what they hear, when they send.

Every one is a real peer connection (ICE, DTLS, SRTP, a data channel), but its speech
is encoded beforehand, its packets pass aiortc by, and it decodes only until it hears
the answer begin.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import SessionDescription

from transport.audio import Resampler, level_db
from transport.codec import SPEAKING_RATE, Decoder, Encoder
from transport.line import FRAME, Pcm
from transport.rtp import RtpPacket
from transport.webrtc_addresses import only_loopback
from transport.webrtc_line import LABEL
from transport.webrtc_wire import Wire
from voice.client import AUDIBLE_DB
from voice.webrtc_score import Score

SAMPLES = round(FRAME * SPEAKING_RATE)

ROOM = 1.1
"""Seconds of a turn that are neither speech nor reply: the answer's delay and the pauses."""

SLOTS = 20
"""Moments within a frame at which callers send: they do not all at once."""

CONNECTED_WITHIN = 10.0
"""Seconds that a call may take to be connected."""

Answerer = Callable[[str], Awaitable[str]]
"""Carries an SDP offer to the server and returns the answer."""


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


def make_loop(speech: Pcm, rate: int, reply: float, noise: Pcm | None = None) -> Loop:
    """Encode `speech`, and silence for a reply of `reply` seconds.

    `noise`, at `rate`, goes on under all of it.
    """
    resampler = Resampler(rate, SPEAKING_RATE)
    voice = np.concatenate([resampler.push(speech), resampler.flush()])
    loud = np.flatnonzero(np.abs(voice) > 0.01)
    voice = voice[loud[0] : loud[-1] + 1]
    spoken = math.ceil(len(voice) / SAMPLES)
    frames = (spoken + round((reply + ROOM) / FRAME)) | 1
    pcm = np.zeros(frames * SAMPLES, np.float32)
    pcm[spoken * SAMPLES - len(voice) : spoken * SAMPLES] = voice  # ends with a packet
    if noise is not None:
        fine = Resampler(rate, SPEAKING_RATE)
        pcm += np.resize(np.concatenate([fine.push(noise), fine.flush()]), len(pcm))
    encoder = Encoder("opus")
    encoded = [encoder.encode(frame) for frame in np.tile(pcm.reshape(-1, SAMPLES), (2, 1))]
    return Loop(encoded[frames:], spoken, pcm)


class Nothing(MediaStreamTrack):
    """A track without frames: the packets pass it by."""

    kind = "audio"

    async def recv(self) -> Any:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()


class Connection:
    """A peer connection with one audio line and a channel for events."""

    def __init__(
        self,
        take: Callable[[RtpPacket], None],
        read: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Give `take` every audio packet, and `read` every event's text."""
        self._take = take
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._sender = self._connection.addTrack(Nothing())
        self._connection.createDataChannel(LABEL).on("message", read)
        self._wire: Wire | None = None

    async def connect(self, post: Answerer) -> None:
        """Offer with `post`; return when connected.

        Raises:
            TimeoutError: If that takes more than `CONNECTED_WITHIN`.
        """
        connection = self._connection
        only_loopback(connection)
        await connection.setLocalDescription(await connection.createOffer())
        sdp = await post(connection.localDescription.sdp)
        connected = asyncio.Event()
        connection.on("connectionstatechange", lambda: connected.set() if self.connected else None)
        await connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        async with asyncio.timeout(CONNECTED_WITHIN):
            await connected.wait()
        media = next(m for m in SessionDescription.parse(sdp).media if m.kind == "audio")
        self._wire = Wire(self._sender, connection.getReceivers()[0], media, self._take)

    @property
    def connected(self) -> bool:
        """Whether the call goes on."""
        return self._connection.connectionState == "connected"

    @property
    def datagrams(self) -> Any:
        """The transport of the UDP socket under a connection that is connected."""
        return self._protocol.transport

    @datagrams.setter
    def datagrams(self, transport: Any) -> None:
        self._protocol.transport = transport

    @property
    def _protocol(self) -> Any:
        return self._sender.transport.transport._connection._nominated[1].protocol

    def send(self, payload: bytes, position: int) -> None:
        """Send one packet whose first sample is at `position`; nothing before it is connected."""
        if self._wire is not None:
            self._wire.send(payload, position, marker=False)

    async def close(self) -> None:
        """Hang up."""
        await self._connection.close()


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
        self._connection = Connection(self._hear)
        self._connected = False
        self._decoder = Decoder("opus")
        self._expected: int | None = None
        self._packets = 0
        self._place = loop.spoken  # silence, until `speak_at`
        self._speaks = False

    async def connect(self, post: Answerer) -> None:
        """Offer with `post`; return when connected.

        Raises:
            TimeoutError: If that takes more than `CONNECTED_WITHIN`.
        """
        await self._connection.connect(post)
        self._connected = True

    @property
    def connected(self) -> bool:
        """Whether the call goes on."""
        return self._connection.connected

    def speak_after(self, frames: int) -> None:
        """Begin to speak `frames` from now, and in every turn after that."""
        self._place = -frames
        self._speaks = True

    def send(self) -> None:
        """Send the next packet."""
        if not self._connected:
            return
        loop, place = self._loop, self._place
        if place == 0:
            self.score.speak(self._clock())
        payload = loop.payloads[place if self._speaks and place >= 0 else -1]
        if self.sent is not None:
            self.sent.append(self._clock())
        self._connection.send(payload, self._packets * SAMPLES)
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
async def calls(
    count: int, loop: Loop, reply: float, post: Answerer
) -> AsyncIterator[tuple[list[Caller], Pump]]:
    """Yield `count` callers in calls, and what sends their packets."""
    pump, callers = Pump(), [Caller(loop, reply) for _ in range(count)]
    sending = asyncio.create_task(pump.run())
    try:
        for number, caller in enumerate(callers):
            with contextlib.suppress(TimeoutError):  # it counts as lost
                await caller.connect(post)
            pump.add(caller, number)
        for number, caller in enumerate(callers):
            caller.speak_after(50 + number * len(loop.payloads) // count)
        yield callers, pump
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await asyncio.gather(*(caller.close() for caller in callers))

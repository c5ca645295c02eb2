"""A caller over WebRTC without a browser.

    async with connect(post_offer) as caller:
        caller.send(pcm)                      # 16 kHz; silence is sent all the time
        await caller.said()                   # until all of it has left
        reply = await caller.event("reply")   # the next event of that type
        caller.heard()                        # what came back so far, 16 kHz

`post_offer` carries the SDP offer to the server and returns the answer.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import SessionDescription
from numpy.typing import NDArray

from transport.audio import Resampler
from transport.codec import CLOCKS, SPEAKING_RATE, Encoder
from transport.line import FRAME
from transport.rtp import RtpPacket
from transport.webrtc_addresses import only_loopback
from transport.webrtc_line import LABEL
from transport.webrtc_media import Inlet
from transport.webrtc_wire import Wire

Pcm = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (n,)."""

RATE = 16_000
"""Sample rate of what is said and heard, in hertz."""

SAMPLES = round(SPEAKING_RATE * FRAME)
"""Samples that are encoded into one packet."""


class Microphone(MediaStreamTrack):
    """Sends what is said, in real time, and silence in between."""

    kind = "audio"

    def __init__(self, codec: str) -> None:
        super().__init__()
        self.begun = 0.0
        """Loop time of the first sample."""
        self.sent = 0
        """Packets that have left."""
        self.silent = asyncio.Event()
        """Set while there is nothing to say."""
        self._encoder = Encoder(codec)
        self._resampler = Resampler(RATE, SPEAKING_RATE)
        self._said = np.zeros(0, np.float32)

    def say(self, pcm: Pcm) -> None:
        """Say `pcm` after what was to be said before."""
        self._said = np.concatenate([self._said, self._resampler.push(pcm)])
        self.silent.clear()

    async def recv(self) -> "av.Packet[Any]":
        """Return the next packet once it would have been spoken."""
        clock = asyncio.get_running_loop().time
        if not self.sent:
            self.begun = clock()
        await asyncio.sleep(max(0.0, self.begun + (self.sent + 1) * FRAME - clock()))
        frame = np.zeros(SAMPLES, np.float32)
        spoken = self._said[:SAMPLES]
        frame[: len(spoken)] = spoken
        self._said = self._said[SAMPLES:]
        if not len(self._said):
            self.silent.set()
        packet = av.Packet(self._encoder.encode(frame))
        packet.time_base = Fraction(1, SPEAKING_RATE)
        packet.pts = self.sent * SAMPLES
        self.sent += 1
        return packet


class Caller:
    """One call; use `connect`.

    Attributes:
        events: All events of the server, in order.
        chunks: What was heard: loop time and samples of each packet.
        connection: The peer connection, for those who want to disturb it.
    """

    def __init__(self, connection: RTCPeerConnection, codec: str) -> None:
        self.connection = connection
        self.events: list[dict[str, Any]] = []
        self.chunks: list[tuple[float, Pcm]] = []
        self.microphone = Microphone(codec)
        self._channel = connection.createDataChannel(LABEL)
        self._news = asyncio.Condition()
        self._taken = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._inlet: Inlet | None = None
        connection.addTrack(self.microphone)
        connection.on("connectionstatechange", self._changed)
        self._channel.on("open", self._changed)
        self._channel.on("message", self._take_event)

    def listen(self, answer: str) -> None:
        """Hear the audio that the SDP `answer` agrees on."""
        media = next(m for m in SessionDescription.parse(answer).media if m.kind == "audio")
        names = {name.lower(): name for name in CLOCKS}
        codecs = {c.payloadType or 0: names[c.name.lower()] for c in media.rtp.codecs}
        self._inlet = Inlet(codecs, self._hear)

        def tap() -> None:
            if self.connection.connectionState == "connected":
                audio = self.connection.getTransceivers()[0]
                Wire(audio.sender, audio.receiver, media, self._take_packet)

        self.connection.on("connectionstatechange", tap)

    def send(self, pcm: Pcm) -> None:
        """Say samples at `RATE`, after what was to be said before."""
        self.microphone.say(pcm)

    async def said(self) -> None:
        """Wait until everything has been said."""
        await self.microphone.silent.wait()

    def tell(self, event: Mapping[str, Any] | str | bytes) -> None:
        """Send one event; text and bytes go out as they are."""
        self._channel.send(event if isinstance(event, str | bytes) else json.dumps(event))

    async def event(self, kind: str, timeout: float = 10.0) -> dict[str, Any]:
        """Return the next event of type `kind`, skipping others.

        Raises:
            TimeoutError: If none came within `timeout` seconds.
        """
        async with asyncio.timeout(timeout), self._news:
            while True:
                while self._taken < len(self.events):
                    event = self.events[self._taken]
                    self._taken += 1
                    if event.get("type") == kind:
                        return event
                await self._news.wait()

    def heard(self) -> Pcm:
        """Return all samples heard so far, at `RATE`."""
        return np.concatenate([np.zeros(0, np.float32), *(pcm for _, pcm in self.chunks)])

    @property
    def connected(self) -> bool:
        """Whether audio and events can flow."""
        return self.connection.connectionState == "connected" and self._channel.readyState == "open"

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self.connection.connectionState in ("closed", "failed")

    async def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until `condition` holds; it is looked at whenever something changed.

        Raises:
            TimeoutError: If it did not within `timeout` seconds.
        """
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(condition)

    def _changed(self) -> None:
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _take_event(self, message: str) -> None:
        self.events.append(json.loads(message))
        self._changed()

    def _take_packet(self, packet: RtpPacket) -> None:
        assert self._inlet is not None
        self._inlet.take(packet, asyncio.get_running_loop().time())

    def _hear(self, pcm: Pcm, arrived: float) -> None:
        self.chunks.append((asyncio.get_running_loop().time(), pcm))
        self._changed()

    def hang_up(self) -> None:
        """Close the data channel: the server ends the call."""
        self._channel.close()

    async def close(self) -> None:
        """Drop the connection."""
        await self.connection.close()
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def connect(
    post_offer: Callable[[str], Awaitable[str]],
    *,
    codec: str = "opus",
    loopback: bool = False,
    timeout: float = 10.0,
) -> AsyncIterator[Caller]:
    """Call, with one of the codecs in `CLOCKS`; hang up at the end of the block.

    With `loopback` the caller has no address but 127.0.0.1.

    Raises:
        TimeoutError: If the call was not connected within `timeout` seconds.
    """
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    caller = Caller(connection, codec)
    try:
        transceiver = connection.getTransceivers()[0]
        capabilities = transceiver.sender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences(
            [c for c in capabilities if c.name.lower() == codec.lower()]
        )
        if loopback:
            only_loopback(connection)
        await connection.setLocalDescription(await connection.createOffer())
        sdp = await post_offer(connection.localDescription.sdp)
        caller.listen(sdp)
        await connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        await caller.until(lambda: caller.connected, timeout)
        yield caller
    finally:
        await caller.close()

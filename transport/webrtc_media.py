"""Audio over WebRTC: frames to packets, packets to samples, and both past aiortc's own way.

aiortc would hold every packet for 80 ms and decode in a thread per call (measured one-way
delay 83 ms). Packets go from its receiver straight into our jitter buffer and decoder, and
encoded packets go into its sender, which then needs no thread pool either.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCRtpReceiver
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtpPacket
from av.audio.resampler import AudioResampler

from transport.codec import SPEAKING_RATE, Decoder, Encoder
from transport.jitter import Heard, JitterBuffer, Lost, Packet, Silence
from transport.line import FRAME, HEARING_RATE, Pcm

SAMPLES = round(FRAME * SPEAKING_RATE)
"""Samples of one frame of agent audio."""

QUEUE = 3
"""Frames of agent audio that may wait for the sender: 60 ms."""

PAUSE = 0.05
"""Seconds without a new frame that are a pause; less than the pacer's lead, so that the browser
learns of it before it runs dry."""

ENDING = 2
"""Silent frames that open a pause. Chromium 156 then conceals 0.1 s of silence instead of 0.4 s
of the last sound."""

LATE = 2
"""Frames by which audio may be behind real time and still continue what was sent before."""

JITTER_ATTRIBUTE: Final = "_RTCRtpReceiver__jitter_buffer"
"""Where aiortc 1.14 to 1.16 keeps a receiver's jitter buffer."""


class AgentTrack(MediaStreamTrack):
    """What the agent says: frames in, encoded packets out.

    A frame's timestamp is its place in real time, so that a browser sees pauses as
    pauses and not as packets that come late. Nothing is sent in a pause; two frames of
    silence open it, without which a browser draws the last sound out for half a second.
    """

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        """Frames that the sender did not take in time."""
        self.encoder: Encoder | None = None
        """Set once the codec is agreed, before anything is received."""
        self._frames: deque[tuple[int, Pcm]] = deque()
        self._ready = asyncio.Event()
        self._event_loop = asyncio.get_running_loop()
        self._origin = self._put_at = self._event_loop.time()
        self._next = 0  # number of the next frame, in frames since the origin
        self._pause: asyncio.TimerHandle | None = None  # looks for one while frames come

    def put(self, frame: Pcm) -> None:
        """Send one frame of `SAMPLES`; keeps `frame`."""
        if len(frame) != SAMPLES:
            raise ValueError(
                f"a frame of {len(frame)} samples; expected {SAMPLES} "
                f"({FRAME * 1000:.0f} ms at {SPEAKING_RATE} Hz)"
            )
        self._put_at = self._event_loop.time()
        now = int((self._put_at - self._origin) / FRAME)
        if now > self._next + LATE:
            self._next = now  # there was a pause
        self._append(frame)
        if self._pause is None:
            self._pause = self._event_loop.call_at(self._put_at + PAUSE, self._look_for_pause)

    def clear(self) -> None:
        """Drop the frames that were not taken yet, and fall silent."""
        self._frames.clear()
        if self._pause is not None:
            self._pause.cancel()
            self._fall_silent()

    def _append(self, frame: Pcm) -> None:
        if len(self._frames) == QUEUE:
            self._frames.popleft()
            self.dropped += 1
        self._frames.append((self._next, frame))
        self._next += 1
        self._ready.set()

    def _look_for_pause(self) -> None:
        if self._event_loop.time() < self._put_at + PAUSE:
            self._pause = self._event_loop.call_at(self._put_at + PAUSE, self._look_for_pause)
        else:
            self._fall_silent()

    def _fall_silent(self) -> None:
        self._pause = None
        for _ in range(ENDING):
            self._append(np.zeros(SAMPLES, np.float32))

    @property
    def empty(self) -> bool:
        """Whether the sender has taken everything."""
        return not self._frames

    async def recv(self) -> "av.Packet[Any]":
        """Return the next packet; aiortc's sender calls this."""
        while not self._frames:
            self._ready.clear()
            await self._ready.wait()
        number, frame = self._frames.popleft()
        assert self.encoder is not None
        packet = av.Packet(self.encoder.encode(frame))
        packet.pts = number * SAMPLES
        packet.time_base = Fraction(1, SPEAKING_RATE)
        return packet


class Inlet:
    """The caller's audio, from packets to samples."""

    def __init__(self, codecs: Mapping[int, str], hear: Callable[[Pcm], None]) -> None:
        """Decode the payload types of `codecs` and give the samples to `hear`."""
        self.broken = 0
        """Packets that held no audio of their codec."""
        self._codecs, self._hear = codecs, hear
        self._payload_type: int | None = None
        self._switch(next(iter(codecs)))

    def _switch(self, payload_type: int) -> None:
        if payload_type != self._payload_type:
            self._payload_type = payload_type
            self._decoder = Decoder(self._codecs[payload_type])
            self.jitter = JitterBuffer(self._decoder.rate)

    @property
    def deadline(self) -> float | None:
        """When to call `tick`, in seconds of loop time."""
        return self.jitter.deadline

    def take(self, packet: RtpPacket, now: float) -> None:
        """Take one packet that came at `now`."""
        self._switch(packet.payload_type)
        samples = self._decoder.samples(packet.payload)
        if not samples:
            self.broken += 1
            return
        self._give(
            self.jitter.put(
                packet.sequence_number,
                packet.timestamp,
                packet.payload,
                samples,
                now,
                packet.ssrc,
            )
        )

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._give(self.jitter.tick(now))

    def _give(self, heard: list[Heard]) -> None:
        for item in heard:
            match item:
                case Packet(payload=payload):
                    self._hear(self._decoder.decode(payload))
                case Lost(samples):
                    self._hear(self._decoder.conceal(samples))
                case Silence(samples):
                    self._hear(self._decoder.silence(samples))


class Tap:
    """Stands where aiortc keeps a receiver's jitter buffer and takes the packets out.

    aiortc calls `add` for every packet after its RTCP statistics were counted. It never
    gets a frame back, so its decoder thread has nothing to do; it is ended at the first
    packet.
    """

    def __init__(self, receiver: RTCRtpReceiver, take: Callable[[RtpPacket], None]) -> None:
        """Replace the jitter buffer of `receiver`.

        Raises:
            AttributeError: If this aiortc has none where it used to be.
        """
        getattr(receiver, JITTER_ATTRIBUTE)
        self._end_thread: Callable[[], None] | None = receiver._handle_disconnect
        self._take = take
        setattr(receiver, JITTER_ATTRIBUTE, self)

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Take one packet; never asks for a key frame, never completes a frame."""
        if self._end_thread is not None:
            self._end_thread()
            self._end_thread = None
        self._take(packet)
        return False, None


async def delayed(track: MediaStreamTrack) -> AsyncIterator[Pcm]:
    """Yield what aiortc has buffered and decoded, at `HEARING_RATE`, until `track` ends.

    For an aiortc that a `Tap` does not fit.
    """
    resampler = AudioResampler(format="flt", layout="mono", rate=HEARING_RATE)
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        assert isinstance(frame, av.AudioFrame)
        frame.pts = None
        for ready in resampler.resample(frame):
            yield ready.to_ndarray()[0]

"""Audio over WebRTC: frames to payloads, packets to samples.

Both happen in the call that brings them: no task, thread or queue a call. aiortc's own way
holds every packet for 80 ms and decodes in a thread (measured one-way delay 83 ms); it is
kept, as `AgentTrack` and `delayed`, for versions that a `transport.webrtc_wire` does not fit.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.audio.resampler import AudioResampler

from transport.codec import SPEAKING_RATE, Decoder, Encoder
from transport.jitter import Heard, JitterBuffer, Lost, Packet, Silence
from transport.line import FRAME, HEARING_RATE, Pcm
from transport.rtp import RtpPacket

SAMPLES = round(FRAME * SPEAKING_RATE)
"""Samples of one frame of agent audio."""

QUEUE = 8
"""Packets that may wait for aiortc's sender: the pacer's lead, and the silence that ends it."""

PAUSE = 0.05
"""Seconds without a new frame that are a pause; less than the pacer's lead, so that the browser
learns of it before it runs dry."""

ENDING = 2
"""Silent frames that open a pause. Chromium 156 then conceals 0.1 s of silence instead of 0.4 s
of the last sound."""

LATE = 2
"""Frames by which audio may be behind real time and still continue what was sent before."""

SILENCE: Final = np.zeros(SAMPLES, np.float32)
"""One frame of it."""


class Outlet:
    """What the agent says: frames in, payloads out, in the call that brings them.

    A payload's position is its place in real time, so that a browser sees pauses as
    pauses and not as packets that come late. Nothing is sent in a pause; two frames of
    silence open it, without which a browser draws the last sound out for half a second.
    """

    def __init__(self, encoder: Encoder, send: Callable[[bytes, int, bool], None]) -> None:
        """Call `send` with each payload, the position of its first sample, and if it opens speech.

        Positions are samples of the codec's RTP clock since this was made.
        """
        self._encoder, self._send = encoder, send
        self._step = round(FRAME * encoder.rate)
        self._loop = asyncio.get_running_loop()
        self._origin = self._put_at = self._loop.time()
        self._next = 0  # number of the next frame, in frames since the origin
        self._pause: asyncio.TimerHandle | None = None  # looks for one while frames come

    def put(self, frame: Pcm) -> None:
        """Send one frame of `SAMPLES`."""
        if len(frame) != SAMPLES:
            raise ValueError(
                f"a frame of {len(frame)} samples; expected {SAMPLES} "
                f"({FRAME * 1000:.0f} ms at {SPEAKING_RATE} Hz)"
            )
        self._put_at = self._loop.time()
        now = int((self._put_at - self._origin) / FRAME)
        if now > self._next + LATE:
            self._next = now  # there was a pause
        first = self._pause is None
        if first:
            self._pause = self._loop.call_at(self._put_at + PAUSE, self._look_for_pause)
        self._encode(frame, first)

    def pause(self) -> None:
        """Fall silent now, if anything was said."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            for _ in range(ENDING):
                self._encode(SILENCE, False)

    def _encode(self, frame: Pcm, first: bool) -> None:
        position = self._next * self._step
        self._next += 1
        self._send(self._encoder.encode(frame), position, first)

    def _look_for_pause(self) -> None:
        if self._loop.time() < self._put_at + PAUSE:
            self._pause = self._loop.call_at(self._put_at + PAUSE, self._look_for_pause)
        else:
            self.pause()


class Inlet:
    """The caller's audio, from packets to samples."""

    def __init__(self, codecs: Mapping[int, str], hear: Callable[[Pcm, float], None]) -> None:
        """Decode the payload types of `codecs`; give the samples to `hear`, and when they came."""
        self.codec = next(iter(codecs.values()))
        """The best codec agreed on; what is said to the caller is encoded with it."""
        self.broken = 0
        """Packets that held no audio of an agreed codec."""
        self._codecs, self._hear = codecs, hear
        self._payload_type: int | None = None
        self._switch(next(iter(codecs)))

    def _switch(self, payload_type: int) -> None:
        self._payload_type = payload_type
        self._decoder = Decoder(self._codecs[payload_type])
        self.jitter = JitterBuffer(self._decoder.rate)

    @property
    def deadline(self) -> float | None:
        """When to call `tick`, in seconds of loop time."""
        return self.jitter.deadline

    def take(self, packet: RtpPacket, now: float) -> None:
        """Take one packet that came at `now`."""
        if packet.payload_type != self._payload_type and packet.payload_type in self._codecs:
            self._switch(packet.payload_type)
        samples = self._decoder.samples(packet.payload)
        if not samples or packet.payload_type != self._payload_type:
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
            ),
            now,
        )

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._give(self.jitter.tick(now), now)

    def _give(self, heard: list[Heard], now: float) -> None:
        for place, item in enumerate(heard):
            match item:
                case Packet(payload=payload, arrived=arrived):
                    self._hear(self._decoder.decode(payload), arrived)
                case Lost(samples):
                    after = heard[place + 1] if place + 1 < len(heard) else None
                    following = after.payload if isinstance(after, Packet) else None
                    self._hear(self._decoder.conceal(samples, following), now)
                case Silence(samples):
                    self._hear(self._decoder.silence(samples), now)


class AgentTrack(MediaStreamTrack):
    """What aiortc's sender is given to send: nothing, while a `Wire` sends past it.

    Where no `Wire` fits, payloads are `put` here.
    """

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.rate = SPEAKING_RATE
        """Of the codec's RTP clock, in hertz; set before anything is put."""
        self._packets: deque[av.Packet[Any]] = deque(maxlen=QUEUE)
        self._ready = asyncio.Event()

    def put(self, payload: bytes, position: int, marker: bool) -> None:
        """Send one payload; the oldest is dropped for it if `QUEUE` wait."""
        packet = av.Packet(payload)
        packet.pts = position
        packet.time_base = Fraction(1, self.rate)
        self._packets.append(packet)
        self._ready.set()

    async def recv(self) -> "av.Packet[Any]":
        """Return the next packet; aiortc's sender calls this."""
        while not self._packets:
            self._ready.clear()
            await self._ready.wait()
        return self._packets.popleft()


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

"""RTP payloads to samples and back: Opus, and G.711 for telephones.

Decoding and the change to the listener's rate happen in one call, without a thread:
0.05 ms for 20 ms of Opus, 1 ms of delay. What was lost is concealed by Opus' own
concealment, which goes on from the decoder's state: a packet that holds nothing but
its header byte means "nothing was sent" (RFC 6716, section 3.2.1), and libopus then
fills in.
"""

from fractions import Fraction
from typing import Final, Literal, cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from transport.line import FRAME, HEARING_RATE

Pcm = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (n,)."""

CLOCKS: Final = {"opus": 48_000, "PCMU": 8_000, "PCMA": 8_000}
"""Codecs by their SDP name, best first, with the rate of their RTP clock in hertz."""

SPEAKING_RATE = 48_000
"""Sample rate that `Encoder` takes, in hertz."""

FFMPEG_NAMES: Final = {"opus": "libopus", "PCMU": "pcm_mulaw", "PCMA": "pcm_alaw"}

OPUS_SPEECH: Final = {
    "application": "voip",
    "fec": "1",
    "packet_loss": "5",  # percent to be ready for; repairs what a browser lost
    "compression_level": "5",  # 0.2 ms a frame; 10 takes 0.26 and no ear tells
}
"""Options of libopus. The lookahead of "voip" is 6.5 ms."""

PRIMING = 96
"""Silent samples before the first frame of G.711: the 1 ms that changing the rate holds back."""

OPUS_BIT_RATE = 32_000
"""Bits a second: full-band speech, a tenth of what the same as PCM would take."""

CONCEALED = 0.1
"""Seconds of a loss that are concealed; beyond it there is silence. Opus has faded out by then."""

LONGEST_PACKET = 0.12
"""Seconds that one packet may hold (RFC 6716, section 2.1.4); G.711 keeps to it too."""


def opus_samples(payload: bytes) -> int:
    """Return the length of an Opus packet in samples at 48 kHz, 0 if it is none (RFC 6716, 3.1)."""
    if not payload:
        return 0
    kind, code = payload[0] >> 3, payload[0] & 3
    if kind < 12:
        frame = (480, 960, 1920, 2880)[kind & 3]
    elif kind < 16:
        frame = (480, 960)[kind & 1]
    else:
        frame = (120, 240, 480, 960)[kind & 3]
    if code < 3:
        count = 1 if code == 0 else 2
    elif len(payload) > 1:
        count = payload[1] & 63
    else:
        return 0
    samples = frame * count
    return samples if samples <= LONGEST_PACKET * CLOCKS["opus"] else 0


class Decoder:
    """Turns one stream of payloads into samples at `HEARING_RATE`. For one thread at a time."""

    def __init__(self, codec: str) -> None:
        """Decode `codec`, a name in `CLOCKS`."""
        self.rate = CLOCKS[codec]
        """Rate of the RTP clock, in hertz."""
        self._opus = codec == "opus"
        self._codec = _context(codec, "r")
        self._resampler = AudioResampler(format="flt", layout="mono", rate=HEARING_RATE)
        self._header = b""  # of the latest Opus packet, as if it held one empty frame
        self._header_samples = 0
        self._latest = np.zeros(0, np.float32)

    def samples(self, payload: bytes) -> int:
        """Return the length of a payload in samples at `rate`, 0 if it cannot be decoded."""
        if self._opus:
            return opus_samples(payload)
        return len(payload) if len(payload) <= LONGEST_PACKET * self.rate else 0

    def decode(self, payload: bytes) -> Pcm:
        """Return the samples of the next payload; a broken one is concealed."""
        samples = self.samples(payload)
        if not samples:
            return np.zeros(0, np.float32)
        if self._opus:
            self._header = bytes([payload[0] & 0xFC])
            self._header_samples = opus_samples(self._header)
        pcm = self._decoded(payload)
        if pcm is None:
            return self.conceal(samples)
        self._latest = pcm
        return pcm

    def conceal(self, samples: int) -> Pcm:
        """Return a stand-in for a loss of `samples` at `rate`: the sound before, fading."""
        pieces: list[Pcm] = []
        concealed = round(min(samples, CONCEALED * self.rate))
        wanted = round(concealed * HEARING_RATE / self.rate)
        if self._opus and self._header:
            for _ in range(concealed // self._header_samples):
                piece = self._decoded(self._header)
                if piece is not None:
                    pieces.append(piece)
        elif len(self._latest):
            again = np.resize(self._latest, wanted)
            pieces.append(again * np.linspace(1, 0, wanted, dtype=np.float32))
            self._latest = self._latest[:0]
        missing = round(samples * HEARING_RATE / self.rate) - sum(map(len, pieces))
        return np.concatenate([*pieces, np.zeros(max(0, missing), np.float32)])

    def silence(self, samples: int) -> Pcm:
        """Return silence as long as `samples` at `rate`."""
        return np.zeros(round(samples * HEARING_RATE / self.rate), np.float32)

    def _decoded(self, payload: bytes) -> Pcm | None:
        """Decode and resample, or return None if the decoder refuses."""
        try:
            frames = self._codec.decode(av.Packet(payload))
        except av.FFmpegError:
            return None
        arrays = []
        for frame in frames:
            frame.pts = None
            arrays += [ready.to_ndarray()[0] for ready in self._resampler.resample(frame)]
        return arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, np.float32), *arrays])


class Encoder:
    """Turns frames of agent audio into payloads. For one thread at a time."""

    def __init__(self, codec: str) -> None:
        """Encode to `codec`, a name in `CLOCKS`."""
        rate = CLOCKS[codec]
        self._codec = _context(codec, "w")
        self._codec.time_base = Fraction(1, rate)
        self._resampler: AudioResampler | None = None
        if codec == "opus":
            self._codec.format = "flt"
            self._codec.bit_rate = OPUS_BIT_RATE
            self._codec.options = OPUS_SPEECH
        else:
            self._codec.format = "s16"
            self._resampler = AudioResampler(
                format="s16", layout="mono", rate=rate, frame_size=round(rate * FRAME)
            )
            self._resampler.resample(_frame(np.zeros(PRIMING, np.float32)))

    def encode(self, frame: Pcm) -> bytes:
        """Return the payload of one frame of `FRAME * SPEAKING_RATE` samples."""
        audio = _frame(frame)
        frames = [audio] if self._resampler is None else self._resampler.resample(audio)
        return b"".join(bytes(packet) for ready in frames for packet in self._codec.encode(ready))


def _context(codec: str, mode: Literal["r", "w"]) -> AudioCodecContext:
    context = cast(AudioCodecContext, av.CodecContext.create(FFMPEG_NAMES[codec], mode))
    context.sample_rate = CLOCKS[codec]
    context.layout = "mono"
    return context


def _frame(pcm: Pcm) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(pcm, np.float32).reshape(1, -1), format="flt", layout="mono"
    )
    frame.sample_rate = SPEAKING_RATE
    frame.time_base = Fraction(1, SPEAKING_RATE)
    return frame

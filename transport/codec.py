"""RTP payloads to samples and back: Opus, and G.711 for telephones.

Opus is libopus called directly (`transport.opus`), which decodes at the listener's rate:
0.02 ms for 20 ms, no resampler. What was lost is repaired from the packet after it, if
the sender's encoder has put it in there, and is otherwise concealed by libopus.

G.711 goes through PyAV, and so does Opus where no libopus is found: 0.05 ms and 1 ms
more delay. A loss is then told to the decoder by a packet that holds nothing but its
header byte (RFC 6716, section 3.2.1), and never repaired.
"""

from fractions import Fraction
from typing import Final, Literal, cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from transport.line import FRAME, HEARING_RATE
from transport.opus import OpusDecoder, OpusEncoder, library

Pcm = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (n,)."""

CLOCKS: Final = {"opus": 48_000, "PCMU": 8_000, "PCMA": 8_000}
"""Codecs by their SDP name, best first, with the rate of their RTP clock in hertz."""

SPEAKING_RATE = 48_000
"""Sample rate that `Encoder` takes, in hertz."""

FFMPEG_NAMES: Final = {"opus": "libopus", "PCMU": "pcm_mulaw", "PCMA": "pcm_alaw"}

OPUS_COMPLEXITY = 1
"""Of 0 to 10: 0.08 ms a frame; 5 takes 0.18. Bits make up for it, see `OPUS_BIT_RATE`."""

OPUS_LOSS = 10
"""Percent of packets to be ready for. At 5 and 32 kbit/s libopus repairs nothing: not one
packet of 356 held its predecessor; at 10 nine of ten do."""

OPUS_BIT_RATE = 64_000
"""Bits a second. PESQ (wide band, three utterances), 0 % and 5 % of packets lost: complexity 1 at
64 kbit/s 3.2 and 2.8, complexity 5 at 32 kbit/s 3.1 and 2.5, the same without repair 3.4 and 2.0
(2026-11-25, libopus 1.6.1)."""

OPUS_SPEECH: Final = {
    "application": "voip",
    "fec": "1",
    "packet_loss": str(OPUS_LOSS),
    "compression_level": str(OPUS_COMPLEXITY),
}
"""The same as options of PyAV. The lookahead of "voip" is 6.5 ms."""

DELAY: Final = {"opus": 0.0065, "PCMU": 0.001, "PCMA": 0.001}
"""Seconds by which a codec's decoded sound lags what was encoded: libopus looks ahead 312 samples
of 48 kHz (OPUS_GET_LOOKAHEAD of "voip"), changing the rate for G.711 holds back 1 ms."""

PRIMING = 96
"""Silent samples before the first frame of G.711: the 1 ms that changing the rate holds back."""

STEP = 400
"""What libopus conceals is a multiple of 2.5 ms: one `STEP`th of a second."""

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
        lib = library() if self._opus else None
        self._direct = OpusDecoder(lib, HEARING_RATE) if lib is not None else None
        if self._direct is None:
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

    def conceal(self, samples: int, following: bytes | None = None) -> Pcm:
        """Return a stand-in for a loss of `samples` at `rate`: the sound before, fading.

        `following` is the payload after the loss; it may hold what was lost.
        """
        pieces: list[Pcm] = []
        concealed = round(min(samples, CONCEALED * self.rate))
        wanted = round(concealed * HEARING_RATE / self.rate)
        if self._direct is not None:
            step = HEARING_RATE // STEP
            whole = concealed == samples
            piece = self._direct.conceal(wanted // step * step, following if whole else None)
            if piece is not None:
                pieces.append(piece)
        elif self._opus and self._header:
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
        if self._direct is not None:
            return self._direct.decode(payload)
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
        self.rate = rate = CLOCKS[codec]
        """Rate of the RTP clock, in hertz."""
        self._direct: OpusEncoder | None = None
        if codec == "opus" and (lib := library()) is not None:
            self._direct = OpusEncoder(
                lib,
                SPEAKING_RATE,
                bit_rate=OPUS_BIT_RATE,
                complexity=OPUS_COMPLEXITY,
                loss=OPUS_LOSS,
            )
            return
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
        if self._direct is not None:
            return self._direct.encode(np.ascontiguousarray(frame, np.float32))
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

"""Sample formats and rates.

Audio is converted once, at the edge. Rates are changed by libswresample, whose
delay is 1 to 2 ms; soxr's default holds 20 to 115 ms of a live stream back.
"""

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

Pcm = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (n,)."""

PCM16 = np.dtype("<i2")
"""Samples as they travel."""

STEP, FULL = np.float32(1 / 32768), np.float32(32767)
"""What one step of PCM16 is worth, and full scale in steps."""


def from_pcm16(data: bytes) -> Pcm:
    """Return samples of PCM16 little-endian mono.

    Raises:
        ValueError: If `data` is not whole samples.
    """
    if len(data) % 2:
        raise ValueError(f"{len(data)} bytes are no whole number of 2-byte samples")
    return np.frombuffer(data, PCM16) * STEP


def to_pcm16(pcm: Pcm) -> bytes:
    """Return samples as PCM16 little-endian mono; what is beyond [-1, 1] is clipped."""
    return (pcm.clip(-1.0, 1.0) * FULL).astype(PCM16).tobytes()


class Resampler:
    """Changes the sample rate of one stream; free when the rates are the same."""

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self._swr = self._fresh()

    def _fresh(self) -> AudioResampler | None:
        if self.source == self.target:
            return None
        return AudioResampler(format="flt", layout="mono", rate=self.target)

    def push(self, pcm: Pcm) -> Pcm:
        """Return what is ready of the stream after `pcm`; the tail stays inside."""
        if self._swr is None or not len(pcm):
            return pcm
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(pcm, np.float32).reshape(1, -1), format="flt", layout="mono"
        )
        frame.sample_rate = self.source
        return self._joined(self._swr.resample(frame))

    def flush(self) -> Pcm:
        """Return the tail and begin a new stream."""
        if self._swr is None:
            return np.zeros(0, np.float32)
        tail = self._joined(self._swr.resample(None))
        self._swr = self._fresh()
        return tail

    @staticmethod
    def _joined(frames: list[av.AudioFrame]) -> Pcm:
        arrays = [frame.to_ndarray().reshape(-1) for frame in frames]
        return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)


def level_db(pcm: Pcm) -> float:
    """Return the root mean square of `pcm` in dB of full scale, at least -100."""
    power = float(np.mean(np.square(pcm))) if len(pcm) else 0.0
    return max(-100.0, 10 * float(np.log10(max(power, 1e-10))))

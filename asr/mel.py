"""The picture of a sound that Whisper looks at: log-mel energies, a column every 10 ms.

The same numbers as the model was trained on (OpenAI's `log_mel_spectrogram`),
for sound of any length, in single precision.
"""

import numpy as np
from numpy.typing import NDArray

from asr.engine import RATE, Pcm

Mel = NDArray[np.float32]
"""Log-mel energies, shape (bands, columns)."""

HOP = 160
"""Samples from one column to the next."""

SIZE = 400
"""Samples that one column sees."""

_WINDOW = np.hanning(SIZE + 1)[:-1].astype(np.float32)


def mel_filters(bands: int) -> NDArray[np.float32]:
    """Return the triangles that gather frequencies into `bands`, shape (bands, 201).

    Slaney's scale: linear to 1 kHz, logarithmic above; each triangle of equal energy.
    """
    top = 15 + np.log(8000 / 1000) / _STEP
    centres = _hertz(np.linspace(0, top, bands + 2))
    slopes = centres[:, None] - np.fft.rfftfreq(SIZE, 1 / RATE)
    widths = np.diff(centres)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * (2 / (centres[2:] - centres[:-2]))[:, None], np.float32)


def log_mel(pcm: Pcm, filters: NDArray[np.float32]) -> Mel:
    """Return the picture of `pcm`, of one column for each whole 160 samples.

    Args:
        pcm: Mono samples at 16 kHz, at least 201 of them.
        filters: What `mel_filters` returned.
    """
    padded = np.pad(pcm, SIZE // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::HOP][: len(pcm) // HOP]
    spectrum = np.fft.rfft(frames * _WINDOW)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    log = np.log10(np.maximum(filters @ power.T, np.float32(1e-10)))
    return np.asarray((np.maximum(log, log.max() - 8) + 4) / 4, np.float32)


_STEP = np.log(6.4) / 27
"""ln of the ratio of one mel to the next, above 1 kHz."""


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the frequency of each mel: 200/3 Hz each up to 1 kHz, which is 15 of them."""
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(_STEP * (mels - 15)))

"""How the last words sounded: did the pitch fall, did the voice fade, did the last sound draw out.

A sentence that is over ends low, soft and drawn out; one that goes on after a pause breaks off at
the pitch and the loudness it had. Everything is taken relative to the same second of speech, so a
deep voice and a soft line measure like a high and a loud one. Pure; about 0.4 ms of CPU.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from asr.engine import RATE, Pcm

SPAN = 1.0
"""Seconds of speech that are looked at."""

LOWEST, HIGHEST = 65.0, 400.0
"""Pitch of voices, in hertz."""

VOICED = 0.5
"""Normalised autocorrelation from which a frame has a pitch."""

SAME = 0.85
"""Share of the best lag's autocorrelation that makes a shorter lag the pitch's own."""

_STEP = 4  # samples averaged into one: 4 kHz carry every pitch and cost a quarter
_RATE = RATE // _STEP
_FRAME = _RATE * 40 // 1000
_HOP = _RATE // 100
_SPECTRUM = 256  # at least a frame and the longest lag
_LAGS = np.arange(int(_RATE / HIGHEST), int(_RATE / LOWEST) + 2)
_WINDOW = np.hanning(_FRAME + 2)[1:-1].astype(np.float32)
_WINDOW_SHAPE = np.fft.irfft(np.abs(np.fft.rfft(_WINDOW, _SPECTRUM)) ** 2)
_EXPECTED = (_WINDOW_SHAPE[0] / _WINDOW_SHAPE[_LAGS]).astype(np.float32)
"""What the window takes from the autocorrelation at each lag (Boersma 1993)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prosody:
    """The last second of speech, in figures.

    Attributes:
        pitch: End of the last voiced stretch against the median of the second, in semitones.
        slope: Movement over the last voiced stretch (its last 0.25 s), in semitones.
        fade: Loudness of the last 0.1 s against the loudest 0.1 s, in dB (0 or less).
        voiced: Length of the last voiced stretch, in seconds.
        tail: Time from its end to the end of speech, in seconds.
        drawl: That length against the mean of the voiced stretches, as a ratio.
        low: End of the last voiced stretch above the lowest pitch of the second, in semitones.
        decay: Time since sound was last within 12 dB of the loudest, in seconds.
    """

    pitch: float
    slope: float
    fade: float
    voiced: float
    tail: float
    drawl: float
    low: float
    decay: float


SILENT = Prosody(
    pitch=0.0, slope=0.0, fade=0.0, voiced=0.0, tail=SPAN, drawl=1.0, low=0.0, decay=0.0
)
"""Of sound in which there is no voice."""


def prosody(pcm: Pcm) -> Prosody:
    """Measure speech at `RATE` that ends with the last speech sample; its last `SPAN` counts."""
    pcm = pcm[-round(SPAN * RATE) :]
    pcm = pcm[len(pcm) % _STEP :].reshape(-1, _STEP).mean(1)
    count = (len(pcm) - _FRAME) // _HOP + 1
    if count < 3:
        return SILENT
    first = len(pcm) - _FRAME - (count - 1) * _HOP  # the last frame ends with the last sample
    frames = np.lib.stride_tricks.sliding_window_view(pcm[first:], _FRAME)[::_HOP]
    frames = (frames - frames.mean(1, keepdims=True)) * _WINDOW
    power = np.einsum("fs,fs->f", frames, frames)
    pitch = _pitch(frames, power)
    loud = 10 * np.log10(np.convolve(power, np.full(min(7, count), 1 / 7), "valid") + 1e-12)
    fade = float(loud[-1] - loud.max())
    decay = (len(loud) - 1 - int(np.flatnonzero(loud > loud.max() - 12)[-1])) * _HOP / _RATE
    stretches = _stretches(np.isfinite(pitch))
    if not stretches:
        return replace(SILENT, fade=fade, decay=decay)
    begin, end = stretches[-1]
    last = pitch[max(begin, end - 25) : end]
    edge = max(1, len(last) // 3)
    final = float(np.median(last[-edge:]))
    lengths = [after - before for before, after in stretches]
    return Prosody(
        pitch=final - float(np.nanmedian(pitch)),
        slope=final - float(np.median(last[:edge])),
        fade=fade,
        voiced=(end - begin) * _HOP / _RATE,
        tail=(count - end) * _HOP / _RATE,
        drawl=lengths[-1] / float(np.mean(lengths)),
        low=final - float(np.nanpercentile(pitch, 5)),
        decay=decay,
    )


def _pitch(frames: NDArray[np.float32], power: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the pitch of each frame, in semitones above 1 Hz, NaN where there is no voice."""
    spectrum = np.fft.rfft(frames, _SPECTRUM)
    shape = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)
    likeness = shape[:, _LAGS] * _EXPECTED / (shape[:, :1] + 1e-9)
    left, peak, right = likeness[:, :-2], likeness[:, 1:-1], likeness[:, 2:]
    bend = np.minimum(left - 2 * peak + right, -1e-9)
    shift = np.clip(0.5 * (left - right) / bend, -0.5, 0.5)  # of the parabola through the three
    height = np.where((peak >= left) & (peak >= right), peak - 0.25 * (left - right) * shift, 0)
    # The first of about equally good lags is the pitch; the others are its multiples.
    best = np.argmax(height > SAME * height.max(1, keepdims=True), 1)
    rows = np.arange(len(best))
    lag = _LAGS[best + 1] + shift[rows, best]
    voiced = (height[rows, best] > VOICED) & (power > 1e-3 * power.max()) & (power > 1e-9)
    return np.where(voiced, 12 * np.log2(_RATE / lag), np.nan)


def _stretches(voiced: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first frame and frame after the last of each run of at least three voiced ones."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], voiced.astype(np.int8), [0]))))
    return [
        (int(begin), int(end))
        for begin, end in zip(edges[::2], edges[1::2], strict=True)
        if end - begin >= 3
    ]

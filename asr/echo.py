"""Whether a sound in the microphone is what was just played: the echo guard.

Three steps, each on what was remembered of the last 1.5 s, and only when asked:

1. *Delay.* The microphone is whitened by its own linear prediction, what was
   played by the same filter, and the two are correlated. An echo, even of a
   reverberant room, is then one sharp peak, while two people who say the same
   thing share no peak.
2. *Path.* At that delay, powers in 14 bands every 8 ms say how loud each band
   comes back. Powers do not mind codecs, drifting clocks and long tails, which a
   filter of samples would have to follow. The loudness is a median over the
   loud moments of what was played, so that a caller who speaks in less than half
   of them does not change it. It is learned anew for each answer: remembering it
   missed no fewer callers, and a volume that changed was not noticed for seconds.
3. *Rest.* Power above what the path explains, with a margin, is somebody else.

Nothing is computed while frames arrive: they are brought to 8 kHz and kept.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from asr.engine import RATE, Pcm

INNER = 8_000
"""Rate at which echoes are looked for, in hertz: a telephone has no more, and the rest has."""

KEPT = 1.5
"""Seconds of both directions kept (96 kB a call): history, longest delay and tail."""

NEAREST, FARTHEST = 0.01, 0.42
"""Delays looked for, in seconds: a handset on the desk, a telephone behind two jitter buffers."""

LATEST = 0.3
"""Seconds of a sound that are looked at, the last ones, when it is longer."""

HISTORY = 0.5
"""Seconds before those from which the path's loudness is learned, too."""

JUMP = 0.04
"""Seconds by which arrivals may jitter before a frame counts as one after a gap."""

EXACT = 0.002
"""The same for what is played, whose times are a schedule's."""

ORDER = 12
"""Coefficients of the whitening filter. A fixed filter that only raises high frequencies takes
10 % of later echoes for the caller after 64 ms, this one none."""

FOUND = 5.0
"""Height of a correlation peak over the root mean square of all delays' from which it is worth
a look. Callers without any echo reach 4.7 (median) to 7 (99 of 100); the rest tells them apart:
similarity of 0.75 was reached by 1 of 200, at any value from 4.5 to 7. Higher values find the
first echo of a call later. Measured 2026-11-25, synthetic voices."""

KNOWN = 3.0
"""The same where an echo was found before."""

NEAR = 0.006
"""Seconds around a known delay that count as the same: clocks drift."""

SPAN, HOP = 128, 64
"""Samples of one spectrum and between two (16 and 8 ms)."""

EDGES = (120, 300, 450, 600, 750, 900, 1100, 1300, 1550, 1850, 2200, 2600, 3000, 3400, 3900)
"""Borders of the bands, in hertz: about one Bark each."""

TAIL = 25
"""Spectra that a room's tail lasts (0.2 s); each 1 dB under the one before (an RT60 of 0.5 s)."""

MARGIN = 2.0
"""Power of a cell over the explained one that still is echo: reverberant cells vary by 5 dB."""

LEARNT = 0.25
"""Unexplained share under which the delay is believed and remembered."""


@dataclass(frozen=True, slots=True)
class Echo:
    """How much of a sound is what was played.

    Attributes:
        similarity: Share of the sound's power that what was played explains, 0 to 1;
            0 if nothing matches.
        delay: That of the best match, in seconds, None if nothing matches.
        level_db: The sound's level, in dBFS.
        residual_db: Level of what is not explained, in dBFS.
    """

    similarity: float
    delay: float | None
    level_db: float
    residual_db: float


class EchoGuard:
    """One call's memory of what was played and heard, and of the path between the two.

    `played` and `heard` take about 6 us each, `echo` 0.8 ms of this thread.
    """

    def __init__(self) -> None:
        self._played = _Tape(EXACT)
        self._heard = _Tape(JUMP)
        self.delay: float | None = None
        """The path's, in seconds, None until an echo was heard."""

    def played(self, pcm: Pcm, rate: int, at: float) -> None:
        """Remember one frame, which the caller begins to hear at `at` (loop time, seconds).

        It replaces what was to be heard at that time before.

        Raises:
            ValueError: If `rate` is no multiple of 8 kHz up to 48 kHz.
        """
        self._played.write(pcm, rate, at)

    def heard(self, pcm: Pcm, at: float) -> None:
        """Remember samples of the microphone at 16 kHz, whose first came at `at` (loop time).

        Pieces are joined while `at` is within 40 ms of the end of the last one.
        """
        self._heard.write(pcm, RATE, at)

    def echo(self, since: float, until: float) -> Echo:
        """Tell how much of what was heard between two loop times is what was played.

        Only the last 0.3 s count. Ask within 0.1 s: older sound is forgotten.
        """
        until = min(until, self._heard.end / INNER)
        since = max(since, until - LATEST)
        stop = round(until * INNER)
        count = max(round((until - since) * INNER), 2 * SPAN)
        sound = self._heard.read(stop - count, stop)
        power = float(np.mean(np.square(sound)))
        level_db = 10 * math.log10(power + 1e-10)
        delay = self._find(stop, max(count, round(LATEST * INNER)))
        if delay is None:
            return Echo(0.0, None, level_db, level_db)
        rest = self._rest(stop, count, round(delay * INNER))
        if rest < LEARNT:
            self.delay = delay
        return Echo(1 - rest, delay, level_db, level_db + 10 * math.log10(rest + 1e-4))

    def _find(self, stop: int, count: int) -> float | None:
        """Return the delay at which the last `count` samples heard repeat what was played."""
        nearest, farthest = round(NEAREST * INNER), round(FARTHEST * INNER)
        heard = self._heard.read(stop - count, stop)
        played = self._played.read(stop - count - farthest, stop - nearest)
        likeness = np.abs(_likeness(heard, played))[::-1]  # by delay, the nearest first
        likeness /= np.sqrt(np.mean(np.square(likeness))) + 1e-12
        best = int(np.argmax(likeness))
        if self.delay is not None:
            known, near = round(self.delay * INNER) - nearest, round(NEAR * INNER)
            first = max(known - near, 0)
            again = first + int(np.argmax(likeness[first : known + near + 1]))
            if likeness[again] >= max(KNOWN, likeness[best] / 2):
                return (nearest + again) / INNER
        return (nearest + best) / INNER if likeness[best] >= FOUND else None

    def _rest(self, stop: int, count: int, delay: int) -> float:
        """Return the share of the last `count` samples' power that no echo explains."""
        whole = count + round(HISTORY * INNER)
        heard = _bands(self._heard.read(stop - whole, stop))
        reach = (TAIL - 1) * HOP
        played = _bands(self._played.read(stop - whole - delay - reach, stop - delay))
        reverberant = _smeared(played)[: len(heard)]
        noise = np.sort(heard, axis=0)[len(heard) // 10] * 1.5
        now = slice(-(count // HOP - 1), None)
        gain = _gain(heard, played[TAIL - 1 :][: len(heard)], reverberant, noise)
        explained = MARGIN * np.exp(gain) * reverberant[now] + 2 * noise
        above = np.maximum(heard[now] - explained, 0)
        return float(above.sum() / (heard[now].sum() + 1e-12))


class _Tape:
    """The last seconds of one direction at 8 kHz, by loop time. What is missing is silence."""

    SIZE = round(KEPT * INNER)

    def __init__(self, jump: float) -> None:
        self._jump = round(jump * INNER)
        self._samples = np.zeros(self.SIZE, np.float32)
        self.end = 0
        """Sample after the last one, counted from loop time 0."""

    def write(self, pcm: Pcm, rate: int, at: float) -> None:
        first = round(at * INNER)
        if abs(first - self.end) <= self._jump:
            first = self.end
        samples = self._decimated(pcm, rate)
        if first > self.end:
            self._put(self.end, np.zeros(min(first - self.end, self.SIZE), np.float32), first)
        self._put(first, samples, first + len(samples))

    def read(self, start: int, stop: int) -> Pcm:
        """Return samples `start` to `stop`; those not kept any more or not yet there are 0."""
        pcm = np.zeros(stop - start, np.float32)
        first, last = max(start, self.end - self.SIZE), min(stop, self.end)
        if first < last:
            where = np.arange(first, last) % self.SIZE
            pcm[first - start : last - start] = self._samples[where]
        return pcm

    def _put(self, first: int, samples: Pcm, end: int) -> None:
        samples = samples[-self.SIZE :]
        at = (end - len(samples)) % self.SIZE
        head = self.SIZE - at
        self._samples[at : at + len(samples)] = samples[:head]
        if head < len(samples):
            self._samples[: len(samples) - head] = samples[head:]
        self.end = end

    def _decimated(self, pcm: Pcm, rate: int) -> Pcm:
        """Return samples at 8 kHz; what aliases is 20 dB down, which is enough here."""
        factor, left = divmod(rate, INNER)
        if left or not 1 <= factor <= 6:
            raise ValueError(f"audio is {rate} Hz, expected 8, 16, 24, 32, 40 or 48 kHz")
        if factor == 1:
            return pcm
        pcm = pcm[: len(pcm) // factor * factor]
        total = pcm[::factor] + pcm[1::factor]  # a quarter of the time of a mean over an axis
        for phase in range(2, factor):
            total += pcm[phase::factor]
        total *= np.float32(1 / factor)
        return total


def _likeness(heard: Pcm, played: Pcm) -> NDArray[np.float64]:
    """Return the correlation, -1 to 1, of `heard` with every part of the longer `played`."""
    filter_ = _whitening(heard)
    heard = np.convolve(heard, filter_, "valid")
    played = np.convolve(played, filter_, "valid")
    count = len(heard)
    size = 1 << (len(played) - 1).bit_length()
    product = np.conj(np.fft.rfft(heard, size)) * np.fft.rfft(played, size)
    correlation = np.fft.irfft(product, size)[: len(played) - count + 1]
    energy = np.concatenate([[0.0], np.cumsum(np.square(played, dtype=np.float64))])
    energy = energy[count:] - energy[:-count]
    floor = 0.01 * energy.max() + 1e-12
    own = float(np.dot(heard, heard)) + 1e-12
    return np.asarray(correlation / np.sqrt(np.maximum(energy, floor) * own))


def _whitening(pcm: Pcm) -> Pcm:
    """Return the filter that predicts `pcm` and leaves what cannot be predicted."""
    size = 1 << (len(pcm) + ORDER).bit_length()
    power = np.square(np.abs(np.fft.rfft(pcm, size)))
    related = np.fft.irfft(power)[: ORDER + 1]
    related[0] = related[0] * 1.001 + 1e-9
    order = np.arange(ORDER)
    ahead = np.linalg.solve(related[np.abs(order[:, None] - order)], related[1:])
    return np.array([1.0, *-ahead], np.float32)


def _bands(pcm: Pcm) -> NDArray[np.float64]:
    """Return the powers of `pcm`, shape (spectra, bands), high frequencies raised."""
    bright = pcm[1:] - np.float32(0.9) * pcm[:-1]
    pieces = sliding_window_view(bright, SPAN)[::HOP] * _WINDOW
    return np.asarray(np.square(np.abs(np.fft.rfft(pieces))) @ _BANDS)


def _smeared(played: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a room makes of powers: each spectrum and the `TAIL` - 1 before it."""
    return np.asarray(np.einsum("tbk,k->tb", sliding_window_view(played, TAIL, axis=0), _DECAY))


def _gain(
    heard: NDArray[np.float64],
    played: NDArray[np.float64],
    reverberant: NDArray[np.float64],
    noise: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return how loud each band comes back: the median where it was played loudly, smoothed."""
    loud = played >= played.mean(axis=0)  # as played: the tail follows from it
    ratio = np.log((np.maximum(heard - noise, 1e-3 * noise) + 1e-12) / (reverberant + 1e-12))
    ordered = np.sort(np.where(loud, ratio, np.inf), axis=0)
    middle = np.maximum(loud.sum(axis=0) - 1, 0) // 2
    gain = np.take_along_axis(ordered, middle[None], axis=0)[0]
    return np.convolve(np.pad(gain, 1, mode="edge"), (0.25, 0.5, 0.25), "valid")


_WINDOW = np.hanning(SPAN).astype(np.float32)

_HERTZ = np.fft.rfftfreq(SPAN, 1 / INNER)

_BANDS = np.array([(low <= _HERTZ) & (high > _HERTZ) for low, high in pairwise(EDGES)]).T.astype(
    np.float64
)

_DECAY = np.concatenate([0.8 ** np.arange(TAIL - 1, 0, -1), [1.0]])
_DECAY[:-1] /= _DECAY[:-1].sum()
_DECAY /= 2.0

"""Loudness and leading silence of a voice, while its audio streams by.

Pure: samples in, samples out. A chunk's gain may depend on what came before it but not
on what follows, for by then the chunk has been heard.
"""

import math

import numpy as np

from tts.engine import Pcm

FRAME = 0.02
"""Seconds over which the power of a voice is taken."""

QUIET = -50.0
"""dBFS below which a frame is silence and says nothing about the voice."""

PAUSE = 15.0
"""dB below the loudest frame so far at which a frame counts as a pause in the speech."""

MOST_GAIN = 24.0
"""dB; a voice so quiet that more were needed is noise, or a broken model."""

SLEW = 6.0
"""dB per second at which the gain may move once the voice is heard: not noticed as pumping."""

KNEE = 0.8
"""Amplitude above which the limiter bends a sample towards 1."""


class Leveller:
    """Brings a voice to one loudness: a slow gain, then a soft limiter.

    The first chunk with speech in it sets the gain outright, later ones move it slowly. A chunk
    beside which all before were pauses, a breath or a hum, is the first.
    Made for one `speak`; `gain_db` of the last one by the same voice is a good start.
    """

    def __init__(self, rate: int, target_db: float = -20.0, gain_db: float | None = None) -> None:
        """Aim at `target_db` (dBFS, RMS of the speech), beginning with `gain_db` if known."""
        self._frame = max(1, round(FRAME * rate))
        self._rate = rate
        self._target = target_db
        self._gain = gain_db
        self._powers: list[float] = []

    @property
    def gain_db(self) -> float | None:
        """The gain in force, in dB; `None` until speech was heard."""
        return self._gain

    def push(self, pcm: Pcm) -> Pcm:
        """Return the chunk (shape (n,)) at its new loudness; the argument is left as it is."""
        if not pcm.size:
            return pcm
        self._measure(pcm)
        before = self._gain
        level = self._level()
        if level is not None:
            aim = min(max(self._target - level, -MOST_GAIN), MOST_GAIN)
            if before is not None and aim < before - PAUSE:
                before = None  # what it was set by turns out to have been a pause
            step = SLEW * pcm.size / self._rate
            self._gain = aim if before is None else min(max(aim, before - step), before + step)
        if self._gain is None:
            return pcm.copy()
        first = self._gain if before is None else before
        # A straight line in dB, so that no step is heard where two chunks meet.
        line = np.linspace(first, self._gain, pcm.size, endpoint=False, dtype=np.float32)
        return limit(pcm * np.float32(10) ** (line / np.float32(20)))

    def _measure(self, pcm: Pcm) -> None:
        """Note the power of each frame of speech."""
        size = min(self._frame, pcm.size)
        frames = pcm[: pcm.size // size * size].reshape(-1, size)
        powers = np.square(frames, dtype=np.float64).mean(axis=1)
        self._powers += powers[powers > 10 ** (QUIET / 10)].tolist()

    def _level(self) -> float | None:
        """Return the loudness of the speech so far in dBFS, without its pauses."""
        if not self._powers:
            return None
        floor = max(self._powers) / 10 ** (PAUSE / 10)
        speech = [power for power in self._powers if power >= floor]
        return 10 * math.log10(sum(speech) / len(speech))


def limit(pcm: Pcm) -> Pcm:
    """Bend what is louder than the knee so that nothing exceeds 1; the rest stays exact.

    Each sample is bent by itself, so chunks join as if they had never been cut.
    """
    size = np.abs(pcm)
    loud = size > KNEE
    if not loud.any():
        return pcm
    room = np.float32(1 - KNEE)
    bent = KNEE + room * np.tanh((size - KNEE) / room)
    return np.where(loud, np.copysign(bent, pcm), pcm).astype(np.float32)


class LeadingSilence:
    """Cuts what precedes the first sound of a phrase."""

    def __init__(self, rate: int, threshold: float = 0.003, keep: float = 0.005) -> None:
        """Take amplitudes up to `threshold` for silence, and leave `keep` seconds of it."""
        self._threshold = threshold
        self._keep = round(keep * rate)
        self._tail = np.zeros(0, np.float32)
        self.cut = 0
        """Samples cut so far."""
        self.silent = True
        """Whether no sound has come yet."""

    def push(self, pcm: Pcm) -> Pcm:
        """Return what is left of a chunk, shape (m,)."""
        if not self.silent:
            return pcm
        whole = np.concatenate((self._tail, pcm))
        loud = np.flatnonzero(np.abs(whole) > self._threshold)
        self.silent = not loud.size
        # While nothing is heard the last bit is held back: it may precede the first sound.
        begin = max(0, (whole.size if self.silent else int(loud[0])) - self._keep)
        self.cut += begin
        if self.silent:
            self._tail = whole[begin:]
            return whole[:0]
        return whole[begin:]

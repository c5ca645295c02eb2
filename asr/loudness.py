"""Where in an utterance there is sound, and where it is as good as silent."""

import numpy as np

from asr.engine import RATE, Pcm

BLOCK = RATE // 50
"""Samples whose loudness is taken together, 20 ms."""

RANGE_DB = 36.0
"""How far below the loudest block an utterance's sound may be; the "s" at the end of a word is
some 25 dB below its vowels."""


class Loudness:
    """How loud an utterance is, block by block.

    Attributes:
        samples: Samples heard.
        until: The sample behind the last sound.
        loudest: Root mean square of the loudest block, of full scale 1.
    """

    def __init__(self, quiet_db: float) -> None:
        """Take blocks below `quiet_db` of full scale for silence, however quiet the rest is."""
        self.samples = 0
        self.until = 0
        self.loudest = 0.0
        self._quiet = 10 ** (quiet_db / 20)
        self._range = 10 ** (-RANGE_DB / 20)

    def add(self, pcm: Pcm) -> None:
        """Take the next samples; they must be numbers."""
        starts = np.arange(0, len(pcm), BLOCK)
        if not len(starts):
            return
        sizes = np.minimum(BLOCK, len(pcm) - starts)
        levels = np.sqrt(np.add.reduceat(np.square(pcm), starts) / sizes)
        self.loudest = max(self.loudest, float(levels.max()))
        loud = np.flatnonzero(levels > max(self._quiet, self.loudest * self._range))
        if len(loud):
            self.until = self.samples + int(starts[loud[-1]] + sizes[loud[-1]])
        self.samples += len(pcm)

"""What happens to a model's samples before they are heard: pause, trim, loudness, word times.

Pure. One `Output` serves one piece of text; its words arrive counted from the model's first
sample of the piece and leave counted from the first sample of the whole `speak`.
"""

from typing import Protocol

import numpy as np

from tts.engine import Chunk, Pcm, Word
from tts.loudness import LeadingSilence, Leveller


class Times(Protocol):
    """Words of a piece with their times; see `tts.word_times`."""

    def until(self, sample: int, *, ended: bool) -> list[Word]:
        """Return the words that begin before `sample`; all that are left if it `ended`."""


class Output:
    """The audio of one piece of text on its way out."""

    def __init__(
        self, said: int, pause: int, trim: LeadingSilence | None, leveller: Leveller | None
    ) -> None:
        """Begin `said` samples into the `speak`, with `pause` samples of silence."""
        self._said = said
        self._pause = pause
        self._trim = trim
        self._leveller = leveller
        self._made = 0  # samples that the model gave
        self.given = 0
        """Samples given out, the pause included."""

    def push(self, pcm: Pcm, times: Times, *, ended: bool) -> Chunk:
        """Return a chunk of the model's samples as it is to be heard, perhaps empty."""
        self._made += pcm.size
        if self._leveller is not None:
            pcm = self._leveller.push(pcm)
        if self._trim is not None:
            pcm = self._trim.push(pcm)
            if self._trim.silent and not ended:
                return Chunk(pcm, ())
        if pcm.size and not self.given:
            pcm = np.concatenate((np.zeros(self._pause, np.float32), pcm))
        self.given += pcm.size
        return Chunk(pcm, tuple(map(self._moved, times.until(self._made, ended=ended))))

    def _moved(self, word: Word) -> Word:
        """Return a word at its place in the whole."""
        cut = self._trim.cut if self._trim is not None else 0
        lead = self._pause if self.given else 0
        most = self._made - cut
        start = min(max(0, word.start - cut), most)
        # An estimated end may lie beyond what is made; a known one does not matter sooner.
        end = max(start, word.end - cut)
        return Word(word.text, self._said + lead + start, self._said + lead + end)

"""When each word of a text is spoken.

Pure. A model that predicts durations says it exactly; one that does not gets an estimate.
All times are samples counted from the first of the piece of text.
"""

from collections import deque
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from tts.engine import Word


def by_durations(
    words: Sequence[str], spoken: Sequence[str], symbols: str, durations: Sequence[int]
) -> list[Word]:
    """Return the words with their times, from how long the model holds each symbol.

    `symbols` is what the model reads (letters or phonemes, words apart by spaces), and
    `durations` the samples of each; `spoken` is what each word becomes when read alone
    ("10" is "ten", a dash nothing). Where the parts add up, a word is its symbols. Where
    they do not ("of the" may be one sound), words share the symbols by their lengths, and
    still take the time that those symbols take.
    """
    clock = list(accumulate(durations, initial=0))
    groups = _groups(symbols)
    parts = [len(_groups(text)) for text in spoken]
    if sum(parts) == len(groups):
        edges, at = [], 0
        for count in parts:
            group = groups[at : at + count]
            begin = clock[groups[at][0]] if at < len(groups) else clock[-1]
            edges.append((begin, clock[group[-1][1]] if group else begin))
            at += count
    elif words:
        weights = [sum(not c.isspace() for c in text) for text in spoken]
        if not any(weights):
            weights = [1] * len(words)
        shares = np.cumsum([0, *weights]) / sum(weights) * len(symbols)
        edges = list(pairwise(np.interp(shares, range(len(symbols) + 1), clock).tolist()))
    else:
        edges = []  # of a word cut in two, the second part
    times = [Word(word, round(a), round(b)) for word, (a, b) in zip(words, edges, strict=True)]
    if times:  # what sounds before the first word belongs to it
        times[0].start = 0
    return times


def _groups(symbols: str) -> list[tuple[int, int]]:
    """Return begin and end of what stands between spaces."""
    edges = np.flatnonzero(np.diff([0, *(not c.isspace() for c in symbols), 0])).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


class Timed:
    """Words whose times are known, given out with the audio."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._words = deque(words)

    def until(self, sample: int, *, ended: bool) -> list[Word]:
        """Return the words that begin before `sample`; all that are left if it `ended`."""
        due = []
        while self._words and (ended or self._words[0].start < sample):
            due.append(self._words.popleft())
        return due


class Paced:
    """Words whose times are guessed from their lengths and a pace.

    Good to a few tenths of a second. No word ends after the audio that is known: what follows
    would overlap if the guess was too slow. The end corrects it: when the audio is over, the
    words that are left share what is left of it, and `pace` says what it really was.
    """

    def __init__(self, words: Sequence[str], pace: float) -> None:
        """Expect `pace` samples for each letter or digit."""
        weights = [sum(map(str.isalnum, word)) + 1 for word in words]
        self._pace = pace
        self._total = sum(weights)
        self._edges = list(pairwise(accumulate(weights, initial=0)))
        self._words = deque(zip(words, self._edges, strict=True))
        self._at = 0
        """End of the last word given out, as guessed."""
        self.pace = pace
        """Samples for each letter, known once the audio has ended."""

    def until(self, sample: int, *, ended: bool) -> list[Word]:
        """Return the words that begin before `sample`; all that are left if it `ended`."""
        pace = self._pace
        due: list[Word] = []
        if ended and self._words:
            left = self._total - self._words[0][1][0]
            first = min(self._at, sample)
            pace = (sample - first) / left
            base = self._words[0][1][0]
            while self._words:
                word, (begin, end) = self._words.popleft()
                due.append(
                    Word(word, first + int((begin - base) * pace), first + int((end - base) * pace))
                )
        while self._words and round(self._words[0][1][0] * pace) < sample:
            word, (begin, end) = self._words.popleft()
            self._at = round(end * pace)
            due.append(Word(word, round(begin * pace), min(self._at, sample)))
        if ended:
            self.pace = sample / self._total if self._total else self._pace
        return due

"""Which of a recogniser's words will stand, while it hears more and more of an utterance.

Whisper is asked again and again about a growing window of sound. What two answers
in a row agree on is committed: it never changes any more, and is given to the
model as the beginning of every later answer. When the window has grown long, it
is cut behind committed words. What is no speech, a loop, or more words than
anybody can say in that time is not believed.

No clock, no model, no samples: times are seconds from the first sample of the
utterance, unless they are said to be of the window.
"""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from asr.engine import Hypothesis, Word
from asr.whisper_options import WhisperOptions

LONGEST = 25.0
"""Seconds of window from which words are committed although nothing agrees: the model sees 30."""

CONTEXT = 1.0
"""Seconds of committed words that stay in a window that is cut, for the model to go on from."""

SPARE_WORDS = 2
"""Words over the bound on their rate that are let pass: a window may begin within a word."""

LONGEST_LOOP = 8
"""Words in a phrase that is looked for over and over again."""


@dataclass(slots=True)
class Piece:
    """A word as the model wrote it.

    Attributes:
        text: The word with its punctuation.
        tokens: What the model wrote.
        start: Where it begins, in seconds.
        end: Where it ends.
        confidence: Probability that it is right, 0 to 1.
    """

    text: str
    tokens: tuple[int, ...] = ()
    start: float = 0.0
    end: float = 0.0
    confidence: float = 1.0


@dataclass(slots=True)
class Heard:
    """What the model says of one window.

    Attributes:
        pieces: The words after those it was given to begin with.
        given: Times of the words it was given, in seconds of the window; empty if not measured.
        timed: Whether the times of `pieces` were measured, in seconds of the window.
        logprob: Mean ln of the probability of what it wrote.
        no_speech: Probability that nobody speaks.
        language: Code of the language it heard or was told.
        language_probability: How likely that language is, 0 to 1; 1 where it was told.
    """

    pieces: list[Piece] = field(default_factory=list)
    given: list[tuple[float, float]] = field(default_factory=list)
    timed: bool = False
    logprob: float = 0.0
    no_speech: float = 0.0
    language: str = "en"
    language_probability: float = 1.0

    @property
    def confidence(self) -> float:
        """Probability that the words are right and were words, 0 to 1."""
        return min(1.0, math.exp(self.logprob)) * (1 - self.no_speech)


class Agreement:
    """The words of one utterance.

    Attributes:
        offset: The window's first sample, in seconds.
        committed: Words that stand.
        given: Those of them whose sound is in the window; the model is to begin with them.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self.committed: list[Word] = []
        self.given: list[Piece] = []
        self._tentative: list[Piece] = []

    @property
    def known_until(self) -> float:
        """The end of the last committed word, or the beginning of the window."""
        return self.given[-1].end if self.given else self.offset

    def update(self, heard: Heard, end: float, options: WhisperOptions) -> None:
        """Take what the model says of the window, whose last sound is at `end`."""
        for piece, (start, stop) in zip(self.given, heard.given, strict=False):
            piece.start, piece.end = self.offset + start, self.offset + stop
        pieces = believable(heard, end - self.known_until, options)
        if heard.timed:
            pieces = [
                replace(piece, start=piece.start + self.offset, end=piece.end + self.offset)
                for piece in pieces
            ]
        else:
            pieces = spread(pieces, self.known_until, end)
        agreed = min(agreement(self._tentative, pieces), len(pieces) - 1)  # the last may go on
        if end - self.offset > LONGEST:
            agreed = len(pieces) - 1
        for piece in pieces[: max(0, agreed)]:
            self._commit(piece)
        self._tentative = pieces[max(0, agreed) :]

    def cut(self, end: float) -> float:
        """Let the window, which ends at `end`, begin later; return its new first second.

        The last `CONTEXT` seconds of committed words stay. A window in which nothing was
        found loses all but its last seconds.
        """
        behind = [piece for piece in self.given if piece.end <= self.known_until - CONTEXT]
        if behind:
            self.offset = behind[-1].end
            del self.given[: len(behind)]
        elif end - self.offset > LONGEST:
            self.offset = max(self.known_until, end - LONGEST / 5)
            self.given, self._tentative = [], []
        return self.offset

    def live(self, confidence: float, end: int) -> Hypothesis:
        """Return what is believed while the utterance goes on."""
        tentative = " ".join(piece.text for piece in self._tentative)
        return self._hypothesis(tuple(self.committed), tentative, confidence, end)

    def full(self, confidence: float, end: int) -> Hypothesis:
        """Return what would be final, were the utterance over."""
        words, known = list(self.committed), self._end_of_words()
        for piece in self._tentative:
            words.append(_word(piece, known))
            known = words[-1].end
        return self._hypothesis(tuple(words), "", confidence, end)

    def _hypothesis(
        self, words: tuple[Word, ...], tentative: str, confidence: float, end: int
    ) -> Hypothesis:
        return Hypothesis(words, tentative, confidence if words or tentative else 0.0, end)

    def _commit(self, piece: Piece) -> None:
        self.committed.append(_word(piece, self._end_of_words()))
        self.given.append(piece)

    def _end_of_words(self) -> float:
        return self.committed[-1].end if self.committed else 0.0


def agreement(before: Sequence[Piece], now: Sequence[Piece]) -> int:
    """Return how many words two answers begin with in common; case and punctuation aside."""
    for count, (one, other) in enumerate(zip(before, now, strict=False)):
        if compared(one.text) != compared(other.text):
            return count
    return min(len(before), len(now))


def believable(heard: Heard, seconds: float, options: WhisperOptions) -> list[Piece]:
    """Return the words that may have been said in `seconds` of sound."""
    if heard.no_speech > options.no_speech and heard.logprob < options.unlikely:
        return []
    pieces = unrepeated(heard.pieces)
    if len(pieces) > options.words_per_second * max(0.0, seconds) + SPARE_WORDS:
        return []
    if compression(" ".join(piece.text for piece in pieces)) > options.repetitive:
        return []
    return pieces


def unrepeated(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the words with every loop run through once.

    A loop is a word four times in a row, or a phrase of up to `LONGEST_LOOP` three times.
    """
    words = [compared(piece.text) for piece in pieces]
    kept: list[Piece] = []
    at = 0
    while at < len(words):
        for size in range(1, LONGEST_LOOP + 1):
            phrase, times = words[at : at + size], 1
            while words[at + times * size : at + (times + 1) * size] == phrase:
                times += 1
            if times >= (4 if size == 1 else 3):
                kept += pieces[at : at + size]
                at += times * size
                if words[at:] == phrase[: len(words) - at]:
                    at = len(words)  # it was cut off in the middle of the loop
                break
        else:
            kept.append(pieces[at])
            at += 1
    return kept


def spread(pieces: Sequence[Piece], start: float, end: float) -> list[Piece]:
    """Return the words with times: each as long as its letters, from `start` to `end`."""
    total = sum(len(piece.text) + 1 for piece in pieces)
    timed, at = list[Piece](), start
    for piece in pieces:
        until = at + max(0.0, end - start) * (len(piece.text) + 1) / total
        timed.append(replace(piece, start=at, end=until))
        at = until
    return timed


def compared(text: str) -> str:
    """Return a word as it is compared: letters and digits, in lower case."""
    return re.sub(r"[\W_]+", "", text.casefold()) or text


def compression(text: str) -> float:
    """Return how many times shorter `text` is when compressed; loops are over 2.4."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def _word(piece: Piece, earliest: float) -> Word:
    """Return a word to show, which does not begin before the one ahead of it ended."""
    start = max(earliest, piece.start)
    return Word(piece.text, start, max(start, piece.end), piece.confidence)

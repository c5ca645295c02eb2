"""How far an utterance can be believed: are these the words, and were they meant for us?

A recogniser that expects certain sentences makes one of them out of any sound.
What gives it away: other words would have fitted as well (posteriors), a word
fits its sound badly (acoustic score), nobody talks like that about this topic
(language model), or it fits everything equally because it was no speech.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asr.topics import Topic


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the best path through an utterance.

    Attributes:
        word: A word, or a filler such as "<sil>" and "[NOISE]".
        start: Its first frame (10 ms).
        end: The frame after its last one.
        posterior: ln of the probability that it is this word and no other.
        acoustic: ln of its acoustic likelihood, relative to the best sounds at each frame.
    """

    word: str
    start: int
    end: int
    posterior: float
    acoustic: float

    @property
    def is_word(self) -> bool:
        """Whether it is a word."""
        return self.word[0] not in "<["

    @property
    def fit(self) -> float:
        """How well it sounds like its word, a frame; about -4 for speech."""
        return self.acoustic / (self.end - self.start)


LEAST = -8.0
"""A posterior below this (ln) is as bad as this."""

NO_SPEECH = -2.5
"""A better fit than this is suspicious: steady noise suits every sound equally."""

UNEXPECTED = 2.5
"""Surprise that is assumed where nothing is known about what is expected."""

BIAS = 5.4
WORST_POSTERIOR = 0.27
MEAN_POSTERIOR = 1.3
WORST_FIT = 0.35
TOO_GOOD = -4.5
NOISES = -4.3
SURPRISE = -0.79
OUTSIDE = -9.7
"""Weights of a logistic regression over 1,400 utterances (2026-11-23): front-desk answers
of four synthetic voices and one person, and as many that belong to no clinic, in quiet, in
noise, in babble and by telephone. `BIAS` makes 1.5 % of the latter believed."""


def belief(segments: Sequence[Segment], topic: Topic | None) -> float:
    """Return the probability that the words are right and belong to the topic, 0 to 1."""
    words = [segment for segment in segments if segment.is_word]
    if not words:
        return 0.0
    frames = sum(word.end - word.start for word in words)
    posteriors = [max(word.posterior, LEAST) for word in words]
    fit = sum(word.acoustic for word in words) / frames
    noises = sum(segment.end - segment.start for segment in segments if segment.word[0] == "[")
    score = (
        BIAS
        + WORST_POSTERIOR * min(posteriors)
        + MEAN_POSTERIOR * math.log(1e-3 + sum(map(math.exp, posteriors)) / len(posteriors))
        + WORST_FIT * min(word.fit for word in words)
        + TOO_GOOD * max(0.0, fit - NO_SPEECH)
        + NOISES * noises / segments[-1].end
    )
    said = tuple(word.word for word in words)
    if topic is None:
        score += SURPRISE * UNEXPECTED
    else:
        score += SURPRISE * topic.model.surprise(said)
        score += OUTSIDE * sum(word not in topic.words for word in said) / len(said)
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))

"""The moments at which a caller has just fallen silent: what was known, and what they did next.

A recogniser's mistakes are those that the front desk's recogniser made on 4500 sentences in rooms
and on telephones (`demos/frontdesk/transcripts.jsonl.gz`): half of them for training, the other
half for measuring.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from asr.engine import Pcm
from asr.prosody import SPAN, prosody
from asr.turn_end import Evidence
from demos.frontdesk import heard
from voice.pauses import RATE, CallerTurn

EARLY, LATE = 0.03, 0.015
"""Seconds by which the end of speech is found too early or too late, at most (docs/hearing.md)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One silence.

    Attributes:
        call: The call it is in.
        about: The group of wordings of its turn.
        kind: What it follows.
        evidence: What was known, the words without mistakes.
        pause: Seconds after which the caller went on; None if they were done.
    """

    call: int
    about: str
    kind: str
    evidence: Evidence
    pause: float | None


def decisions(call: Sequence[CallerTurn], rng: random.Random) -> Iterator[Decision]:
    """Yield every silence of a call, in order."""
    pauses: tuple[float, ...] = ()
    for turn in call:
        silent = 0.0
        for pause in turn.pauses:
            spoken = (pause.at - turn.begin) / RATE - silent
            evidence = Evidence(
                words=pause.words,
                expects=turn.expects,
                prosody=prosody(_before(turn.pcm, pause.at, rng)),
                pauses=pauses,
                speech=spoken,
            )
            yield Decision(turn.call, turn.about, pause.kind.value, evidence, pause.seconds)
            silent += pause.seconds
            pauses += (pause.seconds,)
        evidence = Evidence(
            words=turn.text,
            expects=turn.expects,
            prosody=prosody(_before(turn.pcm, turn.end, rng)),
            pauses=pauses,
            speech=(turn.end - turn.begin) / RATE - silent,
        )
        yield Decision(turn.call, turn.about, "end", evidence, None)


def _before(pcm: Pcm, end: int, rng: random.Random) -> Pcm:
    """Return the last second before the end of speech as a detector finds it."""
    end += round(rng.uniform(-EARLY, LATE) * RATE)
    return pcm[max(0, end - round(SPAN * RATE)) : end]


class Mishearing:
    """A recogniser's mistakes, learnt from what it made of sentences."""

    def __init__(self, half: int) -> None:
        """Learn from the even (0) or odd (1) transcripts."""
        self._rates: list[tuple[float, float, float]] = []
        self._for: dict[str, list[str]] = defaultdict(list)
        self._any: list[str] = []
        for one in heard.read()[half::2]:
            said, found = one.said.text.split(), one.transcript.split()
            substituted = dropped = added = 0
            for step, a, b, c, d in SequenceMatcher(None, said, found, False).get_opcodes():
                if step == "equal":
                    continue
                both = min(b - a, d - c)
                substituted += both
                dropped += b - a - both
                added += d - c - both
                for wrong in found[c:d]:
                    self._any.append(wrong)
                for right, wrong in zip(said[a : a + both], found[c : c + both], strict=True):
                    self._for[right].append(wrong)
            counts = (substituted, dropped, added)
            self._rates.append(tuple(count / len(said) for count in counts))  # type: ignore[arg-type]

    def mishear(self, evidence: Evidence, rng: random.Random) -> Evidence:
        """Return the evidence with the words that a recogniser would have had."""
        substituted, dropped, added = rng.choice(self._rates)
        words: list[str] = []
        for word in evidence.words.split():
            roll = rng.random()
            if roll < dropped:
                continue
            wrong = roll < dropped + substituted
            words.append(rng.choice(self._for.get(word) or self._any) if wrong else word)
            if rng.random() < added:
                words.append(rng.choice(self._any))
        return replace(evidence, words=" ".join(words))


def late(evidence: Evidence) -> Evidence:
    """Return the evidence of a recogniser that has not got to the last word yet."""
    return replace(evidence, words=evidence.words.rpartition(" ")[0])

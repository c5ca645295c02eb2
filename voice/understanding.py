"""What was not understood is not acted on: it is asked again, then a person is offered. Pure."""

from dataclasses import dataclass
from enum import Enum, auto

from voice.agent import Lines
from voice.hearing import Heard

SURE = 0.4
"""Confidence from which words are acted on. Nothing is written without a read-back, so a
mistake is heard and corrected. Measured 2026-11-23 (front desk, wordings and voices that nothing
was trained on, quiet and noisy room): 0.5 acts rightly on 32 % of turns and makes a tool call of
1.8 % of talk not meant for it, 0.4 on 41 % and 2.3 %, 0.3 on 46 % and 3.2 %."""

CERTAIN = 0.5
"""Confidence that an answer to yes or no needs: a yes writes."""

NOISE = 0.6
"""Sound without words that is shorter than this, in seconds, was not addressed to the agent."""


def acted_on(text: str, confidence: float, expected: str) -> bool:
    """Tell whether words are acted on, where the question open was `expected`."""
    return bool(text) and confidence >= (CERTAIN if expected == "yes_no" else SURE)


class Verdict(Enum):
    """What a caller's sound was."""

    UNDERSTOOD = auto()
    MISSED = auto()
    """Speech, but not to be acted on."""
    NOISE = auto()
    """Nothing said; an agent that it interrupted goes on."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and the line to say where it is `MISSED`."""

    verdict: Verdict
    line: str = ""


class Understanding:
    """The misses of one call."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.misses = 0
        """Turns in a row that were not understood."""
        self.expects = ""
        """Topic of a question asked here, "" if the tools' own question stands."""

    def judge(self, heard: Heard, expected: str, interrupting: bool) -> Judged:
        """Judge one turn; `expected` is the topic the agent had asked about."""
        if acted_on(heard.text, heard.confidence, expected):
            return Judged(Verdict.UNDERSTOOD)
        if not heard.text and (interrupting or heard.duration < NOISE):
            return Judged(Verdict.NOISE)
        self.misses += 1
        if self.misses >= 2:
            self.expects = "yes_no"
            return Judged(Verdict.MISSED, self._lines.person)
        return Judged(Verdict.MISSED, self._lines.again.get(expected, self._lines.again[""]))

    def understood(self) -> None:
        """Note that a turn was understood."""
        self.misses, self.expects = 0, ""

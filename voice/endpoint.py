"""How long to wait for a caller who has fallen silent: `asr.turn_end` with this call's evidence."""

from collections.abc import Callable
from dataclasses import dataclass

from asr.turn_end import Evidence, Prosody, TurnEnd, prosody, wait
from voice.hearing import Ears, Heard
from voice.settings import TurnSettings

MELODY = 1.0
"""Seconds of speech whose melody is looked at."""


@dataclass(slots=True)
class Endpointer:
    """Chooses the wait that ends a turn of one call.

    Attributes:
        ears: The call's ears.
        model: Tells how likely a caller is done; shared by all calls.
        settings: The shortest and the longest wait.
        expects: Asks what the agent has just asked about.
    """

    ears: Ears
    model: TurnEnd
    settings: TurnSettings
    expects: Callable[[], str]
    _melody: Prosody | None = None

    def fell_silent(self, said: Heard) -> float:
        """Return the wait of a caller who fell silent just now, in seconds.

        `said` is what is known of this turn's earlier utterances.
        """
        self._melody = None
        return self.wait(said)

    def wait(self, said: Heard, final: str = "") -> float:
        """Return the wait of a caller who is silent, now that more of the words is known.

        `final` are all words of the turn, once the recogniser has said them.
        """
        shortest, longest = self.settings.shortest_wait, self.settings.longest_wait
        utterance = self.ears.utterance
        if shortest == longest or utterance is None:
            return longest
        if self._melody is None:
            self._melody = prosody(self.ears.latest(MELODY, utterance.ended))
        evidence = Evidence(
            words=final or f"{said.text} {utterance.latest.text}".strip(),
            expects=self.expects(),
            prosody=self._melody,
            pauses=tuple(self.ears.pauses),
            speech=said.duration + utterance.duration,
        )
        return wait(self.model.probability(evidence), shortest, longest, evidence.pauses)

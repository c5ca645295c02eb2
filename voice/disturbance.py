"""A sound of the caller while the agent speaks: what is known of it, gathered for the judge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from asr.echo import EchoGuard
from asr.engine import EngineError, Hypothesis
from transport.audio import level_db
from voice.hearing import Ears
from voice.interruption import InterruptionSettings, Ruling, Sound, judge

JUDGING = InterruptionSettings()

ECHO_EVERY = 0.1
"""Seconds between two looks for the agent's own voice in a sound; each takes 1 ms."""

ECHO_SPAN = 0.2
"""Seconds of the sound that each looks at."""

LEVEL_SPAN = 1.0
"""Seconds of a sound whose level counts."""


@dataclass(slots=True)
class Disturbance:
    """One sound.

    Attributes:
        began: Its first sample, counted from the call's first.
        ended: The one after its last; None while it goes on.
        final: The recogniser's last word on it, if it has been said.
        evidence: What the judge is told.
        since: When sound began of which this is a part, in seconds; an echo goes on.
        looked: When the echo guard was last asked, likewise.
    """

    began: int
    ended: int | None = None
    final: Hypothesis | None = None
    evidence: Sound = field(default_factory=lambda: Sound(0.0))
    since: float = 0.0
    looked: float = 0.0


class Disturbances:
    """The sounds of one call, one after the other."""

    def __init__(self, ears: Ears, echo: EchoGuard, expects: Callable[[], str]) -> None:
        """`expects` tells what the agent has just asked about."""
        self.sound = Disturbance(0)
        """The latest."""
        self._ears, self._echo, self._expects = ears, echo, expects
        self._usual_db: float | None = None

    @property
    def no_echo(self) -> bool:
        """Whether the latest was looked at, and is more than the agent's own voice."""
        return self.sound.evidence.echo is not None

    @property
    def over(self) -> bool:
        """Whether the latest has ended."""
        return self.sound.ended is not None

    def begin(self, at: int) -> None:
        """Note that a sound began at sample `at`."""
        self.sound = Disturbance(at, since=self._ears.when(at))

    def learn_level(self) -> None:
        """Note how loud the caller is, at the end of their speech."""
        if (utterance := self._ears.utterance) is not None:
            self._usual_db = level_db(self._ears.latest(LEVEL_SPAN, utterance.ended))

    def is_echo(self, since: int) -> bool:
        """Tell whether what was heard from sample `since` on is the agent's own voice."""
        echo = self._echo.echo(self._ears.when(since), monotonic())
        return echo.similarity >= JUDGING.similarity

    def judge(self) -> Ruling:
        """Return what the latest sound is; where it is nothing and goes on, it begins anew."""
        sound, ears = self.sound, self._ears
        evidence, now, began = sound.evidence, monotonic(), ears.when(sound.began)
        end = ears.when(ears.samples if sound.ended is None else sound.ended)
        latest = ears.utterance.latest if ears.utterance else Hypothesis()
        hypothesis = sound.final or latest
        evidence.seconds = max(0.0, end - began)
        evidence.ended, evidence.silence = self.over, now - end if self.over else 0.0
        evidence.words, evidence.confidence = hypothesis.text, hypothesis.confidence
        evidence.final = sound.final is not None
        evidence.expects, evidence.usual_db = self._expects(), self._usual_db
        if not self.over and now - sound.looked >= ECHO_EVERY:
            sound.looked = now
            evidence.level_db = level_db(ears.latest(min(now - began, LEVEL_SPAN)))
            evidence.explained(self._echo.echo(max(sound.since, now - ECHO_SPAN), now))
        ruling = judge(evidence, JUDGING)
        if ruling is Ruling.RESUME and not self.over:
            self.sound = Disturbance(ears.samples, since=sound.since, looked=sound.looked)
        return ruling

    async def hear_out(self) -> bool:
        """Let the recogniser have its last word on a sound that is over.

        Return whether it is still the latest.
        """
        sound, settled = self.sound, self._ears.settle(monotonic())
        try:
            final = await settled[0] if settled else Hypothesis(confidence=0.0)
        except EngineError:
            final = Hypothesis(confidence=0.0)
        sound.final = final
        return sound is self.sound


def described(sound: Sound, ruling: Ruling) -> Mapping[str, Any]:
    """Return a ruling as the log has it."""
    return {
        "ruling": ruling.name.lower(),
        "seconds": round(sound.seconds, 2),
        "text": sound.words,
        "echo": round(sound.echo.similarity if sound.echo else 0.0, 2),
    }

"""The caller's side of a call: samples become speech events, and speech becomes words."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from asr.engine import RATE, Engine, Hypothesis, Listening, Pcm, Stream
from asr.vad import SpeechDetector, SpeechEvent, SpeechStarted, SpeechStopped

PRE_ROLL = 0.3
"""Seconds of sound before the detected start that the recogniser hears, too."""

KEPT = 1.0
"""Seconds of sound kept for that; the detector needs 60 to 160 ms to see a start."""


@dataclass(slots=True)
class Utterance:
    """Words being heard.

    Attributes:
        stream: The recogniser's work on them.
        began: Their first sample, counted from the call's first.
        ended: Their last sample as far as is known, likewise.
    """

    stream: Stream
    began: int
    ended: int

    @property
    def duration(self) -> float:
        """Seconds of speech."""
        return max(0, self.ended - self.began) / RATE


@dataclass(slots=True)
class Heard:
    """The words of a caller's whole turn, of one utterance or several.

    Attributes:
        text: The words.
        confidence: That of the least certain utterance that had words, 0 to 1.
        duration: Seconds of speech.
    """

    text: str = ""
    confidence: float = 1.0
    duration: float = 0.0

    def add(self, hypothesis: Hypothesis, duration: float) -> None:
        """Add what one utterance turned out to be."""
        self.duration += duration
        if hypothesis.text:
            self.text = f"{self.text} {hypothesis.text}".strip()
            self.confidence = min(self.confidence, hypothesis.confidence)


@dataclass(slots=True)
class Ears:
    """One call's ears.

    Attributes:
        engine: The recogniser.
        detector: Whether somebody speaks.
        call: Its name: a recogniser may get used to a caller's voice and line.
        expects: Asks what the agent has just asked about.
        opened: Told of every utterance, for captions.
    """

    engine: Engine
    detector: SpeechDetector
    call: str
    expects: Callable[[], str]
    opened: Callable[[Utterance], None]
    samples: int = 0
    """Samples heard since the call began."""
    utterance: Utterance | None = None
    """The one being heard."""
    _recent: deque[Pcm] = field(default_factory=deque)
    _recent_samples: int = 0

    def hear(self, pcm: Pcm) -> list[SpeechEvent]:
        """Take the next samples; return what they told about speech."""
        self.samples += len(pcm)
        self._remember(pcm)
        if self.utterance is not None:
            self.utterance.stream.push(pcm)
        events = self.detector.push(pcm)
        for event in events:
            match event:
                case SpeechStarted(at):
                    self._begin(at)
                case SpeechStopped(at):
                    if self.utterance is not None:
                        self.utterance.ended = at
        return events

    def finish(self, deadline: float) -> tuple[asyncio.Task[Hypothesis], float] | None:
        """End the utterance: its final words, in the making, and its seconds; None if none."""
        utterance, self.utterance = self.utterance, None
        if utterance is None:
            return None
        return asyncio.create_task(_final(utterance.stream, deadline)), utterance.duration

    def drop(self) -> None:
        """Forget the utterance being heard."""
        utterance, self.utterance = self.utterance, None
        if utterance is not None:
            utterance.stream.close()

    def _begin(self, at: int) -> None:
        """Open an utterance at sample `at`, unless this goes on with one."""
        if self.utterance is not None:
            self.utterance.ended = self.samples
            return
        stream = self.engine.open(Listening(expects=self.expects(), call=self.call))
        first = at - round(PRE_ROLL * RATE)
        position = self.samples - self._recent_samples
        for piece in self._recent:
            if position + len(piece) > first:
                stream.push(piece[max(0, first - position) :])
            position += len(piece)
        self.utterance = Utterance(stream, at, self.samples)
        self.opened(self.utterance)

    def _remember(self, pcm: Pcm) -> None:
        self._recent.append(pcm)
        self._recent_samples += len(pcm)
        while self._recent_samples - len(self._recent[0]) >= KEPT * RATE:
            self._recent_samples -= len(self._recent.popleft())


async def _final(stream: Stream, deadline: float) -> Hypothesis:
    try:
        return await stream.finish(deadline)
    finally:
        stream.close()

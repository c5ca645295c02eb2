"""The caller's side of a call: samples become speech events, and speech becomes words."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic

import numpy as np

from asr.edges import last_sound
from asr.engine import RATE, Engine, Hypothesis, Listening, Pcm, Stream
from asr.vad import SpeechDetector, SpeechEvent, SpeechStarted, SpeechStopped

PRE_ROLL = 0.3
"""Seconds of sound before the detected start that the recogniser hears, too."""

PAUSES = 12
"""Own pauses of a caller that are remembered."""

SHORTEST_PAUSE = 0.2
"""Seconds from which a gap is a pause and not part of a word."""

KEPT = 1.3
"""Seconds of sound kept, for that (the detector needs 60 to 160 ms to see a start) and for the
last second of speech, whose end is seen later than it came."""


SOUGHT = 0.6
"""Seconds before the detected end of speech of which the loudest sound is the measure of what is
audible: a word at least."""

LATE = 0.1
"""Seconds by which audio may be late and still follow what came before: networks and busy
machines delay it, nothing makes it early."""

LEAST_OVER = 2.0
"""Seconds of audio, at least, over which the least delay is looked for; half as much again on
average. A sender's clock that is wrong by 300 ppm has moved by 1 ms in that time."""


@dataclass(slots=True)
class SampleClock:
    """When samples were made, from when they came: late ones keep their place. Pure.

    The earliest arrival of the last seconds is the measure for all.

    Attributes:
        until: When the latest ended, had none been late, in seconds.
    """

    until: float = 0.0
    _position: float = 0.0  # seconds of audio so far
    _least: float = -math.inf  # begin of the stream by the earliest arrivals lately
    _before: float = -math.inf  # and before that
    _since: float = 0.0  # position from which `_least` was looked for

    def place(self, seconds: float, now: float) -> float:
        """Return when `seconds` of audio began that had all come by `now`; it follows the last."""
        origin = now - seconds - self._position
        if origin >= min(self._least, self._before) + LATE:  # a gap, or the first of all
            self._least = self._before = origin
            self._since = self._position
        elif self._position - self._since >= LEAST_OVER:
            self._before, self._least, self._since = self._least, origin, self._position
        else:
            self._least = min(self._least, origin)
        began = min(self._least, self._before) + self._position
        self._position += seconds
        self.until = began + seconds
        return began


@dataclass(slots=True)
class FellSilent:
    """The end of some speech, in monotonic seconds: when it was, and when its sound came.

    Attributes:
        speech_end: When the last audible sample was made.
        arrived: When the packet with it came.
        released: When the jitter buffer let it go.
    """

    speech_end: float
    arrived: float
    released: float


@dataclass(slots=True)
class Utterance:
    """Words being heard.

    Attributes:
        stream: The recogniser's work on them.
        began: Their first sample, counted from the call's first.
        ended: Their last sample as far as is known, likewise.
        latest: What the recogniser believes of them now.
    """

    stream: Stream
    began: int
    ended: int
    latest: Hypothesis = field(default_factory=Hypothesis)

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


Final = tuple[asyncio.Task[Hypothesis], float]
"""Final words in the making, and the seconds of their speech."""


@dataclass(slots=True)
class Words:
    """What the caller said since the last answer, as far as it is known.

    Attributes:
        finals: Final words in the making with their seconds of speech, oldest first.
        heard: What the earlier ones turned out to be.
    """

    finals: list[Final] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)

    def copy(self) -> "Words":
        """Return the same words, to be added to on their own."""
        return Words(list(self.finals), replace(self.heard))

    async def all(self) -> Heard:
        """Wait for all of them and take them; words that are not final yet stay if cut off.

        Raises:
            EngineError: If the recogniser failed; those words are lost.
        """
        while self.finals:
            final, duration = self.finals[0]
            await asyncio.wait({final})
            self.finals.pop(0)
            self.heard.add(final.result(), duration)
        heard, self.heard = self.heard, Heard()
        return heard

    def drop(self, before: "Words") -> None:
        """Be `before` again; what is in the making and was not then is stopped."""
        for final, _ in self.finals:
            if all(final is not kept for kept, _ in before.finals):
                final.cancel()
        self.finals, self.heard = before.finals, before.heard

    def forget(self) -> None:
        """Forget them; what is in the making is stopped."""
        for final, _ in self.finals:
            final.cancel()
        self.finals.clear()
        self.heard = Heard()


@dataclass(slots=True)
class Ears:
    """One call's ears.

    Attributes:
        engine: The recogniser.
        detector: Whether somebody speaks.
        call: Its name: a recogniser may get used to a caller's voice and line.
        expects: Asks what the agent has just asked about.
        opened: Told of every utterance, for captions.
        language: Asks which language the caller speaks.
    """

    engine: Engine
    detector: SpeechDetector
    call: str
    expects: Callable[[], str]
    opened: Callable[[Utterance], None]
    language: Callable[[], str]
    samples: int = 0
    """Samples heard since the call began."""
    clock: SampleClock = field(default_factory=SampleClock)
    """When samples were made."""
    utterance: Utterance | None = None
    """The one being heard."""
    pauses: deque[float] = field(default_factory=partial(deque, maxlen=PAUSES))
    """This caller's own pauses, after which they went on with the same turn, in seconds."""
    _recent: deque[Pcm] = field(default_factory=deque)
    _recent_samples: int = 0
    _came: deque[tuple[int, float, float]] = field(default_factory=deque)
    """For each piece of `_recent`: the sample after it, when it came, when it was let go."""
    _ended: int = 0

    def hear(self, pcm: Pcm, arrived: float, released: float) -> None:
        """Take the next samples, that came and that a jitter buffer let go at these times."""
        self.samples += len(pcm)
        self._remember(pcm)
        self._came.append((self.samples, arrived, released))
        if self.utterance is not None:
            self.utterance.stream.push(pcm)
        self.detector.push(pcm)

    def notice(self, event: SpeechEvent) -> None:
        """Take what the detector found: speech opens an utterance, or goes on with it."""
        match event:
            case SpeechStarted(at):
                self._begin(at)
            case SpeechStopped(at):
                self._ended = at
                if self.utterance is not None:
                    self.utterance.ended = at

    def when(self, sample: int) -> float:
        """Return the monotonic time, in seconds, at which a sample came."""
        return monotonic() - (self.samples - sample) / RATE

    def made(self, sample: int) -> float:
        """Return the monotonic time, in seconds, at which a sample was made, by the clock."""
        return self.clock.until - (self.samples - sample) / RATE

    def fell_silent(self, at: int) -> Callable[[], FellSilent]:
        """Keep what there is of the speech whose last sample the detector says is `at`.

        Call what is returned for when it ended, at any time: of the many hints of an end only the
        last is asked.
        """
        heard = (tuple(self._recent), tuple(self._came), self.samples, self.clock.until)
        return partial(_end_of_speech, at, self.detector.noise, *heard)

    def paused(self, until: int) -> None:
        """Note that the caller goes on with the same turn at sample `until`."""
        pause = (until - self._ended) / RATE
        if pause >= SHORTEST_PAUSE:
            self.pauses.append(pause)

    def latest(self, seconds: float, end: int | None = None) -> Pcm:
        """Return up to `seconds` of what was heard before sample `end`, of what is `KEPT`."""
        stop = self.samples if end is None else end
        return _cut(self._recent, self.samples, stop - round(seconds * RATE), stop)

    def settle(self, deadline: float) -> Final | None:
        """Return the words as if the utterance were over, in the making, and its seconds.

        It goes on all the same. None if there is none.
        """
        utterance = self.utterance
        if utterance is None:
            return None
        return asyncio.create_task(utterance.stream.settle(deadline)), utterance.duration

    def finish(self, deadline: float) -> Final | None:
        """End the utterance: its final words, in the making, and its seconds; None if none."""
        utterance, self.utterance = self.utterance, None
        if utterance is None:
            return None
        return asyncio.create_task(_final(utterance.stream, deadline)), utterance.duration

    def leave(self, final: asyncio.Task[Hypothesis] | None) -> None:
        """End the utterance, of which `final` is all that is still wanted."""
        utterance, self.utterance = self.utterance, None
        if utterance is None:
            return
        if final is None or final.done():
            utterance.stream.close()
        else:
            final.add_done_callback(lambda _: utterance.stream.close())

    def drop(self) -> None:
        """Forget the utterance being heard."""
        utterance, self.utterance = self.utterance, None
        if utterance is not None:
            utterance.stream.close()

    def _begin(self, at: int) -> None:
        """Open an utterance at sample `at`, unless this goes on with one."""
        if self.utterance is not None:
            self.paused(at)
            self.utterance.ended = self.samples
            return
        stream = self.engine.open(
            Listening(language=self.language(), expects=self.expects(), call=self.call)
        )
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
            self._came.popleft()


async def _final(stream: Stream, deadline: float) -> Hypothesis:
    try:
        return await stream.finish(deadline)
    finally:
        stream.close()


def _cut(pieces: Sequence[Pcm], samples: int, first: int, stop: int) -> Pcm:
    """Return samples `first` to `stop` of `pieces`, which end with sample `samples`."""
    position, found = samples, [np.zeros(0, np.float32)]
    for piece in reversed(pieces):
        if position <= first:
            break
        position -= len(piece)
        found.append(piece)
    whole = np.concatenate(found[::-1])
    return whole[max(0, first - position) : max(0, stop - position)]


def _end_of_speech(
    at: int,
    noise_db: float,
    pieces: Sequence[Pcm],
    came: Sequence[tuple[int, float, float]],
    samples: int,
    until: float,
) -> FellSilent:
    """Return when speech ended that the detector says ended with sample `at`.

    `pieces` of sound came as `came` says; the last sample is `samples`, made at `until`.
    """
    recent = _cut(pieces, samples, at - round(SOUGHT * RATE), samples)
    audible = last_sound(recent, noise_db)
    sample = samples - len(recent) + audible if audible else at
    _, arrived, released = next((entry for entry in came if entry[0] >= sample), (0, until, until))
    return FellSilent(until - (samples - sample) / RATE, arrived, released)

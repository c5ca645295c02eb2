"""Whether somebody speaks: Silero's model, the rules on top of it, and where speech really ended.

The model looks at windows of 32 ms and says "silence" 60 to 100 ms after the
last sound. The samples' own energy knows earlier, and knows where: a stop is
told as soon as it has been quiet for a moment, and the model then confirms it
or it is taken back. A stop is a hint, and whoever has the floor decides what
follows from it; waiting times are counted from the last sound (`at`), not from
the word of either.

One model serves all calls of a process: windows that became full in the same
iteration of the loop run together.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from asr.edges import BLOCK, SILENT_DB, Edges, decibels
from asr.engine import RATE, Pcm
from asr.silero import CONTEXT, UNITS, WINDOW, Silero, shipped_model

log = logging.getLogger(__name__)

CONFIRM = 0.13
"""Seconds after the last sound in which the model must agree with a stop that energy told."""


@dataclass(slots=True)
class SoundHeard:
    """Perhaps somebody begins to speak; `SpeechStarted` or `SoundPassed` follows.

    Attributes:
        at: First sample of the sound, a little early, counted from the call's first.
    """

    at: int


@dataclass(slots=True)
class SoundPassed:
    """The sound was nothing."""


@dataclass(slots=True)
class SpeechStarted:
    """Somebody began to speak, or goes on after all.

    Attributes:
        at: First sample of the speech, a little early, counted from the call's first.
    """

    at: int


@dataclass(slots=True)
class SpeechStopped:
    """Perhaps somebody finished speaking; told again when the last sample is known better.

    Attributes:
        at: Last sample of the speech, counted from the call's first.
    """

    at: int


SpeechEvent = SoundHeard | SoundPassed | SpeechStarted | SpeechStopped


@dataclass(frozen=True, slots=True, kw_only=True)
class VadSettings:
    """What counts as speech.

    Attributes:
        threshold: Probability from which a window is speech.
        release: Probability below which speech has stopped.
        windows: Windows of speech in a row that make a start.
        hangover: Time after a stop in which one window is enough to go on, in seconds.
        hush: Quiet after which speech has perhaps stopped, in seconds; 0 leaves that to the
            model. Consonants close the mouth for 40 to 80 ms.
    """

    threshold: float = 0.5
    release: float = 0.35
    windows: int = 2
    hangover: float = 1.0
    hush: float = 0.048

    def __post_init__(self) -> None:
        if not 0 < self.release <= self.threshold < 1:
            raise ValueError(
                f"threshold is {self.threshold} and release {self.release}; "
                "expected 0 < release <= threshold < 1"
            )
        if self.windows < 1:
            raise ValueError(f"windows is {self.windows}; expected at least 1")
        if not 0 <= self.hush <= CONFIRM:
            raise ValueError(f"hush is {self.hush} s; expected 0 (off) to {CONFIRM}")


class Gate:
    """The rules: probabilities of successive windows go in, changes come out. Pure."""

    def __init__(self, settings: VadSettings) -> None:
        self.settings = settings
        self.speaking = False
        self._windows = 0
        self._run = 0
        self._stopped_at: int | None = None

    def step(self, probability: float) -> int | None:
        """Take the next window; return where the state changed, or None.

        The number is that of the window, counted from 0, with which the new
        state began: for a start the first window of the run that made it.
        `speaking` tells which state that is.
        """
        here = self._windows
        self._windows += 1
        if self.speaking:
            if probability >= self.settings.release:
                return None
            self.speaking = False
            self._run = 0
            self._stopped_at = here
            return here
        self._run = self._run + 1 if probability >= self.settings.threshold else 0
        if self._run < (1 if self._in_hangover(here) else self.settings.windows):
            return None
        self.speaking = True
        return here - self._run + 1

    def _in_hangover(self, window: int) -> bool:
        """Whether speech stopped so recently that a single window continues it."""
        if self._stopped_at is None:
            return False
        return (window - self._stopped_at) * WINDOW <= self.settings.hangover * RATE


class Phase(Enum):
    """What a caller is doing, as far as was told."""

    SILENT = auto()
    HEARD = auto()
    """A sound, not known yet to be speech."""
    SPEAKING = auto()
    HUSHED = auto()
    """Quiet, and the model has not said so yet."""


class Detection:
    """The rules of one call: levels of blocks and probabilities of windows go in, events come out.

    Pure. Blocks come in order, and after each fourth the probability of the
    window that they make.
    """

    RETURN = 2
    """Loud blocks in a row that take a stop back (16 ms): one is a click."""

    FADE_DB = 0.4
    """How fast the loudest level is forgotten, per block (20 dB in the 400 ms of a syllable)."""

    ONSET = 5
    """Loud blocks in a row (40 ms) that are a sound at once when the model begins to agree."""

    ONSET_DB = 10.0
    """How far they stand out from the noise."""

    ONSET_PROBABILITY = 0.15
    """What the model must think of the last window then."""

    DOUBT = 32
    """Blocks that a sound has to become speech (256 ms)."""

    SUSPECT = 625
    """Blocks of speech without a breath (5 s) after which it may be noise."""

    SUSPECT_AT_FIRST = 188
    """The same (1.5 s) in a call whose noise is not known yet."""

    IDLE = 31
    """Windows without a sound (1 s) after which the model begins anew. What it remembers of long
    silence makes it deaf: of 200 turns, 3 s of silence apart, it misses 18, so it misses 2
    (voices of `voice.pauses`, digital silence; 10 and 1 in white noise of -50 dBFS)."""

    PATIENCE = 32
    """Windows over which what the model thinks of the noise is averaged (1 s)."""

    def __init__(self, settings: VadSettings) -> None:
        self.gate = Gate(settings)
        self.edges = Edges()
        self.phase = Phase.SILENT
        self.probability = 0.0
        """Of speech in the last window, 0 to 1."""
        self._peak = SILENT_DB
        self._loud = 0  # blocks in a row
        self._quiet = 0
        self._since = 0  # block of the last start
        self._breath = self.SUSPECT  # blocks that this speech may last
        self._heard = 0  # block of the last sound
        self._heard_told = False  # since it was quiet
        self._hush_told = False  # since it was loud
        self._ended = 0  # block after the last with speech, as told
        self._idle = 0  # windows without a sound
        self._mistaken = 0.0  # probability that the model gives to the noise

    def block(self, level: float) -> SpeechEvent | None:
        """Take the level of the next block, in dBFS."""
        edges = self.edges
        phase = self.phase
        edges.push(level, phase is Phase.SILENT or self._suspect())
        faded = self._peak - self.FADE_DB
        self._peak = level if level > faded else faded
        if level > edges.noise and level > self._peak - edges.BELOW_SPEECH_DB:
            self._loud += 1
            self._quiet = 0
        else:
            self._quiet += 1
            self._loud = 0
        if phase is Phase.SILENT:
            return self._onset(level)
        if phase is Phase.SPEAKING:
            return self._hush()
        if phase is Phase.HUSHED:
            return self._back()
        return None

    def window(self, probability: float, level: float) -> SpeechEvent | None:
        """Take the probability of speech in the last four blocks, and their level in dBFS."""
        self.probability = probability
        speaking = self.gate.speaking
        sound = speaking or probability >= self.ONSET_PROBABILITY
        self._idle = 0 if sound or self._idle == self.IDLE else self._idle + 1
        if level <= self.edges.noise:
            if self.phase is Phase.SILENT:
                self._mistaken += (probability - self._mistaken) / self.PATIENCE
            if not speaking or self._suspect() or self._mistaken >= self.gate.settings.release:
                probability = 0.0
        changed = self.gate.step(probability)
        if changed is not None:
            return self._started(changed) if self.gate.speaking else self._stopped()
        if self.gate.speaking:
            return None
        sound = probability >= self.gate.settings.threshold
        if self.phase is Phase.SILENT and sound:
            return self._sound()
        if self.phase is Phase.HEARD and not sound and self._nothing(probability):
            self.phase = Phase.SILENT
            return SoundPassed()
        return None

    @property
    def idle(self) -> bool:
        """Whether it has been silent for so long that the model should begin anew."""
        return self._idle == self.IDLE

    def _nothing(self, probability: float) -> bool:
        """Whether a sound that is not speech so far will hardly become it."""
        late = self.edges.blocks - self._heard > self.DOUBT
        return late or probability < self.ONSET_PROBABILITY

    def _suspect(self) -> bool:
        """Whether this has been speech for longer than a breath lasts."""
        return self.gate.speaking and self.edges.blocks - self._since > self._breath

    def _onset(self, level: float) -> SpeechEvent | None:
        """Hear a sudden sound before its window is full."""
        edges = self.edges
        if not self._loud:
            self._heard_told = False
        if self._heard_told or self._loud < self.ONSET or level < edges.noise + self.ONSET_DB:
            return None
        if self.probability < self.ONSET_PROBABILITY:
            return None
        return self._sound()

    def _hush(self) -> SpeechEvent | None:
        """Tell a stop when it has been quiet for long enough."""
        hush = self.gate.settings.hush
        if self._loud:
            self._hush_told = False
        if not hush or self._hush_told or self._quiet * BLOCK < hush * RATE:
            return None
        self.phase = Phase.HUSHED
        self._hush_told = True
        self._ended = self.edges.ended()
        return SpeechStopped(self._ended * BLOCK)

    def _back(self) -> SpeechEvent | None:
        """Take a stop back when it is loud again, or when the model has not agreed."""
        if self._loud >= self.RETURN:
            self.phase = Phase.SPEAKING
            return SpeechStarted((self.edges.blocks - self._loud) * BLOCK)
        sure = self.probability >= self.gate.settings.threshold
        if (self.edges.blocks - self._ended) * BLOCK > (CONFIRM if sure else 2 * CONFIRM) * RATE:
            self.phase = Phase.SPEAKING
            return SpeechStarted(self.edges.blocks * BLOCK)
        return None

    def _started(self, window: int) -> SpeechEvent:
        self.phase = Phase.SPEAKING
        self._since = self.edges.blocks
        self._breath = self.SUSPECT if self.edges.known else self.SUSPECT_AT_FIRST
        return SpeechStarted(self.edges.began(window * WINDOW // BLOCK) * BLOCK)

    def _stopped(self) -> SpeechEvent | None:
        hushed = self.phase is Phase.HUSHED
        self.phase = Phase.SILENT
        ended = self.edges.ended()
        if hushed and abs(ended - self._ended) <= 1:
            return None
        return SpeechStopped(ended * BLOCK)

    def _sound(self) -> SpeechEvent:
        self.phase = Phase.HEARD
        self._heard = self.edges.blocks
        self._heard_told = True
        return SoundHeard(self.edges.began(self.edges.blocks - 1) * BLOCK)


class VadModel:
    """Silero VAD v6, loaded once for all calls of a process, on the thread that pushes.

    `schedule` is told to run `flush` soon (`loop.call_soon`): the windows that
    became full in one iteration of the loop run together, and nothing waits
    for a window that may come. Without it each runs at once.

    Matrix products of this process keep to one thread from now on: spread over
    the cores, products this small take twice the CPU time.
    """

    def __init__(
        self,
        path: Path | None = None,
        schedule: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        threadpool_limits(1, user_api="blas")
        self._network = Silero(path or shipped_model())
        self._schedule = schedule
        self._scheduled = False
        self._running = False
        self._waiting: list[SpeechDetector] = []
        self._network.step(*_blank())  # the first run is slow

    def flush(self) -> None:
        """Run everything that waits, one window of each call at a time."""
        self._scheduled = False
        if self._running:  # told from inside: the loop below gets there
            return
        self._running = True
        try:
            while self._waiting:
                batch = [detector for detector in self._waiting if not detector.closed]
                self._waiting.clear()
                if batch:
                    self._run(batch)
        finally:
            self._running = False

    def wait(self, detector: "SpeechDetector") -> None:
        """Run this detector's window with the next batch."""
        self._waiting.append(detector)
        if self._schedule is None:
            self.flush()
        elif not self._scheduled and not self._running:
            self._scheduled = True
            self._schedule(self.flush)

    def _run(self, batch: list["SpeechDetector"]) -> None:
        windows = np.concatenate([detector.window for detector in batch])
        states = np.concatenate([detector.state for detector in batch])
        probabilities, states = self._network.step(windows, states)
        for number, probability in enumerate(probabilities.tolist()):
            batch[number].answer(probability, states[number : number + 1])


class SpeechDetector:
    """One call's ears for whether somebody speaks.

    `tell` gets the events, in order, from `push` or from the model's `flush`;
    what it raises is logged and goes no further. `settings` may be replaced at
    any moment.
    """

    def __init__(
        self,
        model: VadModel,
        tell: Callable[[SpeechEvent], None],
        settings: VadSettings | None = None,
    ) -> None:
        self._model = model
        self._tell = tell
        self._detection = Detection(settings or VadSettings())
        self.window, self.state = _blank()
        """What the model sees next, shape (1, CONTEXT + WINDOW), and remembers."""
        self._samples = self.window[0]
        self._filled = CONTEXT
        self._measured = CONTEXT
        self._power = 0.0
        self._waits = False
        self._later: deque[Pcm] = deque()
        self.closed = False
        """Whether `close` was called."""
        self.level = SILENT_DB
        """RMS of the last window, in dBFS."""

    @property
    def settings(self) -> VadSettings:
        """What counts as speech."""
        return self._detection.gate.settings

    @settings.setter
    def settings(self, settings: VadSettings) -> None:
        self._detection.gate.settings = settings

    @property
    def probability(self) -> float:
        """Of speech in the last window, 0 to 1."""
        return self._detection.probability

    @property
    def speaking(self) -> bool:
        """Whether somebody speaks, as was told last."""
        return self._detection.phase is Phase.SPEAKING

    @property
    def noise(self) -> float:
        """Level that the noise stays below, in dBFS."""
        return self._detection.edges.noise

    def push(self, pcm: Pcm) -> None:
        """Add samples at 16 kHz, of any length; they must not change afterwards.

        Samples that come while a full window waits for the model are looked at
        after it, so that the events do not depend on how the samples were cut.
        """
        if self.closed:
            return
        if self._waits:
            self._later.append(pcm)
        else:
            self._take(pcm)

    def close(self) -> None:
        """Forget what waits; `tell` is never called again."""
        self.closed = True
        self._later.clear()

    def answer(self, probability: float, state: NDArray[np.float32]) -> None:
        """Take what the model said of `window`, and go on."""
        self.state = state
        self.level = decibels(self._power / WINDOW)
        self._samples[:CONTEXT] = self._samples[WINDOW:]
        self._filled = self._measured = CONTEXT
        self._power = 0.0
        self._waits = False
        event = self._detection.window(probability, self.level)
        if self._detection.idle:
            self.state = np.zeros_like(state)
        if event is not None:
            self._say(event)
        while self._later and not self._waits:
            self._take(self._later.popleft())

    def _take(self, pcm: Pcm) -> None:
        """Fill windows; what is left while one waits for the model comes first later."""
        taken = 0
        length = len(pcm)
        while taken < length and not self.closed:
            if self._waits:
                self._later.appendleft(pcm[taken:])
                return
            filled = self._filled
            count = min(length - taken, CONTEXT + WINDOW - filled)
            self._samples[filled : filled + count] = pcm[taken : taken + count]
            self._filled = filled + count
            taken += count
            while self._filled - self._measured >= BLOCK:
                self._measure()
            if self._filled == CONTEXT + WINDOW and not self.closed:
                self._waits = True
                self._model.wait(self)

    def _measure(self) -> None:
        """Look at the energy of the next block."""
        block = self._samples[self._measured : self._measured + BLOCK]
        self._measured += BLOCK
        power = float(block.dot(block))
        self._power += power
        event = self._detection.block(decibels(power / BLOCK))
        if event is not None:
            self._say(event)

    def _say(self, event: SpeechEvent) -> None:
        if self.closed:
            return
        try:
            self._tell(event)
        except Exception:
            log.exception("a call failed over %s; the others go on", event)


def _blank() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a silent window and the state before it."""
    return (
        np.zeros((1, CONTEXT + WINDOW), np.float32),
        np.zeros((1, 2 * UNITS), np.float32),
    )

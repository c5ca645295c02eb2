"""Whether somebody speaks: Silero's model, the rules on top of it, and where speech really ended.

The model looks at windows of 32 ms and says "silence" 60 to 100 ms after the
last sound. The rules here turn its probabilities into starts and stops at
once; a stop is a hint, and whoever has the floor decides what follows from it.
The samples' own energy then tells where in the last windows the sound began or
ended, so that waiting times can be counted from the last sound instead of from
the model's word.
"""

import importlib.util
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from asr.engine import RATE, Pcm

WINDOW = 512
"""Samples the model looks at in one step (32 ms)."""

CONTEXT = 64
"""Samples before each window that the model wants to see again."""

BLOCK = 128
"""Samples over which energy is measured (8 ms, four blocks a window)."""

SILENT_DB = -90.0
"""Level that digital silence counts as, in dBFS: the step of 16 bit samples."""


@dataclass(slots=True)
class SpeechStarted:
    """Somebody began to speak.

    Attributes:
        at: First sample of the speech, a little early, counted from the call's first.
    """

    at: int


@dataclass(slots=True)
class SpeechStopped:
    """Perhaps somebody finished speaking; one silent window is enough to say so.

    Attributes:
        at: Last sample of the speech, counted from the call's first.
    """

    at: int


SpeechEvent = SpeechStarted | SpeechStopped


@dataclass(frozen=True, slots=True, kw_only=True)
class VadSettings:
    """What counts as speech.

    Attributes:
        threshold: Probability from which a window is speech.
        release: Probability below which speech has stopped.
        windows: Windows of speech in a row that make a start.
        hangover: Time after a stop in which one window is enough to go on, in seconds.
    """

    threshold: float = 0.5
    release: float = 0.35
    windows: int = 2
    hangover: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.release <= self.threshold < 1:
            raise ValueError(
                f"threshold is {self.threshold} and release {self.release}; "
                "expected 0 < release <= threshold < 1"
            )
        if self.windows < 1:
            raise ValueError(f"windows is {self.windows}; expected at least 1")


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


class Edges:
    """Where speech begins and ends, from the energy of 8 ms blocks. Pure.

    A block is loud when it stands out from the noise floor and is not far
    below the loudest recent speech. The floor is the level of the quieter
    blocks of the last seconds: a caller breathes, noise does not. What is
    hidden in the noise stays hidden: the end of a word that fades into it is
    found where it went under.
    """

    HISTORY = 375
    """Blocks remembered (3 s)."""

    REACH = 50
    """Blocks before the model's own edge in which the true one lies (400 ms)."""

    LAG = 9
    """Blocks between the last sound and the end of the first silent window where
    energy does not tell (72 ms, the median of clean speech)."""

    ABOVE_FLOOR_DB = 2.0
    """How far speech stands out from noise: three blocks of steady noise vary by 0.3 dB."""

    BELOW_SPEECH_DB = 30.0
    """How far below the loudest block a sound still counts as speech."""

    PAD = 4
    """Blocks by which a start is early (32 ms): the onset of a soft consonant."""

    def __init__(self) -> None:
        self._levels: deque[float] = deque(maxlen=self.HISTORY)
        self._blocks = 0

    def push(self, levels: list[float]) -> None:
        """Add the levels of successive blocks, in dBFS."""
        self._levels.extend(levels)
        self._blocks += len(levels)

    def began(self, block: int) -> int:
        """Return the block with which speech began that the model first saw at `block`."""
        levels, first = self._recent(self._blocks - block + self.REACH)
        loud = levels > self._threshold(levels)
        here = max(block - first, 0)
        while here > 0 and loud[here - 1 : here + 1].any():  # one quiet block is no border
            here -= 1
        return max(first + here - self.PAD, 0)

    def ended(self) -> int:
        """Return the block after the last one with speech; ask at the first silent window."""
        levels, first = self._recent(self.REACH)
        loud = np.flatnonzero(levels > self._threshold(levels))
        if len(loud) == 0 or loud[-1] == len(levels) - 1:  # nothing or everything stands out
            return max(self._blocks - self.LAG, 0)
        return first + int(loud[-1]) + 1

    def _recent(self, count: int) -> tuple[NDArray[np.float64], int]:
        """Return the last levels, smoothed, at most `count`, and the number of the first."""
        levels = np.array(self._levels)
        smooth = np.convolve(np.pad(levels, 1, mode="edge"), np.full(3, 1 / 3), "valid")[-count:]
        return smooth, self._blocks - len(smooth)

    def _threshold(self, recent: NDArray[np.float64]) -> float:
        """Return the level from which a block of `recent` is loud, in dBFS."""
        floor = float(np.percentile(np.array(self._levels), 20))
        return max(floor + self.ABOVE_FLOOR_DB, float(recent.max()) - self.BELOW_SPEECH_DB)


class VadModel:
    """Silero VAD v6, loaded once for all calls of a process.

    It needs no lock: a detector runs it inline, 55 to 90 us a window, on the
    thread that pushes.
    """

    def __init__(self, path: Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path or shipped_model()), options, providers=["CPUExecutionProvider"]
        )
        SpeechDetector(self).push(np.zeros(WINDOW, np.float32))  # the first run is slow

    def step(self, window: Pcm, h: Pcm, c: Pcm) -> tuple[float, Pcm, Pcm]:
        """Return the probability of speech in one window and the next state.

        `window` is (1, CONTEXT + WINDOW), `h` and `c` are (1, 1, 128), zeros at first.
        """
        probability, h, c = self._session.run(None, {"input": window, "h": h, "c": c})
        return float(probability[0]), h, c


class SpeechDetector:
    """One call's ears for whether somebody speaks.

    `settings` may be replaced at any moment.
    """

    def __init__(self, model: VadModel, settings: VadSettings | None = None) -> None:
        self._model = model
        self._gate = Gate(settings or VadSettings())
        self._edges = Edges()
        self._window = np.zeros((1, CONTEXT + WINDOW), np.float32)
        self._filled = CONTEXT
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self.probability = 0.0
        """Of speech in the last window, 0 to 1."""
        self.level = SILENT_DB
        """RMS of the last window, in dBFS."""

    @property
    def settings(self) -> VadSettings:
        """What counts as speech."""
        return self._gate.settings

    @settings.setter
    def settings(self, settings: VadSettings) -> None:
        self._gate.settings = settings

    @property
    def speaking(self) -> bool:
        """Whether somebody speaks, as of the last whole window."""
        return self._gate.speaking

    def push(self, pcm: Pcm) -> list[SpeechEvent]:
        """Add samples at 16 kHz, of any length; return what they told, in order.

        Takes 55 to 90 us of this thread for every 512 samples.
        """
        events: list[SpeechEvent] = []
        taken = 0
        while taken < len(pcm):
            count = min(len(pcm) - taken, CONTEXT + WINDOW - self._filled)
            self._window[0, self._filled : self._filled + count] = pcm[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == CONTEXT + WINDOW:
                events += self._look()
                self._window[0, :CONTEXT] = self._window[0, WINDOW:]
                self._filled = CONTEXT
        return events

    def _look(self) -> list[SpeechEvent]:
        """Run the model over the full window and the rules over its answer."""
        blocks = self._window[0, CONTEXT:].reshape(-1, BLOCK)
        powers = np.einsum("bs,bs->b", blocks, blocks) / BLOCK
        self._edges.push([decibels(power) for power in powers])
        self.level = decibels(powers.mean())
        self.probability, self._h, self._c = self._model.step(self._window, self._h, self._c)
        changed = self._gate.step(self.probability)
        if changed is None:
            return []
        if self._gate.speaking:
            return [SpeechStarted(self._edges.began(changed * WINDOW // BLOCK) * BLOCK)]
        return [SpeechStopped(self._edges.ended() * BLOCK)]


def decibels(power: float) -> float:
    """Return a mean square as dBFS, at least `SILENT_DB`."""
    return max(10 * math.log10(power), SILENT_DB) if power > 0 else SILENT_DB


def shipped_model() -> Path:
    """Find the Silero v6 file that faster-whisper carries, without importing it.

    Raises:
        FileNotFoundError: If it is not there; the message names the remedy.
    """
    package = importlib.util.find_spec("faster_whisper")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder) / "assets" / "silero_vad_v6.onnx"
        if path.is_file():
            return path
    raise FileNotFoundError(
        "silero_vad_v6.onnx is not installed: pip install 'faster-whisper>=1.2'"
    )

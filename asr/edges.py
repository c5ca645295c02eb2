"""How loud a call is, how loud its noise is, and where in the samples speech began and ended.

The energy of 8 ms blocks knows sooner than a model of 32 ms windows, and knows
where; it does not know what is speech. So it is asked where, and the model
whether.
"""

import math

import numpy as np
from numpy.typing import NDArray

BLOCK = 128
"""Samples over which energy is measured (8 ms, four blocks a window)."""

SILENT_DB = -90.0
"""Level that digital silence counts as, in dBFS: the step of 16 bit samples."""

SILENT_POWER = 10 ** (SILENT_DB / 10)
"""The same as a mean square."""


class Edges:
    """Where speech begins and ends, from the energy of 8 ms blocks. Pure.

    A block is loud when it stands out from the noise and is not far below the
    loudest recent speech. The noise is what is there while nobody speaks: its
    floor is the level of the quieter blocks of the last seconds, and a steady
    hiss hardly rises above it, other people's voices do. What is hidden in the
    noise stays hidden: the end of a word that fades into it is found where it
    went under.
    """

    HISTORY = 375
    """Blocks of noise remembered (3 s)."""

    FEW = 12
    """Blocks of noise (96 ms) under which `QUIET_DB` is assumed."""

    ENOUGH = 125
    """Blocks of noise (1 s) after which it is known."""

    QUIET_DB = -60.0
    """Floor of a quiet line, in dBFS."""

    UNKNOWN_DB = -42.0
    """Highest floor of lively noise believed until it is known: it may be the caller."""

    STEADY_DB = 2.0
    """Rise from quiet to loud of what cannot be speech: a hiss has 0.9 dB."""

    REACH = 50
    """Blocks before the model's own edge in which the true one lies (400 ms)."""

    LAG = 9
    """Blocks between the last sound and the end of the first silent window where
    energy does not tell (72 ms, the median of clean speech)."""

    ABOVE_FLOOR_DB = 2.0
    """How far speech stands out from a steady noise at least: its blocks vary by 0.5 dB."""

    ABOVE_VOICES_DB = 14.0
    """How far it must stand out from the most lively noise."""

    LIVELY = 2.5
    """How far speech stands out, in units of the noise's own rise from quiet to loud."""

    BELOW_SPEECH_DB = 30.0
    """How far below the loudest block a sound still counts as speech."""

    PAD = 4
    """Blocks by which a start is early (32 ms): the onset of a soft consonant."""

    LEARN = 16
    """Blocks after which the noise is looked at again (128 ms)."""

    def __init__(self) -> None:
        self.blocks = 0
        """Blocks seen."""
        self.floor = self.QUIET_DB
        """Level of the noise, in dBFS."""
        self.noise = self.QUIET_DB + self.ABOVE_FLOOR_DB
        """Level that the noise stays below, in dBFS."""
        self._recent = np.full(2 * self.REACH, SILENT_DB)
        self._history = np.empty(self.HISTORY)
        self._learned = 0

    def push(self, level: float, quiet: bool) -> None:
        """Add the level of the next block, in dBFS; `quiet` says that nobody speaks."""
        self._recent[self.blocks % len(self._recent)] = level
        self.blocks += 1
        if not quiet:
            return
        self._history[self._learned % self.HISTORY] = level
        self._learned += 1
        if self._learned % self.LEARN == 0 or self._learned == self.FEW:
            self._learn()

    @property
    def known(self) -> bool:
        """Whether the noise was heard for long enough to be sure of it."""
        return self._learned >= self.ENOUGH

    def began(self, block: int) -> int:
        """Return the block with which speech began that was first seen at `block`."""
        levels, first = self._last(self.blocks - block + self.REACH)
        loud = levels > self._threshold(levels)
        here = max(block - first, 0)
        while here > 0 and loud[here - 1 : here + 1].any():  # one quiet block is no border
            here -= 1
        return max(first + here - self.PAD, 0)

    def ended(self) -> int:
        """Return the block after the last one with speech; ask when it is quiet."""
        levels, first = self._last(self.REACH)
        loud = np.flatnonzero(levels > self._threshold(levels))
        if len(loud) == 0 or loud[-1] == len(levels) - 1:  # nothing or everything stands out
            return max(self.blocks - self.LAG, 0)
        return first + int(loud[-1]) + 1

    def _last(self, count: int) -> tuple[NDArray[np.float64], int]:
        """Return the last levels, smoothed, at most `count`, and the number of the first."""
        kept = min(self.blocks, len(self._recent))
        levels = np.roll(self._recent, -self.blocks)[-kept:] if kept else self._recent[:0]
        smooth = np.convolve(np.pad(levels, 1, mode="edge"), np.full(3, 1 / 3), "valid")[-count:]
        return smooth, self.blocks - len(smooth)

    def _threshold(self, recent: NDArray[np.float64]) -> float:
        """Return the level from which a block of `recent` is loud, in dBFS."""
        return max(self.noise, float(recent.max()) - self.BELOW_SPEECH_DB)

    def _learn(self) -> None:
        """Look at the noise again."""
        levels = np.sort(self._history[: self._learned])
        self.floor = float(levels[len(levels) // 5])
        rise = float(levels[len(levels) * 4 // 5]) - self.floor
        if not self.known and rise > self.STEADY_DB:
            self.floor = min(self.floor, self.UNKNOWN_DB)
        above = min(max(self.LIVELY * rise, self.ABOVE_FLOOR_DB), self.ABOVE_VOICES_DB)
        self.noise = self.floor + above


QUIETEST_DB = -38.0
"""How far below its loudest sample the last audible one of some speech lies at most, in dB."""

NOISE_CREST = 4.0
"""How far the peaks of noise rise above its level: of a hiss, one sample in 16,000 does."""

HUSH = 480
"""Samples of quiet (30 ms) that follow the end of speech by the time that anybody knows of it."""


def last_sound(pcm: NDArray[np.float32], noise_db: float) -> int:
    """Return how many samples of `pcm`, which ends in quiet, end with the last audible one.

    Unlike an edge found from blocks, this is exact to the sample, as a budget wants it. Audible is
    what is not far below the loudest; where that goes on to the very end it is noise, and then
    what rises above `noise_db`, the level that the noise stays below, in dBFS. Return 0 if that
    does not tell either.
    """
    loud = np.abs(pcm)
    least = float(loud.max(initial=0.0)) * 10 ** (QUIETEST_DB / 20)
    for threshold in (least, max(least, NOISE_CREST * 10 ** (noise_db / 20))):
        found = (loud >= threshold)[::-1]  # from the end: what is sought is near it
        quiet = int(found.argmax()) if threshold > 0 and len(pcm) else 0
        if quiet >= HUSH:
            return len(pcm) - quiet
    return 0


def decibels(power: float) -> float:
    """Return a mean square as dBFS, at least `SILENT_DB`."""
    return 10 * math.log10(power) if power > SILENT_POWER else SILENT_DB

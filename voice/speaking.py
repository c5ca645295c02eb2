"""The agent's voice on one line: held back, let go, paused, resumed or cut off, word by word."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np

from asr.echo import EchoGuard
from transport.audio import Resampler
from transport.line import Line, Pcm
from transport.pacer import Pacer, Playout
from tts.engine import Chunk

AUDIBLE = 0.01
"""Magnitude from which a sample is sound (-40 dB of full scale): what is below it, a voice has
before its first word, and no caller hears."""


@dataclass(slots=True)
class Spoken:
    """What is said to the caller in one reply.

    Attributes:
        turn: The reply's number.
        starts: First sample of each word so far, at the line's rate.
        ends: The sample after the last of each.
        words: The words.
        shown: How many of them the caption shows.
        sent: Whether its first frame has left.
        audible: Whether its first audible sample has.
        samples: Those that were made, at the line's rate.
    """

    turn: int
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    shown: int = 0
    sent: bool = False
    audible: bool = False
    samples: int = 0


class Speaker:
    """Says one reply after the other. Nothing here blocks."""

    def __init__(
        self,
        pacer: Pacer,
        line: Line,
        tell: Callable[[Mapping[str, Any]], None],
        sent: Callable[[int], None],
        heard: Callable[[int, float], None],
        played: Callable[[int], None],
        echo: EchoGuard,
        waits: Callable[[], bool],
    ) -> None:
        """Tell captions to `tell`, the first frame of a turn to `sent`, its end to `played`.

        `heard` is told at which monotonic time, in seconds, the first audible sample of a turn is
        heard, once it has left. What the caller hears, and may send back, is told to `echo`.
        `waits` tells whether the reply waits for something, so that it may run dry.
        """
        self._line, self._tell, self._sent, self._played = line, tell, sent, played
        self._heard = heard
        self._echo = echo
        self._playout = Playout(pacer, self._play, line.rate, progress=self._left, excused=waits)
        self._spoken = Spoken(0)
        self._held: list[Pcm] | None = None
        self._ended = self._paused = False
        self._rate = 0
        self._resampler = Resampler(line.rate, line.rate)

    @property
    def underruns(self) -> int:
        """How often a reply ran dry before its end, though nothing was waited for."""
        return self._playout.underruns

    @property
    def turn(self) -> int:
        """The reply being said, 0 if none."""
        return self._spoken.turn

    @property
    def seconds(self) -> float:
        """How much sound of the reply there is so far."""
        return self._spoken.samples / self._line.rate

    @property
    def held(self) -> bool:
        """Whether its sound is kept back."""
        return self._held is not None

    @property
    def began(self) -> bool:
        """Whether there is sound of the reply, heard or held."""
        return bool(self._spoken.words)

    def until(self) -> float:
        """Return the monotonic time, in seconds, at which all so far will have been heard."""
        return self._playout.until(monotonic())

    def begin(self, turn: int, rate: int, *, held: bool = False) -> None:
        """Get ready for reply `turn` at `rate` hertz; `held` keeps its sound back."""
        self._spoken = Spoken(turn)
        self._held = [] if held else None
        self._ended = self._paused = False
        self._rate = rate
        self._resampler = Resampler(rate, self._line.rate)

    def take(self, chunk: Chunk) -> None:
        """Say a chunk; its first frames leave before this returns, unless held."""
        for word in chunk.words:
            self._spoken.starts.append(word.start * self._line.rate // self._rate)
            self._spoken.ends.append(word.end * self._line.rate // self._rate)
            self._spoken.words.append(word.text)
        self._write(self._resampler.push(chunk.pcm))

    def end(self) -> None:
        """Note that the reply is complete; `played` is told once it was heard."""
        self._write(self._resampler.flush())
        self._ended = True
        if self._held is None:
            self._finish()

    def release(self) -> None:
        """Let go what was held; its first frames leave before this returns."""
        held, self._held = self._held or [], None
        for pcm in held:
            self._playout.write(pcm)
        if self._ended:
            self._finish()

    def pause(self) -> None:
        """Be silent at once."""
        self._playout.pause()
        self._paused = True
        self._clear_line(self._spoken.turn)

    def resume(self) -> None:
        """Go on from the word at which it was paused."""
        heard = self._playout.heard(monotonic())
        word = bisect_right(self._spoken.ends, heard)
        starts = self._spoken.starts
        self._paused = False
        self._playout.resume(min(starts[word], heard) if word < len(starts) else heard)

    def stop(self, turn: int) -> int | None:
        """Cut reply `turn` off; return how many words were heard, None if it is not being said."""
        if self._spoken.turn != turn:
            return None  # it was heard to its end
        spoken, self._spoken = self._spoken, Spoken(0)
        held, self._held = self._held, None
        heard = bisect_right(spoken.ends, self._playout.clear())
        if spoken.words and held is None:
            if not self._paused:
                self._clear_line(turn)
            self._caption(spoken, heard, final=True, interrupted=True)
        return heard

    def _play(self, frame: Pcm) -> None:
        self._line.play(frame)
        if not self._spoken.audible:
            self._begin_to_sound(frame)
        self._echo.played(frame, self._line.rate, self._playout.begins())

    def _begin_to_sound(self, frame: Pcm) -> None:
        """Tell of the first frame of a reply, and of the first that can be heard."""
        spoken = self._spoken
        if not spoken.sent:
            spoken.sent = True
            self._sent(spoken.turn)
        loud = np.flatnonzero(np.abs(frame) >= AUDIBLE)
        if len(loud):
            spoken.audible = True
            at = self._playout.begins() + int(loud[0]) / self._line.rate
            self._heard(spoken.turn, max(at, monotonic()))

    def _write(self, pcm: Pcm) -> None:
        self._spoken.samples += len(pcm)
        if self._held is None:
            self._playout.write(pcm)
        else:
            self._held.append(pcm)

    def _clear_line(self, turn: int) -> None:
        """Drop what has left this process, or is about to."""
        self._line.clear()
        self._tell({"type": "clear", "turn": turn})

    def _finish(self) -> None:
        spoken = self._spoken
        self._playout.finish(lambda: self._heard_out(spoken))

    def _left(self, position: int) -> None:
        """Note that samples up to `position` of the reply have left."""
        spoken = self._spoken
        shown = bisect_right(spoken.starts, position)
        if shown > spoken.shown:
            spoken.shown = shown
            self._caption(spoken, shown, final=False)

    def _heard_out(self, spoken: Spoken) -> None:
        """Note that the caller has heard the whole reply."""
        self._spoken = Spoken(0)
        if spoken.words:
            self._caption(spoken, len(spoken.words), final=True)
        self._played(spoken.turn)

    def _caption(self, spoken: Spoken, words: int, *, final: bool, **more: bool) -> None:
        caption = {
            "type": "captions",
            "turn": spoken.turn,
            "role": "agent",
            "text": " ".join(spoken.words[:words]),
            "final": final,
        }
        self._tell(caption | more)

"""What a caller over WebRTC makes of the packets it hears: gaps, and bad turns. Pure."""

from dataclasses import dataclass, field

from transport.line import FRAME

JITTER_BUFFER = 0.06
"""Seconds that a caller's loudspeaker holds back, as the comparison with other servers has it."""

SAME_REPLY = 0.3
"""Seconds after running dry within which audio belongs to the same reply."""

WHOLE = 0.9
"""Share of a reply that has to come."""


@dataclass(slots=True)
class Score:
    """What one caller hears, turn by turn; moments are seconds of any one clock.

    Attributes:
        reply: Seconds that every reply lasts, 0 where nobody knows.
        gaps: From the last packet with speech to the first audible one, of each good turn.
        bad: Turns that were not, by reason.
        turns: Turns scored.
    """

    reply: float
    gaps: list[float] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)
    turns: int = 0
    _speaking: bool = True
    _silent_at: float | None = None
    _first: float | None = None
    _packets: int = 0
    _dry: float = 0.0
    _spoiled: str = ""

    @property
    def wants_sound(self) -> bool:
        """Whether it matters if the next packet is audible; after the first it does not."""
        return self._speaking or self._first is None

    def speak(self, now: float) -> None:
        """The caller begins to speak: the turn before is over."""
        if self._silent_at is not None:
            self._close(self._silent_at)
        self._speaking, self._silent_at, self._first = True, None, None
        self._packets, self._spoiled = 0, ""

    def fall_silent(self, now: float) -> None:
        """The last packet with speech has left."""
        self._speaking, self._silent_at = False, now

    def hear(self, now: float, audible: bool) -> None:
        """A packet came."""
        if self._speaking:
            if audible:
                self._spoiled = "talked_over"
            return
        if self._first is None:
            if not audible:
                return
            self._first, self._dry = now, now + JITTER_BUFFER
        elif now > self._dry:
            goes_on = not self.reply or self._packets < self.reply / FRAME - 1
            if now - self._dry < SAME_REPLY and goes_on:
                self._spoiled = self._spoiled or "underrun"
            self._dry = now + JITTER_BUFFER
        self._packets += 1
        self._dry += FRAME

    def _close(self, silent_at: float) -> None:
        self.turns += 1
        if self._first is None:
            self._spoiled = self._spoiled or "no_reply"
        elif self._packets * FRAME < WHOLE * self.reply:
            self._spoiled = self._spoiled or "short"
        else:
            self.gaps.append(self._first - silent_at)
        if self._spoiled:
            self.bad[self._spoiled] = self.bad.get(self._spoiled, 0) + 1

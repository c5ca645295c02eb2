"""What a caller of a benchmark says and when, and what it hears of the answer. Pure.

The caller's truth lies here: a turn's gap runs from the last speech sample, on the clock of a
microphone that has never been late, to the first audible sample, when a listener without any
buffer can hear it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transport.line import FRAME

BUFFER = 0.06
"""Seconds that the listener holds a reply's first audio before it plays it."""

AUDIBLE = 328
"""Magnitude, of 32768, from which a sample is sound and not silence: -40 dB of full scale, where
the utterances of `voice.bench_calls.spoken` end, too."""

GIVE_UP = 6.0
"""Seconds without an answer after which a caller speaks again."""


AWAY = 0.1
"""Seconds after the answer has come in which a frame that is sent late tells that the answer was
read late, too."""

STOPPED = 1.0
"""Seconds of an interruption after which an agent that speaks does not do so by inertia."""


@dataclass(frozen=True, slots=True)
class Speech:
    """An utterance as frames to be sent.

    Attributes:
        frames: Encoded for the wire, 20 ms each.
        after: Seconds in them after the last speech sample.
    """

    frames: Sequence[bytes]
    after: float = 0.0

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.frames) * FRAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every caller of a run does.

    Attributes:
        speech: Utterances, taken in turn.
        silence: Frames between them, over and over.
        turns: Turns of each caller; it goes on speaking until it is hung up.
        period: Seconds from one utterance to the next; 0 begins it `pause` after the reply.
        interrupt: Every how many turns the caller speaks `barge_after` into the reply; 0 never.
        barge_after: Seconds of the reply that are heard before an interruption.
        pause: Seconds between a reply's end and the next utterance.
        patient: Whether an utterance that `period` makes due waits for `pause` after the reply's
            end, too: where nobody knows beforehand how long replies are.
    """

    speech: Sequence[Speech]
    silence: Sequence[bytes]
    turns: int
    period: float = 5.22
    interrupt: int = 0
    barge_after: float = 1.0
    pause: float = 0.7
    patient: bool = False


@dataclass(slots=True)
class Reply:
    """The agent's sound after one turn, as a listener with a fixed buffer plays it.

    Attributes:
        first: When its first message came.
        last: When its last did.
        play_end: When all that came will have been played.
        seconds: How much came.
        underruns: How often the listener ran dry within it.
        audible: When a listener without a buffer hears its first audible sample.
    """

    first: float
    last: float = 0.0
    play_end: float = 0.0
    seconds: float = 0.0
    underruns: int = 0
    audible: float = 0.0

    def add(self, seconds: float, now: float) -> None:
        """Take one message of sound that came at `now`."""
        if not self.seconds:
            self.play_end = now + BUFFER
        elif now > self.play_end:
            self.underruns += 1
            self.play_end = now
        self.play_end += seconds
        self.seconds += seconds
        self.last = now


@dataclass(slots=True)
class Turn:
    """What happened in one turn; monotonic times in seconds.

    Attributes:
        number: Which turn of its caller.
        started: When the first frame of the utterance was sent.
        ended: When the last one was.
        interrupting: Whether it began in the middle of a reply.
        reply: The sound that answered it.
        early: When sound of the agent came last while the caller spoke.
        silent: When the last speech sample was spoken, by the microphone's clock.
        said: Which of the plan's utterances it was.
        late: The longest that one of its frames was sent after it was due, in seconds.
    """

    number: int
    started: float
    ended: float | None = None
    interrupting: bool = False
    reply: Reply | None = None
    early: float | None = None
    silent: float | None = None
    said: int = 0
    late: float = 0.0

    @property
    def gap(self) -> float | None:
        """Voice-to-voice in seconds, None if it was not answered, or before its end."""
        if self.silent is None or self.reply is None or self.talked_over:
            return None
        return self.reply.audible - self.silent

    @property
    def talked_over(self) -> bool:
        """Whether the agent spoke during the utterance, other than to be interrupted by it."""
        if self.early is None:
            return False
        return not self.interrupting or self.early > self.started + STOPPED


class Talker:
    """One caller's mouth and ears."""

    def __init__(self, plan: Plan, first: int = 0) -> None:
        """Say the utterances of `plan`, that of place `first` first."""
        self.turns: list[Turn] = []
        self.done = False
        """Whether all turns of the plan are over."""
        self.sent = 0
        """Frames that were asked for."""
        self.plan = plan
        """What to do; may be replaced at any time."""
        self._first = first
        self._speech = Speech(())
        self._base = 0
        self._silent = 0
        self._playing_until = 0.0

    def next(self, now: float, due: float) -> bytes:
        """Return the frame that was due at `due`, beginning a turn when its time has come."""
        plan = self.plan
        if self._time_to_speak(now):
            number = len(self.turns)
            interrupting = bool(self.turns) and self._interrupts(number)
            self._base = self.sent
            said = (number + self._first) % len(plan.speech)
            self._speech = plan.speech[said]
            self.turns.append(Turn(number, now, interrupting=interrupting, said=said))
            self.done = len(self.turns) > plan.turns
        turn = self.turns[-1]
        if turn.reply is None or now - turn.reply.first < AWAY:
            turn.late = max(turn.late, now - due)
        speech = self._speech
        position = self.sent - self._base
        self.sent += 1
        if position < len(speech.frames):
            if position == len(speech.frames) - 1:
                turn.ended, turn.silent = now, due - speech.after
            return speech.frames[position]
        self._silent += 1
        return plan.silence[self._silent % len(plan.silence)]

    @property
    def listens_closely(self) -> bool:
        """Whether it matters where in the next message sound begins, and not only if there is."""
        turn = self.turns[-1] if self.turns else None
        return turn is not None and turn.ended is not None and turn.reply is None

    def hear(self, seconds: float, loud: float | None, now: float) -> None:
        """Take a message that came at `now`, audible from `loud` seconds in, None for silence."""
        begins = max(now, self._playing_until)
        self._playing_until = begins + seconds
        if not self.turns:
            return
        turn = self.turns[-1]
        if loud is None:
            if turn.ended is not None and turn.reply is not None:
                turn.reply.add(seconds, now)  # a voice has pauses: they are played like the rest
            return
        if turn.ended is not None:
            if turn.reply is None:
                turn.reply = Reply(now, audible=begins + loud)
            turn.reply.add(seconds, now)
            return
        turn.early = now
        if len(self.turns) > 1 and (reply := self.turns[-2].reply) is not None:
            reply.add(seconds, now)

    def _interrupts(self, number: int) -> bool:
        return bool(self.plan.interrupt) and number % self.plan.interrupt == 0

    def _time_to_speak(self, now: float) -> bool:
        if not self.turns:
            return True
        plan, turn = self.plan, self.turns[-1]
        if plan.period and not plan.interrupt:
            if self.sent - self._base < round(plan.period / FRAME):
                return False
            return not (plan.patient and turn.reply and now <= turn.reply.play_end + plan.pause)
        if turn.ended is None:
            return False
        if turn.reply is None:
            return now - turn.ended > GIVE_UP
        if self._interrupts(turn.number + 1):
            return now - turn.reply.first >= plan.barge_after
        return now > turn.reply.play_end + plan.pause

"""Whose turn it is to speak.

No I/O, no clock, no tasks: events and times go in, actions come out. Every
rule about turns lives here, so that every rule about turns is tested here.

The answer is made while it is still open whether the caller is done: at the
first sign of silence `Speculate` has it made and held back, the decision lets
it go (`StartReply`), a caller who goes on has it dropped (`DropSpeculation`).
A sound during a reply pauses it; what the sound was is judged elsewhere
(`voice.interruption`), and the reply goes on from the paused word or is cancelled.

Two things hold after every event, whatever the order: the call is over, or
there is a deadline by which something happens (never stuck); and a result that
comes after its reply was cancelled changes nothing.
"""

import math
from dataclasses import dataclass
from enum import Enum, auto

from voice.settings import TurnSettings

JUDGE_EVERY = 0.04
"""Seconds after which an undecided interruption is looked at again: two frames."""

GOES_ON = 0.1
"""Seconds of speech after which a held answer is dropped. A sound that is shorter may add no
word (a breath, the release of a last consonant); the answer is then looked at again."""

YOUNG = 0.06
"""Seconds of work up to which a held answer is not worth keeping for that: the gap was inside a
word, and the recogniser has hardly begun."""

FREE = 3
"""Answers of one turn that are begun at the first sign of silence."""

BACK_OFF = 0.04
"""Seconds by which each further one waits longer for silence: this caller's words have gaps."""

LONGEST_BACK_OFF = 0.12
"""Seconds to which that grows: longer than the gaps inside words."""

CALM = 0.4
"""Seconds of silence, at least, before the agent speaks again to somebody who has just
interrupted it with a few words: "no," and "wait, stop," are followed by more."""

FEW_WORDS = 1.0
"""Seconds of speech that are a few words."""


class Floor(Enum):
    """Who has the floor."""

    NOBODY = auto()
    """Silence on both sides; the caller may begin."""
    USER = auto()
    """The caller speaks."""
    PENDING = auto()
    """The caller fell silent; it is not decided yet whether they are done."""
    THINKING = auto()
    """The caller is done; nothing of the answer can be heard yet."""
    AGENT = auto()
    """The agent speaks."""
    CONTESTED = auto()
    """The agent's voice is paused by a sound of the caller; it is not decided yet what it was."""
    OVER = auto()
    """The call has ended."""


class Cause(Enum):
    """Why the agent speaks."""

    GREETING = auto()
    SPOKEN = auto()
    """The caller said something."""
    TYPED = auto()
    """The caller typed something."""
    SILENCE = auto()
    """The caller has been silent for long."""
    GOODBYE = auto()
    """The caller stayed silent; the call ends after these words."""
    FAILURE = auto()
    """The reply before this one failed."""


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The wire is open."""


@dataclass(frozen=True, slots=True)
class SoundHeard:
    """The caller made a sound that may be speech."""


@dataclass(frozen=True, slots=True)
class SoundPassed:
    """It was none."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The caller began to make speech-like sound, or went on after `SpeechStopped`.

    Attributes:
        echo: Whether it seems to be the agent's own voice. It then pauses nothing, but it is
            judged as long as it lasts.
    """

    echo: bool = False


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The caller fell silent.

    Attributes:
        at: When their last speech sample arrived.
        wait: Seconds from then on after which the turn is over; None for the longest.
    """

    at: float
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class WaitRevised:
    """More is known of the words of a caller who has fallen silent; `wait` as above."""

    wait: float


@dataclass(frozen=True, slots=True)
class Ruled:
    """What a sound during a reply was: an interruption, or nothing the reply should end for."""

    interruption: bool


@dataclass(frozen=True, slots=True)
class Typed:
    """The caller typed a message."""


@dataclass(frozen=True, slots=True)
class ReplyProgressed:
    """Audio of a reply was made; all made so far will have been heard at `until`."""

    turn: int
    until: float


@dataclass(frozen=True, slots=True)
class ReplyPlayed:
    """The caller has heard the whole reply (or it had nothing to say).

    `end` is why the call ends now, "" if it goes on.
    """

    turn: int
    end: str = ""


@dataclass(frozen=True, slots=True)
class ReplyFailed:
    """A reply could not be made, or not to its end."""

    turn: int


@dataclass(frozen=True, slots=True)
class CallerLeft:
    """The caller hung up or the wire broke."""

    reason: str


Event = (
    CallStarted
    | SoundHeard
    | SoundPassed
    | SpeechStarted
    | SpeechStopped
    | WaitRevised
    | Ruled
    | Typed
    | ReplyProgressed
    | ReplyPlayed
    | ReplyFailed
    | CallerLeft
)


@dataclass(frozen=True, slots=True)
class Speculate:
    """Make the answer `turn` from the words so far, and hold it back.

    Where one is held already: keep it if the words are still the same, else make it anew.
    """

    turn: int


@dataclass(frozen=True, slots=True)
class DropSpeculation:
    """Forget the held answer `turn` and stop all work on it."""

    turn: int


@dataclass(frozen=True, slots=True)
class StartReply:
    """Answer, or let go what is held of this answer.

    Attributes:
        turn: This reply's number.
        cause: Why.
        waited_from: When the caller's last speech sample arrived, if that was waited for.
    """

    turn: int
    cause: Cause
    waited_from: float | None = None


@dataclass(frozen=True, slots=True)
class PauseReply:
    """Be silent at once; it may go on."""

    turn: int


@dataclass(frozen=True, slots=True)
class JudgeSound:
    """Say, with `Ruled`, what the sound is that paused the reply, as soon as that is clear."""

    turn: int


@dataclass(frozen=True, slots=True)
class ResumeReply:
    """Go on from the word at which the reply was paused."""

    turn: int


@dataclass(frozen=True, slots=True)
class CancelReply:
    """Stop the reply: its sound, its synthesis and its model.

    Attributes:
        turn: Its number.
        stalled: Whether that is because it made no progress.
    """

    turn: int
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class EndCall:
    """Hang up."""

    reason: str


Action = (
    Speculate
    | DropSpeculation
    | StartReply
    | PauseReply
    | JudgeSound
    | ResumeReply
    | CancelReply
    | EndCall
)

NEXT: dict[tuple[Floor, type[Event]], Floor] = {
    (Floor.NOBODY, CallStarted): Floor.THINKING,
    (Floor.NOBODY, SpeechStarted): Floor.USER,
    (Floor.USER, SpeechStopped): Floor.PENDING,
    (Floor.PENDING, SpeechStopped): Floor.PENDING,
    (Floor.PENDING, SpeechStarted): Floor.USER,
    (Floor.PENDING, WaitRevised): Floor.PENDING,
    (Floor.THINKING, SpeechStarted): Floor.USER,
    (Floor.AGENT, SoundHeard): Floor.CONTESTED,
    (Floor.AGENT, SpeechStarted): Floor.CONTESTED,
    (Floor.AGENT, Ruled): Floor.CONTESTED,
    (Floor.CONTESTED, SoundPassed): Floor.AGENT,
    (Floor.CONTESTED, SpeechStarted): Floor.CONTESTED,
    (Floor.CONTESTED, SpeechStopped): Floor.CONTESTED,
    (Floor.CONTESTED, WaitRevised): Floor.CONTESTED,
    (Floor.CONTESTED, Ruled): Floor.CONTESTED,
    (Floor.NOBODY, Typed): Floor.THINKING,
    (Floor.USER, Typed): Floor.THINKING,
    (Floor.PENDING, Typed): Floor.THINKING,
    (Floor.THINKING, Typed): Floor.THINKING,
    (Floor.AGENT, Typed): Floor.THINKING,
    (Floor.CONTESTED, Typed): Floor.THINKING,
    (Floor.THINKING, ReplyProgressed): Floor.AGENT,
    (Floor.AGENT, ReplyProgressed): Floor.AGENT,
    (Floor.CONTESTED, ReplyProgressed): Floor.CONTESTED,
    (Floor.THINKING, ReplyPlayed): Floor.NOBODY,
    (Floor.AGENT, ReplyPlayed): Floor.NOBODY,
    (Floor.CONTESTED, ReplyPlayed): Floor.NOBODY,
    (Floor.THINKING, ReplyFailed): Floor.THINKING,
    (Floor.AGENT, ReplyFailed): Floor.THINKING,
    (Floor.CONTESTED, ReplyFailed): Floor.THINKING,
}
"""What each event does to the floor; any other event changes nothing.

`CallerLeft` ends the call from everywhere. CONTESTED is left by a ruling: back to AGENT, or to
USER or PENDING where it was an interruption. Time moves PENDING to THINKING, and every other
floor on when its watchdog runs out.
"""

REPLYING = (Floor.THINKING, Floor.AGENT, Floor.CONTESTED)


class Turn:
    """The turn-taking of one conversation."""

    def __init__(self, settings: TurnSettings) -> None:
        self.settings = settings
        self.floor = Floor.NOBODY
        self.number = 0
        """Number of the latest reply; what the caller says now belongs to the next."""
        self._cause = Cause.GREETING
        self._silences = 0
        self._speaking = False
        """Whether the caller makes speech-like sound now, whoever has the floor."""
        self._stopped_at = 0.0
        """When their last speech sample arrived."""
        self._wait = 0.0
        self._leave_at: float | None = None
        """When the floor is left at the latest; PENDING is then over. None when the call is."""
        self._speech_limit = 0.0
        self._interrupted_at = -math.inf
        """When the sound began that was the latest interruption."""
        self._contested_at = 0.0
        self._until = 0.0
        """When all that was made of the reply will have been heard."""
        self._judge_at = 0.0
        self._attempts = 0
        """Times an answer to this turn was begun before its end."""
        self._held = False
        """Whether an answer is held back."""
        self._looked = False
        """Whether `Speculate` was said since the caller fell silent."""
        self._speculated_at = 0.0
        self._drop_at = 0.0
        """When a held answer is dropped, while the caller speaks."""
        self._actions: list[Action] = []

    @property
    def deadline(self) -> float | None:
        """When to call `tick`, in seconds of the caller's clock; None when over."""
        if self._leave_at is None:
            return None
        match self.floor:
            case Floor.PENDING if self._may_speculate:
                return min(self._leave_at, self._speculate_at)
            case Floor.USER if self._held:
                return min(self._leave_at, self._drop_at)
            case Floor.CONTESTED:
                return min(self._leave_at, self._judge_at)
            case Floor.AGENT if self._speaking:
                return min(self._leave_at, self._judge_at)
        return self._leave_at

    def decides_at(self, now: float) -> float:
        """Return when it will be decided that the caller is done, as far as can be told at `now`.

        Of one who speaks, that is the earliest possible; where nobody waits for it, `now`.
        """
        match self.floor:
            case Floor.PENDING if self._leave_at is not None:
                return max(now, self._leave_at)
            case Floor.USER:
                return now + self.settings.shortest_wait
        return now

    def receive(self, event: Event, now: float) -> None:
        """Take one event; call `actions` next."""
        if self.floor is Floor.OVER:
            return
        match event:
            case CallerLeft(reason):
                self._end(reason)
                return
            case ReplyProgressed(turn) | ReplyPlayed(turn) | ReplyFailed(turn):
                if not self.replying(turn):
                    return  # it was cancelled while this was on the way
            case SpeechStarted():
                self._speaking, self._silences = True, 0
            case SpeechStopped(at, wait):
                self._speaking, self._stopped_at = False, at
                self._wait = self.settings.longest_wait if wait is None else wait
        before, after = self.floor, NEXT.get((self.floor, type(event)))
        if after is None:
            return
        self.floor = after
        match event:
            case CallStarted():
                self._reply(Cause.GREETING, now)
            case SoundHeard():
                self._contest(now)
            case SoundPassed():
                self._rule(False, before, now)
            case SpeechStarted(echo):
                self._speech_started(before, echo, now)
            case SpeechStopped() | WaitRevised():
                self._wait = event.wait if isinstance(event, WaitRevised) else self._wait
                self._fell_silent(before, now)
            case Ruled(interruption):
                self._rule(interruption, before, now)
            case Typed():
                if before in REPLYING:
                    self._actions.append(CancelReply(self.number))
                self._silences = 0
                self._drop_held()
                self._reply(Cause.TYPED, now)
            case ReplyProgressed(_, until):
                self._until = until
                if after is Floor.AGENT:
                    self._leave_at = max(now, until) + self.settings.longest_stall
            case ReplyPlayed(_, end):
                if end or self._cause is Cause.GOODBYE:
                    self._end(end or "silence")
                else:
                    self._listen(now)
            case ReplyFailed() if before is Floor.CONTESTED and self._speaking:
                self._rule(True, before, now)  # nobody apologises to somebody who speaks
            case ReplyFailed():
                self._fail(now)

    def tick(self, now: float) -> None:
        """Let time pass; call `actions` next."""
        if self._leave_at is None or self.deadline is None or now < self.deadline:
            return
        over = now >= self._leave_at
        match self.floor:
            case Floor.PENDING if over:
                if not self._looked:
                    self._drop_held()  # made from fewer words
                self._reply(Cause.SPOKEN, now, self._stopped_at)
            case Floor.PENDING:
                self._speculate(now)
            case Floor.USER if over:  # noise or a lost stop: answer what there is
                self._drop_held()
                self._reply(Cause.SPOKEN, now)
            case Floor.USER:
                self._drop_held()
            case Floor.CONTESTED if over:
                self._rule(self._speaking, self.floor, now)
            case Floor.AGENT | Floor.CONTESTED if not over:
                self._judge_at = now + JUDGE_EVERY
                self._actions.append(JudgeSound(self.number))
            case Floor.NOBODY:
                self._silences += 1
                last = self._silences > self.settings.idle_prompts
                self._reply(Cause.GOODBYE if last else Cause.SILENCE, now)
            case Floor.THINKING | Floor.AGENT:
                self._actions.append(CancelReply(self.number, stalled=True))
                self._fail(now)

    def replying(self, turn: int) -> bool:
        """Whether the reply of `turn` has the floor; if not, its work is stale."""
        return self.floor in REPLYING and turn == self.number

    def actions(self) -> list[Action]:
        """Return what to do, once, in order."""
        actions, self._actions = self._actions, []
        return actions

    # The caller's turn.

    def _speech_started(self, before: Floor, echo: bool, now: float) -> None:
        match before:
            case Floor.AGENT if echo:
                self.floor, self._judge_at = Floor.AGENT, now + JUDGE_EVERY
            case Floor.AGENT:
                self._contest(now)
            case Floor.CONTESTED:
                self._judge_at = now
            case Floor.PENDING:  # they go on with the same turn
                young = now - self._speculated_at < YOUNG
                self._drop_at = now if young else now + GOES_ON
                self._leave_at = max(now, self._speech_limit)
                if self._held and young:
                    self._drop_held()
            case _:
                if before is Floor.THINKING:
                    self._actions.append(CancelReply(self.number))
                self._take_floor(now)

    def _take_floor(self, now: float) -> None:
        """Begin the caller's turn."""
        self._attempts = 0
        self._speech_limit = self._leave_at = now + self.settings.longest_speech

    def _fell_silent(self, before: Floor, now: float) -> None:
        """Set when the turn of a caller who fell silent is over."""
        if self.floor is Floor.CONTESTED:
            self._judge_at = now
            return
        if before is not Floor.PENDING:
            self._looked = False
        few_words = self._stopped_at - self._interrupted_at < FEW_WORDS
        self._wait = max(self._wait, CALM) if few_words else self._wait
        self._leave_at = max(now, self._stopped_at + self._wait)
        if self._may_speculate and now >= self._speculate_at:
            self._speculate(now)

    # The answer before the decision.

    @property
    def _may_speculate(self) -> bool:
        return not self._looked and self._attempts < self.settings.speculations

    @property
    def _speculate_at(self) -> float:
        """When the answer is begun: as late as is early enough."""
        patience = 0.0
        if not self._held and self._attempts >= FREE:
            patience = min(BACK_OFF * (self._attempts - FREE + 1), LONGEST_BACK_OFF)
        return self._stopped_at + max(patience, self._wait - self.settings.speculation_lead)

    def _speculate(self, now: float) -> None:
        self._attempts += 1
        self._speculated_at = now
        self._looked = self._held = True
        self._actions.append(Speculate(self.number + 1))

    def _drop_held(self) -> None:
        if self._held:
            self._held = False
            self._actions.append(DropSpeculation(self.number + 1))

    # The agent's turn.

    def _reply(self, cause: Cause, now: float, waited_from: float | None = None) -> None:
        """Give the floor to a new reply."""
        self.floor, self._cause = Floor.THINKING, cause
        self.number += 1
        self._held = False
        self._until = now
        self._leave_at = now + self.settings.longest_stall
        self._actions.append(StartReply(self.number, cause, waited_from))

    def _contest(self, now: float) -> None:
        """Silence the agent until it is clear what the caller's sound is."""
        self.floor = Floor.CONTESTED
        self._judge_at = self._contested_at = now
        self._leave_at = now + self.settings.longest_contest
        self._actions.append(PauseReply(self.number))

    def _rule(self, interruption: bool, before: Floor, now: float) -> None:
        """Give the floor to whom a sound during the reply gives it."""
        if interruption:
            self._actions.append(CancelReply(self.number))
            self._take_floor(now)
            self._interrupted_at = self._contested_at
            self.floor = Floor.USER
            if not self._speaking:
                self.floor = Floor.PENDING
                self._fell_silent(Floor.USER, now)
            return
        self.floor = Floor.AGENT
        if before is Floor.CONTESTED:
            self._leave_at = max(now, self._until) + self.settings.longest_stall
            self._actions.append(ResumeReply(self.number))

    def _listen(self, now: float) -> None:
        """Leave the floor to the caller, who may be speaking already."""
        if self._speaking:
            self.floor = Floor.USER
            self._take_floor(now)
        else:
            self.floor, self._leave_at = Floor.NOBODY, now + self.settings.idle

    def _fail(self, now: float) -> None:
        """Apologise for a reply that failed; listen if the apology fails, too."""
        if self._cause is Cause.GOODBYE:
            self._end("silence")
        elif self._cause is Cause.FAILURE:
            self._listen(now)
        else:
            self._reply(Cause.FAILURE, now)

    def _end(self, reason: str) -> None:
        """End the call; nothing happens after this."""
        self._drop_held()
        if self.floor in REPLYING:
            self._actions.append(CancelReply(self.number))
        self.floor, self._leave_at = Floor.OVER, None
        self._actions.append(EndCall(reason))

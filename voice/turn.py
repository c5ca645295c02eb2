"""Whose turn it is to speak.

No I/O, no clock, no tasks: events and times go in, actions come out. Every
rule about turns lives here, so that every rule about turns is tested here.

Two things hold after every event, whatever the order: the call is over, or
there is a deadline by which something happens (never stuck); and a result that
comes after its reply was cancelled changes nothing.
"""

from dataclasses import dataclass
from enum import Enum, auto

from voice.settings import TurnSettings


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
class SpeechStarted:
    """The caller began to make speech-like sound."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The caller fell silent; `at` is when their last speech sample arrived."""

    at: float


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
    | SpeechStarted
    | SpeechStopped
    | Typed
    | ReplyProgressed
    | ReplyPlayed
    | ReplyFailed
    | CallerLeft
)


@dataclass(frozen=True, slots=True)
class StartReply:
    """Answer. `turn` is this reply's number, `waited_from` the caller's last speech sample."""

    turn: int
    cause: Cause
    waited_from: float | None = None


@dataclass(frozen=True, slots=True)
class CancelReply:
    """Stop the reply: its sound, its synthesis and its model."""

    turn: int


@dataclass(frozen=True, slots=True)
class EndCall:
    """Hang up."""

    reason: str


Action = StartReply | CancelReply | EndCall

NEXT: dict[tuple[Floor, type[Event]], Floor] = {
    (Floor.NOBODY, CallStarted): Floor.THINKING,
    (Floor.NOBODY, SpeechStarted): Floor.USER,
    (Floor.USER, SpeechStopped): Floor.PENDING,
    (Floor.PENDING, SpeechStarted): Floor.USER,
    (Floor.THINKING, SpeechStarted): Floor.USER,
    (Floor.AGENT, SpeechStarted): Floor.USER,
    (Floor.NOBODY, Typed): Floor.THINKING,
    (Floor.USER, Typed): Floor.THINKING,
    (Floor.PENDING, Typed): Floor.THINKING,
    (Floor.THINKING, Typed): Floor.THINKING,
    (Floor.AGENT, Typed): Floor.THINKING,
    (Floor.THINKING, ReplyProgressed): Floor.AGENT,
    (Floor.AGENT, ReplyProgressed): Floor.AGENT,
    (Floor.THINKING, ReplyPlayed): Floor.NOBODY,
    (Floor.AGENT, ReplyPlayed): Floor.NOBODY,
    (Floor.THINKING, ReplyFailed): Floor.THINKING,
    (Floor.AGENT, ReplyFailed): Floor.THINKING,
}
"""What each event does to the floor; any other event changes nothing.

`CallerLeft` ends the call from everywhere. Time moves PENDING to THINKING, and
every other floor on when its watchdog runs out.
"""

REPLYING = (Floor.THINKING, Floor.AGENT)


class Turn:
    """The turn-taking of one conversation."""

    def __init__(self, settings: TurnSettings) -> None:
        self.settings = settings
        self.floor = Floor.NOBODY
        self.number = 0
        """Number of the latest reply; what the caller says now belongs to the next."""
        self.deadline: float | None = None
        """When to call `tick`, in seconds of the caller's clock; None when over."""
        self._cause = Cause.GREETING
        self._silences = 0
        self._stopped_at: float | None = None
        self._speech_limit = 0.0
        self._actions: list[Action] = []

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
        before, after = self.floor, NEXT.get((self.floor, type(event)))
        if after is None:
            return
        if before in REPLYING and isinstance(event, SpeechStarted | Typed):
            self._actions.append(CancelReply(self.number))
        self.floor = after
        match event:
            case CallStarted():
                self._reply(Cause.GREETING, now)
            case SpeechStarted():
                self._silences = 0
                if before is not Floor.PENDING:  # else they go on with the same utterance
                    self._speech_limit = now + self.settings.longest_speech
                self.deadline = max(now, self._speech_limit)
            case SpeechStopped(at):
                self._stopped_at = at
                self.deadline = max(now, at + self.settings.silence)
            case Typed():
                self._silences = 0
                self._reply(Cause.TYPED, now)
            case ReplyProgressed(_, until):
                self.deadline = max(now, until) + self.settings.longest_stall
            case ReplyPlayed(_, end):
                if end or self._cause is Cause.GOODBYE:
                    self._end(end or "silence")
                else:
                    self.deadline = now + self.settings.idle
            case ReplyFailed():
                self._fail(now)

    def tick(self, now: float) -> None:
        """Let time pass; call `actions` next."""
        if self.deadline is None or now < self.deadline:
            return
        match self.floor:
            case Floor.PENDING:
                self._reply(Cause.SPOKEN, now, self._stopped_at)
            case Floor.USER:  # speech without end is noise or a lost stop: answer what there is
                self._reply(Cause.SPOKEN, now)
            case Floor.NOBODY:
                self._silences += 1
                last = self._silences > self.settings.idle_prompts
                self._reply(Cause.GOODBYE if last else Cause.SILENCE, now)
            case Floor.THINKING | Floor.AGENT:
                self._actions.append(CancelReply(self.number))
                self._fail(now)

    def replying(self, turn: int) -> bool:
        """Whether the reply of `turn` has the floor; if not, its work is stale."""
        return self.floor in REPLYING and turn == self.number

    def actions(self) -> list[Action]:
        """Return what to do, once, in order."""
        actions, self._actions = self._actions, []
        return actions

    def _reply(self, cause: Cause, now: float, waited_from: float | None = None) -> None:
        """Give the floor to a new reply."""
        self.floor, self._cause = Floor.THINKING, cause
        self.number += 1
        self.deadline = now + self.settings.longest_stall
        self._actions.append(StartReply(self.number, cause, waited_from))

    def _fail(self, now: float) -> None:
        """Apologise for a reply that failed; listen if the apology fails, too."""
        if self._cause is Cause.GOODBYE:
            self._end("silence")
        elif self._cause is Cause.FAILURE:
            self.floor, self.deadline = Floor.NOBODY, now + self.settings.idle
        else:
            self._reply(Cause.FAILURE, now)

    def _end(self, reason: str) -> None:
        """End the call; nothing happens after this."""
        if self.floor in REPLYING:
            self._actions.append(CancelReply(self.number))
        self.floor, self.deadline = Floor.OVER, None
        self._actions.append(EndCall(reason))

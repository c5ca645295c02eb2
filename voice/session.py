"""One call: the shell around the turn core. It owns the tasks and the clock, and has no rules."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from time import monotonic
from typing import Any

import asr.engine
from asr import vad
from asr.echo import EchoGuard
from asr.vad import SpeechDetector
from transport.line import Line, Pcm
from voice.context import Context
from voice.crew import Crew
from voice.disturbance import Disturbances, described
from voice.endpoint import Endpointer
from voice.hearing import Ears, Utterance
from voice.interruption import Ruling
from voice.recording import Recording
from voice.replies import Replies
from voice.settings import ChoiceError, SessionSettings, Settings
from voice.speculation import Tally
from voice.tools import Outcome
from voice.turn import (
    Action,
    CallerLeft,
    CallStarted,
    CancelReply,
    Cause,
    DropSpeculation,
    EndCall,
    Event,
    Floor,
    JudgeSound,
    PauseReply,
    ReplyProgressed,
    ResumeReply,
    Ruled,
    SoundHeard,
    SoundPassed,
    Speculate,
    SpeechStarted,
    SpeechStopped,
    StartReply,
    Turn,
    Typed,
    WaitRevised,
)
from voice.understanding import Understanding

log = logging.getLogger(__name__)

TYPING = 0.2
"""Seconds that a typed message must come after the last."""

LONGEST_TYPED = 1000
"""Characters of a typed message that are read."""

PLAYED = 60.0
"""Seconds that an answer may be under way to a client's loudspeaker."""

STALLED = 0.02
"""Seconds by which a turn's timer is late when this process was away."""

CATCH_UP = 0.005
"""Seconds to read what came meanwhile, before silence is concluded from it."""


class Session:
    """One conversation on one line; see `transport.line.Call` for what a line calls."""

    def __init__(
        self,
        name: str,
        line: Line,
        crew: Crew,
        settings: Settings,
        note: Callable[[Mapping[str, Any]], None],
        chosen: SessionSettings,
    ) -> None:
        """Get ready; `run` begins the call. `note` takes every event of the call, for the log."""
        self.name = name
        self.line = line
        self.context = Context(crew.agent.instructions)
        self.ended = ""
        """Why the call ended, "" while it goes on."""
        self._crew, self._settings, self.note = crew, settings, note
        self.chosen = chosen
        self._turn = Turn(crew.knobs.turn)
        self._toolbox = crew.agent.open()
        self._understanding = Understanding(crew.agent.lines)
        self._detector = SpeechDetector(crew.vad, self._noticed)
        self._ears = Ears(
            crew.ears, self._detector, name, self.expects, self._opened, self._language
        )
        self._echo = EchoGuard()
        self._recording = Recording(
            name, line, note, self.tell, crew.late, crew.at_fault, settings.trace
        )
        self._replies = Replies(
            self,
            self._turn,
            crew,
            settings,
            line,
            self._ears,
            self._echo,
            self.context,
            self._toolbox,
            self._understanding,
            self._recording,
        )
        self._endpointer = Endpointer(self._ears, crew.turn_end, crew.knobs.turn, self.expects)
        self._disturbances = Disturbances(self._ears, self._echo, self.expects)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._tools: set[asyncio.Task[Outcome]] = set()
        self._catching_up = False
        self._due: float | None = None  # when the rule meant the timer that is being served
        self._typed_at = 0.0
        self._wait = crew.knobs.turn.longest_wait
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def underruns(self) -> int:
        """How often a reply ran dry before its end."""
        return self._replies.speaker.underruns

    @property
    def tally(self) -> Tally:
        """What the answers of this call cost."""
        return self._replies.tally

    @property
    def budget(self) -> float:
        """What the caller may have to wait for an answer, in seconds."""
        return self.chosen.budget or self._crew.agent.budget or self._settings.budget.total

    # What the line calls.

    def hear(self, pcm: Pcm, arrived: float | None = None) -> None:
        """Take the caller's next samples at 16 kHz; they came at `arrived`, or now."""
        if self._over.done() or not self._turn.number or not len(pcm):
            return
        now = self._now()
        arrived = now if arrived is None else arrived
        began = self._ears.clock.place(len(pcm) / asr.engine.RATE, arrived)
        if self._replies.speaker.turn:
            self._echo.heard(pcm, began)
        self._ears.hear(pcm, arrived, now)

    def receive(self, message: Mapping[str, Any]) -> None:
        """Take one JSON message of the caller; unknown types are ignored."""
        if self._over.done():
            return
        match message:
            case {"type": "hang_up"}:
                self.feed(CallerLeft("hang_up"))
            case {"type": "text", "text": str(text)} if self._now() - self._typed_at < TYPING:
                self._refuse("too_fast", f"a message within {TYPING} s of the last is dropped")
            case {"type": "text", "text": str(text)}:
                if text.strip():
                    self._typed_at = self._now()
                    self._replies.answering.typed.append(text.strip()[:LONGEST_TYPED])
                    self.feed(Typed())
            case {"type": "text"}:
                self._refuse("bad_message", 'a "text" message needs a string in "text"')
            case {"type": "session", **given}:
                self._choose(given)
            case {"type": "played", "turn": int(turn), "late": int(late) | float(late)} if (
                abs(late) < PLAYED
            ):
                self._recording.acknowledged(turn, self._now(), late)
            case {"type": "played", "turn": int(turn)}:
                self._recording.acknowledged(turn, self._now())

    def lost(self, reason: str) -> None:
        """The wire has gone."""
        self.feed(CallerLeft(reason))

    # The call.

    async def run(self) -> None:
        """Hold the conversation; return when it is over and everything it held is free.

        Raises:
            Exception: Whatever no part of the call could handle; the call has ended.
        """
        self.tell(
            {
                "type": "start",
                "turn": 0,
                "call": self.name,
                "agent": self._crew.agent.name,
                "rate": self.line.rate,
                "ears": self._crew.ears.name,
                "mind": self._crew.mind.name,
                "mouth": self._crew.mouth.name,
            }
        )
        try:
            self.feed(CallStarted())
            await self._over
        except Exception:
            self._refuse("internal", "something failed here; this call ends")
            self._end("error")
            raise
        finally:
            await self._free()

    async def _free(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._replies.close()
        self._detector.close()
        self._ears.drop()
        self._replies.thinking.prefill.close()
        finals = [task for task, _ in self._replies.answering.words.finals]
        for task in (*self._tasks, *finals):
            task.cancel()
        await asyncio.gather(*self._tasks, *finals, return_exceptions=True)
        if self._tools:  # what is being written is written to its end
            await asyncio.wait(self._tools, timeout=self._settings.tool_timeout)
        self._toolbox.close()
        self.line.close()

    def feed(self, event: Event) -> None:
        """Feed the turn core and do what it says."""
        if self._over.done():
            return
        self._turn.receive(event, self._now())
        self._perform()

    def _tick(self) -> None:
        """Let the turn core know that time has passed."""
        self._timer = None
        assert self._turn.deadline is not None
        now = self._now()
        if now - self._turn.deadline > STALLED and not self._catching_up:
            # This process was away, and what the caller said meanwhile is still unread.
            self._catching_up, self._timer_at = True, self._turn.deadline
            self._timer = asyncio.get_running_loop().call_later(CATCH_UP, self._tick)
            return
        self._catching_up, self._due = False, min(now, self._turn.deadline)
        self._turn.tick(max(now, self._turn.deadline))  # timers may fire a tick early
        self._perform()
        self._due = None

    def _perform(self) -> None:
        for action in self._turn.actions():
            self._do(action)
        deadline = self._turn.deadline
        if self._timer is not None:
            if deadline == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer_at = deadline
            self._timer = asyncio.get_running_loop().call_at(deadline, self._tick)

    def _do(self, action: Action) -> None:
        match action:
            case Speculate(turn):
                self._replies.speculate(turn)
            case DropSpeculation():
                self._replies.drop_attempt()
            case PauseReply():
                self._replies.speaker.pause()
                self._disturbed()
                if self._settings.profile == "bench":
                    self.line.tell({"ev": "clear", "t": self._now()})
            case JudgeSound():
                self._judge()
            case ResumeReply(turn):
                self._resume(turn)
            case CancelReply(turn, stalled):
                self._replies.stop(turn, stalled)
            case StartReply(turn, cause, waited_from):
                waits = waited_from is not None or cause is Cause.TYPED
                self._replies.start(turn, cause, (self._due or self._now()) if waits else None)
            case EndCall(reason):
                self._end(reason)

    def _end(self, reason: str) -> None:
        if not self.ended:
            self.ended = reason
            self.tell({"type": "end", "turn": self._turn.number, "reason": reason})
        if not self._over.done():
            self._over.set_result(None)

    # The caller.

    def _noticed(self, event: vad.SpeechEvent) -> None:
        """Take what the detector found; what goes wrong ends this call and no other."""
        if self._over.done():
            return
        try:
            self._notice(event)
        except Exception as error:
            self._over.set_exception(error)

    def _notice(self, event: vad.SpeechEvent) -> None:
        floor, disturbances = self._turn.floor, self._disturbances
        match event:
            case vad.SoundHeard(at):
                if floor is Floor.AGENT and not disturbances.is_echo(at):
                    disturbances.begin(at)
                    self.feed(SoundHeard())
            case vad.SoundPassed():
                self.feed(SoundPassed())
            case vad.SpeechStarted(at):
                self._read_knobs()
                self._recording.goes_on()
                if floor is Floor.THINKING:  # they were not done
                    self._ears.paused(at)
                    self._recording.disturbed(self._ears.made(at), self._now())
                self._ears.notice(event)
                if floor is Floor.AGENT:
                    disturbances.begin(at)
                disturbances.sound.ended = None
                self.feed(SpeechStarted(floor is Floor.AGENT and disturbances.is_echo(at)))
            case vad.SpeechStopped(at):
                self._read_knobs()
                self._ears.notice(event)
                if self._settings.trace:
                    self._recording.fell_silent(self._ears.fell_silent(at), self._now())
                disturbances.sound.ended = at
                if floor is Floor.USER:
                    disturbances.learn_level()
                if floor in (Floor.USER, Floor.CONTESTED):
                    self._wait = self._endpointer.fell_silent(self._replies.answering.words.heard)
                self.feed(SpeechStopped(self._ears.when(at), self._wait))
                match self._turn.floor:
                    case Floor.CONTESTED:
                        self.spawn(self._hear_out())
                    case Floor.AGENT:
                        self.forget_sound()

    def _read_knobs(self) -> None:
        """Take the settings that are in force now; they stay until the caller speaks or stops."""
        self._turn.settings = self._endpointer.settings = self._crew.knobs.turn

    def know_words(self, final: str = "") -> None:
        """Revise how long to wait, now that more of the words is known."""
        if self._turn.floor is Floor.PENDING:
            self._wait = self._endpointer.wait(self._replies.answering.words.heard, final)
            self.feed(WaitRevised(self._wait))

    # Sounds during a reply.

    def _judge(self) -> None:
        """Say what the sound is that paused the reply, or may be more than an echo."""
        ruling, floor = self._disturbances.judge(), self._turn.floor
        if ruling is Ruling.WAIT:
            if floor is Floor.AGENT and self._disturbances.no_echo:
                self.feed(SoundHeard())
            return
        if floor is Floor.CONTESTED:
            sound = described(self._disturbances.sound.evidence, ruling)
            self.note({"type": "sound", "turn": self._turn.number, **sound})
        elif ruling is Ruling.INTERRUPT:
            self._disturbed()  # it seemed an echo so far, and has silenced nothing
        self.feed(Ruled(ruling is Ruling.INTERRUPT))

    def _disturbed(self) -> None:
        """Note that the latest sound silences the answer now."""
        began = self._ears.made(self._disturbances.sound.began)
        self._recording.disturbed(began, self._now())

    async def _hear_out(self) -> None:
        if await self._disturbances.hear_out() and self._turn.floor is Floor.CONTESTED:
            self._judge()

    def _resume(self, turn: int) -> None:
        """Go on with a reply that was paused."""
        self.tell({"type": "resume", "turn": turn})
        self._recording.resumed()
        self._replies.speaker.resume()
        self.feed(ReplyProgressed(turn, self._replies.speaker.until()))
        if self._disturbances.over:
            self.forget_sound()

    def forget_sound(self) -> None:
        """Forget what was no interruption; it is no part of what the caller says next."""
        self._ears.drop()
        self._replies.answering.take_back_caption()

    # Odds and ends.

    def _language(self) -> str:
        return self.chosen.language

    def _choose(self, given: Mapping[str, Any]) -> None:
        """Take what the caller chooses, for the next utterance and reply."""
        try:
            self.chosen = self.chosen.changed(given, self._crew.mouth.voices)
        except ChoiceError as error:
            self._refuse("bad_session", str(error))
        else:
            self.tell({"type": "session", "turn": self._turn.number, **asdict(self.chosen)})

    def expects(self) -> str:
        """Return the topic that the agent has just asked about."""
        return self._understanding.expects or self._toolbox.expects

    def _opened(self, utterance: Utterance) -> None:
        self.spawn(self._show(utterance, self._turn.number + 1))

    async def _show(self, utterance: Utterance, turn: int) -> None:
        """Show the caller's words as they are recognised."""
        try:
            async for hypothesis in utterance.stream.hypotheses():
                utterance.latest = hypothesis
                self.know_words()
                if utterance is not self._ears.utterance:
                    continue
                if hypothesis.text:
                    self._replies.answering.caption(turn, hypothesis.text, final=False)
                if self._replies.attempt is None and self._turn.floor in (
                    Floor.USER,
                    Floor.PENDING,
                ):
                    self._replies.answering.read_ahead(hypothesis.committed)
        except asr.engine.EngineError:
            pass  # whoever asks for the final words hears of it

    def tell(self, event: Mapping[str, Any]) -> None:
        self.note(event)
        self.line.tell(event)

    def _refuse(self, code: str, message: str) -> None:
        turn = self._turn.number
        self.tell({"type": "error", "turn": turn, "code": code, "message": message})

    def keep(self, task: asyncio.Task[Outcome]) -> None:
        """Let a tool work to its end, whatever becomes of the reply that called it."""
        self._tools.add(task)
        task.add_done_callback(self._tools.discard)

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """Run `work` as a task of this call; what it cannot handle ends the call."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not self._over.done():
            self._over.set_exception(error)

    def _now(self) -> float:
        return monotonic()

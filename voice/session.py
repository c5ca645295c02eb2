"""One call: the shell around the turn core. It owns the tasks and the clock, and has no rules."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from time import monotonic
from typing import Any

import asr.engine
import llm.engine
import tts.engine
from asr import vad
from asr.echo import EchoGuard
from asr.turn_end import TurnEnd
from asr.vad import SpeechDetector
from latency.trace import Moment, TurnTrace
from latency.trace import Outcome as Fate
from transport.line import Line, Pcm
from transport.pacer import Pacer
from voice.agent import Agent
from voice.answering import Answering
from voice.context import Context
from voice.disturbance import Disturbances, described
from voice.endpoint import Endpointer
from voice.hearing import Ears, Final, Utterance
from voice.interruption import Ruling
from voice.prefill import Prefill
from voice.recording import AtFault, Recording
from voice.reply import Thinking
from voice.settings import ChoiceError, SessionSettings, Settings
from voice.speaking import Speaker
from voice.speculation import Attempt, Spent, Tally, timed
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
    ReplyFailed,
    ReplyPlayed,
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

MADE_AHEAD = 3.0
"""Seconds of a reply that are made before the caller has heard them, at most."""

MARKERS: Mapping[str, Moment] = {
    "vad_stop": "decided",
    "asr_final": "asr_final",
    "llm_start": "llm_start",
    "llm_sent1": "phrase",
    "tts_start": "phrase",
    "tts_first": "tts_first",
}
"""Moments that the profile "bench" tells its callers, by the name they are told under."""

ENGINE_ERRORS = (asr.engine.EngineError, llm.engine.EngineError, tts.engine.EngineError)


STALLED = 0.02
"""Seconds by which a turn's timer is late when this process was away."""

CATCH_UP = 0.005
"""Seconds to read what came meanwhile, before silence is concluded from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """What all calls of a process share.

    Attributes:
        ears: The recogniser.
        mind: The language model.
        mouth: The synthesiser.
        vad: The model that tells speech from silence.
        pacer: Sends all calls' audio in time.
        agent: Who answers.
        turn_end: Tells how likely a caller is done.
        may_speculate: Whether this machine has time for answers that may be dropped.
        late: How late the event loop was lately, in seconds.
        at_fault: Names the stage to blame for a turn that is over its budget.
    """

    ears: asr.engine.Engine
    mind: llm.engine.Engine
    mouth: tts.engine.Engine
    vad: vad.VadModel
    pacer: Pacer
    agent: Agent
    turn_end: TurnEnd
    may_speculate: Callable[[], bool]
    late: Callable[[], float]
    at_fault: AtFault


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
        self._crew, self._settings, self._note = crew, settings, note
        self._chosen = chosen
        self._turn = Turn(settings.turn)
        self._toolbox = crew.agent.open()
        self._understanding = Understanding(crew.agent.lines)
        self._detector = SpeechDetector(crew.vad, self._noticed)
        self._ears = Ears(
            crew.ears, self._detector, name, self.expects, self._opened, self._language
        )
        self._echo = EchoGuard()
        self._recording = Recording(
            name, line.transport, note, self._tell, crew.late, crew.at_fault, settings.trace
        )
        self.trace = self._recording.trace
        self._speaker = Speaker(
            crew.pacer, line, self._tell, self._sent, self._audible, self._played, self._echo
        )
        self._thinking = Thinking(
            prefill=Prefill(crew.mind),
            context=self.context,
            toolbox=self._toolbox,
            lines=crew.agent.lines,
            tool_timeout=settings.tool_timeout,
            trace=self.trace,
            tell=self._tell,
            keep=self._keep,
            decided=self.decided,
            due=self.due,
            params=llm.engine.Params(adapter=crew.agent.adapter),
        )
        self._answering = Answering(
            self,
            self._thinking,
            self._understanding,
            self.context,
            self._toolbox,
            note,
            self._tell,
        )
        self._endpointer = Endpointer(self._ears, crew.turn_end, settings.turn, self.expects)
        self._disturbances = Disturbances(self._ears, self._echo, self.expects)
        self._attempt: Attempt | None = None
        self.tally = Tally()
        """What the answers of this call cost."""
        self._reply: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._tools: set[asyncio.Task[Outcome]] = set()
        self._catching_up = False
        self._due: float | None = None  # when the rule meant the timer that is being served
        self._typed_at = 0.0
        self._wait = settings.turn.longest_wait
        self._went_on = asyncio.Event()  # an answer was let go
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def underruns(self) -> int:
        """How often a reply ran dry before its end."""
        return self._speaker.underruns

    # What the line calls.

    def hear(self, pcm: Pcm, arrived: float | None = None) -> None:
        """Take the caller's next samples at 16 kHz; they came at `arrived`, or now."""
        if self._over.done() or not self._turn.number or not len(pcm):
            return
        now = self._now()
        arrived = now if arrived is None else arrived
        began = self._ears.clock.place(len(pcm) / asr.engine.RATE, arrived)
        if self._speaker.turn:
            self._echo.heard(pcm, began)
        self._ears.hear(pcm, arrived, now)

    def receive(self, message: Mapping[str, Any]) -> None:
        """Take one JSON message of the caller; unknown types are ignored."""
        if self._over.done():
            return
        match message:
            case {"type": "hang_up"}:
                self._receive(CallerLeft("hang_up"))
            case {"type": "text", "text": str(text)} if self._now() - self._typed_at < TYPING:
                self._refuse("too_fast", f"a message within {TYPING} s of the last is dropped")
            case {"type": "text", "text": str(text)}:
                if text.strip():
                    self._typed_at = self._now()
                    self._answering.typed.append(text.strip()[:LONGEST_TYPED])
                    self._receive(Typed())
            case {"type": "text"}:
                self._refuse("bad_message", 'a "text" message needs a string in "text"')
            case {"type": "session", **given}:
                self._choose(given)
            case {"type": "played", "turn": int(turn)}:
                self._recording.acknowledged(turn, self._now())

    def lost(self, reason: str) -> None:
        """The wire has gone."""
        self._receive(CallerLeft(reason))

    # The call.

    async def run(self) -> None:
        """Hold the conversation; return when it is over and everything it held is free.

        Raises:
            Exception: Whatever no part of the call could handle; the call has ended.
        """
        self._tell(
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
            self._receive(CallStarted())
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
        self._over_reply(self._speaker.turn, "hung_up")
        self._speaker.stop(self._speaker.turn)
        self._detector.close()
        self._ears.drop()
        self._thinking.prefill.close()
        finals = [task for task, _ in self._answering.words.finals]
        for task in (*self._tasks, *finals):
            task.cancel()
        await asyncio.gather(*self._tasks, *finals, return_exceptions=True)
        if self._tools:  # what is being written is written to its end
            await asyncio.wait(self._tools, timeout=self._settings.tool_timeout)
        self._toolbox.close()
        self.line.close()

    def _receive(self, event: Event) -> None:
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
                self._speculate(turn)
            case DropSpeculation():
                self._drop_attempt()
            case PauseReply():
                self._speaker.pause()
                began = self._ears.made(self._disturbances.sound.began)
                self._recording.disturbed(began, self._now())
                if self._settings.profile == "bench":
                    self.line.tell({"ev": "clear", "t": self._now()})
            case JudgeSound():
                self._judge()
            case ResumeReply(turn):
                self._resume(turn)
            case CancelReply(turn):
                self._stop_reply(turn)
            case StartReply(turn, cause, waited_from):
                self._start_reply(turn, cause, waited_from)
            case EndCall(reason):
                self._end(reason)

    def _end(self, reason: str) -> None:
        if not self.ended:
            self.ended = reason
            self._tell({"type": "end", "turn": self._turn.number, "reason": reason})
        if not self._over.done():
            self._over.set_result(None)

    # Replies.

    def _start_reply(self, turn: int, cause: Cause, waited_from: float | None) -> None:
        now = self._now()
        if cause is Cause.TYPED:  # what was being said meanwhile is taken back
            self._ears.drop()
            self._answering.words.forget()
            waited_from = now
        if waited_from is not None:
            due = now if self._due is None else self._due
            self._recording.decided(turn, due, cause is Cause.TYPED)
        attempt = self._attempt
        if attempt is not None and attempt.turn == turn and not attempt.failed:
            attempt.decided = True
            if not attempt.checking:
                self._let_go(attempt)
            return
        self._drop_attempt()
        self._stop_reply(turn - 1)
        if cause is Cause.SPOKEN:
            self.trace.mark("asr_start", turn, now)
            if (final := self._ears.finish(now)) is not None:
                self._answering.words.finals.append(final)
        else:
            self._answering.interrupted = ""
        self._make(turn, cause)

    def _make(self, turn: int, cause: Cause, *, held: bool = False) -> None:
        """Begin to make a reply and to say it, or to hold it."""
        self._speaker.begin(turn, self._crew.mouth.rate, held=held)
        spent = self._attempt.spent if held and self._attempt else Spent()
        self._reply = self._spawn(self._make_reply(turn, cause, spent))

    async def _make_reply(self, turn: int, cause: Cause, spent: Spent) -> None:
        try:
            async with aclosing(self._answering.phrases(turn, cause, spent)) as phrases:
                await self._say(turn, phrases, spent)
        except ENGINE_ERRORS as error:
            log.warning("call %s, turn %d: %s", self.name, turn, error)
            self._note({"type": "failed", "turn": turn, "message": str(error)})
            if self._turn.replying(turn):
                self._over_reply(turn, "failed")
            if self._attempt is not None and self._attempt.turn == turn:
                self._attempt.failed = True
            self._receive(ReplyFailed(turn))
        finally:
            self.tally.add(spent)
            self._recording.spent(turn, spent)
            work = {"type": "work", "turn": turn, "wasted": spent.wasted}
            self._note(work | {"seconds": spent.rounded()})

    # Answers before the decision.

    def _speculate(self, turn: int) -> None:
        """Make the answer to the words so far, unless it is being made."""
        if self._attempt is not None:
            self._check(self._attempt)
            return
        if self._thinking.working or not self._crew.may_speculate():
            return
        now = self._now()
        if (final := self._ears.settle(self._turn.decides_at(now))) is not None:
            self._attempt_with(turn, final, now)

    def _attempt_with(self, turn: int, final: Final, asked: float) -> None:
        """Begin to answer words that the recogniser was asked for at `asked`."""
        self.trace.mark("speculation", turn, self._now())
        self.trace.mark("asr_start", turn, asked)
        self._attempt = Attempt(turn, self._now(), self._answering.snapshot())
        self.tally.starts += 1
        self._answering.words.finals.append(final)
        self._make(turn, Cause.SPOKEN, held=True)

    def _check(self, attempt: Attempt) -> None:
        """After a little more sound: keep the answer if the words are the same, else anew."""
        if (final := self._ears.settle(self.due(attempt.turn))) is None:
            return
        asked = self._now()
        self.trace.mark("asr_start", attempt.turn, asked)
        attempt.checking = True

        async def check() -> None:
            await asyncio.wait({final[0]})
            if self._attempt is not attempt:
                return
            failed = final[0].cancelled() or final[0].exception() is not None
            attempt.checking = False
            if not failed and not attempt.failed and attempt.answers(final[0].result().text):
                self.trace.mark("asr_final", attempt.turn, self._now())
                if attempt.decided:
                    self._let_go(attempt)
                return
            turn, decided = attempt.turn, attempt.decided
            self._drop_attempt()
            self._attempt_with(turn, final, asked)
            if decided:
                assert self._attempt is not None
                self._let_go(self._attempt)

        self._spawn(check())

    def _let_go(self, attempt: Attempt) -> None:
        """Let an answer that was held be heard: the caller is done."""
        self._attempt = None
        self.tally.kept += 1
        self._note({"type": "speculation", "turn": attempt.turn, "kept": True})
        self._recording.overlapped = self._now() - attempt.began
        finals = self._answering.words.finals
        self._ears.leave(finals[-1][0] if finals else None)
        for effect in attempt.effects:
            effect()
        self.trace.mark("let_go", attempt.turn, self._now())
        self._speaker.release()
        if self._speaker.began:
            self._receive(ReplyProgressed(attempt.turn, self._speaker.until()))
        self._went_on.set()

    def _drop_attempt(self) -> None:
        """Forget the held answer and all that making it has changed."""
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        attempt.spent.wasted = True
        self._note({"type": "speculation", "turn": attempt.turn, "kept": False})
        if self._reply is not None:
            self._reply.cancel()
            self._reply = None
        self._speaker.stop(attempt.turn)
        self._recording.dropped(attempt.turn, self._now())
        self._answering.restore(attempt.before)

    def knows_words(self, turn: int, text: str) -> None:
        """Take all words of a turn, once they are known."""
        if self._attempt is not None and self._attempt.turn == turn:
            self._attempt.text = text
            self._know_words(text)

    async def decided(self, turn: int) -> None:
        """Return once it is decided that turn `turn` is to be answered."""
        while self._attempt is not None and self._attempt.turn == turn:
            self._went_on.clear()
            await self._went_on.wait()

    def due(self, turn: int) -> float:
        """Return when the next result of reply `turn` is wanted, in `monotonic` seconds.

        Of a reply that is held: when it will be decided that the caller is done. Of any other: now.
        """
        attempt, now = self._attempt, self._now()
        held = attempt is not None and attempt.turn == turn and not attempt.decided
        return self._turn.decides_at(now) if held else now

    def once_decided(self, turn: int, effect: Callable[[], None]) -> None:
        """Do something now, or when the held answer `turn` is let go; never if it is dropped."""
        if self._attempt is not None and self._attempt.turn == turn:
            self._attempt.effects.append(effect)
        else:
            effect()

    async def _say(self, turn: int, phrases: AsyncGenerator[str, None], spent: Spent) -> None:
        """Speak phrases; tell the turn core how it goes."""
        crew, speaker = self._crew, self._speaker
        first = await anext(phrases, None)
        if first is None:
            speaker.end()
            return
        # The mouth waits for phrases, and whoever waits for the mouth waits for them, too.
        words = timed(_before(first, phrases), lambda seconds: spent.add("tts", -seconds))
        self.trace.mark("tts_start", turn, self._now())
        spoken = crew.mouth.speak(words, self._chosen.voice, self.due(turn))
        speech = timed(spoken, partial(spent.add, "tts"))
        async with aclosing(speech) as chunks:
            async for chunk in chunks:
                if not speaker.began:
                    now = self._now()
                    self.trace.mark("tts_first", turn, now)
                    self.trace.mark("let_go", turn, now)  # or once it is, where it is held
                speaker.take(chunk)
                self.trace.of(turn).audio = speaker.seconds
                if not self._turn.replying(turn):
                    continue  # it is held
                until = speaker.until()
                self._receive(ReplyProgressed(turn, until))
                if until - self._now() > MADE_AHEAD:
                    await asyncio.sleep(until - self._now() - MADE_AHEAD)
        speaker.end()

    def _sent(self, turn: int) -> None:
        """Note that the first frame of a reply has left."""
        self.trace.mark("sent", turn, self._now())

    def _audible(self, turn: int, at: float) -> None:
        """Note that the first sound of a reply has left, and is heard at `at`."""
        trace = self._recording.heard(turn, at, self._budget)
        if trace is not None and self._settings.profile == "bench":
            self._tell_markers(trace)

    @property
    def _budget(self) -> float:
        """What the caller may have to wait for an answer, in seconds."""
        return self._chosen.budget or self._crew.agent.budget or self._settings.budget.total

    def _tell_markers(self, trace: TurnTrace) -> None:
        """Tell the moments of a turn by the names that the comparison with other servers has."""
        for name, moment in MARKERS.items():
            if (at := trace.at(moment)) is not None:
                self.line.tell({"ev": name, "t": at})

    def _played(self, turn: int) -> None:
        """Note that the caller has heard the whole reply."""
        if self._ears.utterance is not None:  # a sound that was no interruption, until now
            self._forget_sound()
        self._over_reply(turn, "played")
        self._receive(ReplyPlayed(turn, self._thinking.end))

    def _over_reply(self, turn: int, outcome: Fate) -> None:
        """Note what became of a reply."""
        self._recording.over(turn, outcome, self._speaker.underruns, self._reply)

    def _stop_reply(self, turn: int) -> None:
        """Stop the sound and the work of reply `turn`, if either goes on."""
        if self._speaker.turn == turn:
            self._over_reply(turn, "interrupted")
        if self._reply is not None:
            self._reply.cancel()
            self._reply = None
        heard = self._speaker.stop(turn)
        if heard is not None:
            cut = self.context.agent_heard(turn, heard)
            self._answering.interrupted = cut or self._answering.interrupted

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
                    self._receive(SoundHeard())
            case vad.SoundPassed():
                self._receive(SoundPassed())
            case vad.SpeechStarted(at):
                self._recording.goes_on()
                if floor is Floor.THINKING:  # they were not done
                    self._ears.paused(at)
                    self._recording.disturbed(self._ears.made(at), self._now())
                self._ears.notice(event)
                if floor is Floor.AGENT:
                    disturbances.begin(at)
                disturbances.sound.ended = None
                self._receive(SpeechStarted(floor is Floor.AGENT and disturbances.is_echo(at)))
            case vad.SpeechStopped(at):
                self._ears.notice(event)
                if self._settings.trace:
                    self._recording.fell_silent(self._ears.fell_silent(at))
                disturbances.sound.ended = at
                if floor is Floor.USER:
                    disturbances.learn_level()
                if floor in (Floor.USER, Floor.CONTESTED):
                    self._wait = self._endpointer.fell_silent(self._answering.words.heard)
                self._receive(SpeechStopped(self._ears.when(at), self._wait))
                match self._turn.floor:
                    case Floor.CONTESTED:
                        self._spawn(self._hear_out())
                    case Floor.AGENT:
                        self._forget_sound()

    def _know_words(self, final: str = "") -> None:
        """Revise how long to wait, now that more of the words is known."""
        if self._turn.floor is Floor.PENDING:
            self._wait = self._endpointer.wait(self._answering.words.heard, final)
            self._receive(WaitRevised(self._wait))

    # Sounds during a reply.

    def _judge(self) -> None:
        """Say what the sound is that paused the reply, or may be more than an echo."""
        ruling, floor = self._disturbances.judge(), self._turn.floor
        if ruling is Ruling.WAIT:
            if floor is Floor.AGENT and self._disturbances.no_echo:
                self._receive(SoundHeard())
            return
        if floor is Floor.CONTESTED:
            sound = described(self._disturbances.sound.evidence, ruling)
            self._note({"type": "sound", "turn": self._turn.number, **sound})
        self._receive(Ruled(ruling is Ruling.INTERRUPT))

    async def _hear_out(self) -> None:
        if await self._disturbances.hear_out() and self._turn.floor is Floor.CONTESTED:
            self._judge()

    def _resume(self, turn: int) -> None:
        """Go on with a reply that was paused."""
        self._tell({"type": "resume", "turn": turn})
        self._recording.resumed()
        self._speaker.resume()
        self._receive(ReplyProgressed(turn, self._speaker.until()))
        if self._disturbances.over:
            self._forget_sound()

    def _forget_sound(self) -> None:
        """Forget what was no interruption; it is no part of what the caller says next."""
        self._ears.drop()
        self._answering.take_back_caption()

    # Odds and ends.

    def _language(self) -> str:
        return self._chosen.language

    def _choose(self, given: Mapping[str, Any]) -> None:
        """Take what the caller chooses, for the next utterance and reply."""
        try:
            self._chosen = self._chosen.changed(given, self._crew.mouth.voices)
        except ChoiceError as error:
            self._refuse("bad_session", str(error))
        else:
            self._tell({"type": "session", "turn": self._turn.number, **asdict(self._chosen)})

    def expects(self) -> str:
        """Return the topic that the agent has just asked about."""
        return self._understanding.expects or self._toolbox.expects

    def _opened(self, utterance: Utterance) -> None:
        self._spawn(self._show(utterance, self._turn.number + 1))

    async def _show(self, utterance: Utterance, turn: int) -> None:
        """Show the caller's words as they are recognised."""
        try:
            async for hypothesis in utterance.stream.hypotheses():
                utterance.latest = hypothesis
                self._know_words()
                if utterance is not self._ears.utterance:
                    continue
                if hypothesis.text:
                    self._answering.caption(turn, hypothesis.text, final=False)
                if self._attempt is None and self._turn.floor in (Floor.USER, Floor.PENDING):
                    self._answering.read_ahead(hypothesis.committed)
        except asr.engine.EngineError:
            pass  # whoever asks for the final words hears of it

    def _tell(self, event: Mapping[str, Any]) -> None:
        self._note(event)
        self.line.tell(event)

    def _refuse(self, code: str, message: str) -> None:
        turn = self._turn.number
        self._tell({"type": "error", "turn": turn, "code": code, "message": message})

    def _keep(self, task: asyncio.Task[Outcome]) -> None:
        """Let a tool work to its end, whatever becomes of the reply that called it."""
        self._tools.add(task)
        task.add_done_callback(self._tools.discard)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
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


async def _before(first: str, rest: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    yield first
    async for phrase in rest:
        yield phrase

"""One call: the shell around the turn core. It owns the tasks and the clock, and has no rules."""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import asr.engine
import llm.engine
import tts.engine
from asr import vad
from asr.vad import SpeechDetector
from latency.trace import CallTrace, Moment, TurnTrace
from transport.audio import Resampler
from transport.line import Line, Pcm
from transport.pacer import Pacer, Playout
from voice.agent import Agent
from voice.context import Context
from voice.hearing import Ears, Heard, Utterance
from voice.reply import Thinking
from voice.settings import Settings
from voice.tools import Outcome
from voice.turn import (
    Action,
    CallerLeft,
    CallStarted,
    CancelReply,
    Cause,
    EndCall,
    Event,
    ReplyFailed,
    ReplyPlayed,
    ReplyProgressed,
    SpeechStarted,
    SpeechStopped,
    StartReply,
    Turn,
    Typed,
)
from voice.understanding import Understanding, Verdict

log = logging.getLogger(__name__)

TYPING = 0.2
"""Seconds that a typed message must come after the last."""

LONGEST_TYPED = 1000
"""Characters of a typed message that are read."""

MADE_AHEAD = 8.0
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
    """

    ears: asr.engine.Engine
    mind: llm.engine.Engine
    mouth: tts.engine.Engine
    vad: vad.VadModel
    pacer: Pacer
    agent: Agent


@dataclass(slots=True)
class Spoken:
    """What is being said to the caller in one reply.

    Attributes:
        turn: The reply's number.
        starts: First sample of each word so far, at the line's rate.
        ends: The sample after the last of each.
        words: The words.
        shown: How many of them the caption shows.
        sent: Whether its first frame has left.
    """

    turn: int
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    shown: int = 0
    sent: bool = False


class Session:
    """One conversation on one line; see `transport.line.Call` for what a line calls."""

    def __init__(
        self,
        name: str,
        line: Line,
        crew: Crew,
        settings: Settings,
        note: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """Get ready; `run` begins the call. `note` takes every event of the call, for the log."""
        self.name = name
        self.line = line
        self.context = Context(crew.agent.instructions)
        self.trace = CallTrace()
        self.ended = ""
        """Why the call ended, "" while it goes on."""
        self._crew, self._settings, self._note = crew, settings, note
        self._turn = Turn(settings.turn)
        self._toolbox = crew.agent.open()
        self._understanding = Understanding(crew.agent.lines)
        detector = SpeechDetector(crew.vad)
        self._ears = Ears(crew.ears, detector, name, self._expects, self._opened)
        self._playout = Playout(crew.pacer, line.play, line.rate, progress=self._left)
        self._thinking = Thinking(
            mind=crew.mind,
            context=self.context,
            toolbox=self._toolbox,
            lines=crew.agent.lines,
            tool_timeout=settings.tool_timeout,
            mark=self.trace.mark,
            tell=self._tell,
            keep=self._keep,
        )
        self._finals: list[tuple[asyncio.Task[asr.engine.Hypothesis], float]] = []
        self._heard = Heard()
        self._typed: list[str] = []
        self._spoken = Spoken(0)
        self._interrupted = ""
        self._reply: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._tools: set[asyncio.Task[Outcome]] = set()
        self._typed_at = 0.0
        self._partial = 0  # turn of a user caption that is not final yet
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def underruns(self) -> int:
        """How often a reply ran dry before its end."""
        return self._playout.underruns

    # What the line calls.

    def hear(self, pcm: Pcm) -> None:
        """Take the caller's next samples at 16 kHz."""
        if self._over.done() or not self._turn.number or not len(pcm):
            return
        for event in self._ears.hear(pcm):
            match event:
                case vad.SpeechStarted():
                    self._receive(SpeechStarted())
                case vad.SpeechStopped(at):
                    silent = (self._ears.samples - at) / asr.engine.RATE
                    self._receive(SpeechStopped(self._now() - silent))

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
                    self._typed.append(text.strip()[:LONGEST_TYPED])
                    self._receive(Typed())
            case {"type": "text"}:
                self._refuse("bad_message", 'a "text" message needs a string in "text"')

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
        self._playout.clear()
        self._ears.drop()
        finals = [task for task, _ in self._finals]
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
        assert self._turn.deadline is not None
        self._turn.tick(max(self._now(), self._turn.deadline))  # timers may fire a tick early
        self._perform()

    def _perform(self) -> None:
        for action in self._turn.actions():
            self._do(action)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._turn.deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._turn.deadline, self._tick)

    def _do(self, action: Action) -> None:
        match action:
            case CancelReply(turn):
                self._stop_reply(turn)
            case StartReply(turn, cause, waited_from):
                self._stop_reply(turn - 1)
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
            self._forget_spoken()
            waited_from = now
        if waited_from is not None:
            self.trace.mark("speech_end", turn, waited_from)
            self.trace.mark("decided", turn, now)
        if cause is Cause.SPOKEN and (final := self._ears.finish(now)) is not None:
            self._finals.append(final)
        if cause is not Cause.SPOKEN:
            self._interrupted = ""
        self._spoken = Spoken(turn)
        self._reply = self._spawn(self._make_reply(turn, cause))

    async def _make_reply(self, turn: int, cause: Cause) -> None:
        try:
            async with aclosing(self._words(turn, cause)) as words:
                await self._say(turn, words)
        except ENGINE_ERRORS as error:
            log.warning("call %s, turn %d: %s", self.name, turn, error)
            self._note({"type": "failed", "turn": turn, "message": str(error)})
            self._receive(ReplyFailed(turn))

    async def _words(self, turn: int, cause: Cause) -> AsyncGenerator[str, None]:
        """Yield the phrases of a reply."""
        lines, thinking = self._crew.agent.lines, self._thinking
        match cause:
            case Cause.GREETING:
                phrases = thinking.line(turn, lines.greeting)
            case Cause.SILENCE:
                phrases = thinking.line(turn, lines.still_there)
            case Cause.GOODBYE:
                phrases = thinking.line(turn, lines.goodbye)
            case Cause.FAILURE:
                phrases = thinking.line(turn, lines.failed)
            case Cause.TYPED:
                text = " ".join(self._typed)
                self._typed.clear()
                phrases = self._answer(turn, text)
            case Cause.SPOKEN:
                phrases = await self._answer_spoken(turn)
        async with aclosing(phrases):
            async for phrase in phrases:
                yield phrase

    async def _answer_spoken(self, turn: int) -> AsyncGenerator[str, None]:
        """Decide what the caller's sound was, and answer that."""
        while self._finals:  # an answer that was cancelled leaves its words to the next
            final, duration = self._finals[0]
            await asyncio.wait({final})
            self._finals.pop(0)
            self._heard.add(final.result(), duration)
        heard, self._heard = self._heard, Heard()
        self.trace.mark("asr_final", turn, self._now())
        judged = self._understanding.judge(heard, self._expects(), bool(self._interrupted))
        self._note(
            {
                "type": "heard",
                "turn": turn,
                "text": heard.text,
                "confidence": round(heard.confidence, 3),
                "seconds": round(heard.duration, 2),
                "verdict": judged.verdict.name.lower(),
            }
        )
        interrupted, self._interrupted = self._interrupted, ""
        match judged.verdict:
            case Verdict.UNDERSTOOD:
                return self._answer(turn, heard.text)
            case Verdict.MISSED:
                self._caption("user", turn, heard.text, final=True, understood=False)
                choices = list(self._toolbox.choices)
                self._tell({"type": "choices", "turn": turn, "choices": choices})
                return self._thinking.line(turn, judged.line)
            case Verdict.NOISE:
                if self._partial:
                    self._caption("user", self._partial, "", final=True)
                return self._go_on(turn, interrupted)

    async def _answer(self, turn: int, text: str) -> AsyncGenerator[str, None]:
        """Answer the caller's words, after what is still to be said of a tool at work."""
        self._understanding.understood()
        self._caption("user", turn, text, final=True)
        async with aclosing(self._thinking.settle(turn)) as phrases:
            async for phrase in phrases:
                yield phrase
        if self._thinking.end:
            return
        self.context.caller_said(turn, text)
        async with aclosing(self._thinking.answer(turn)) as phrases:
            async for phrase in phrases:
                yield phrase

    def _go_on(self, turn: int, interrupted: str) -> AsyncGenerator[str, None]:
        """Say what a sound that meant nothing has cut off."""
        if self._thinking.working:
            return self._thinking.settle(turn)
        if not interrupted and self.context.unanswered:
            return self._thinking.answer(turn)
        return self._thinking.line(turn, interrupted)

    def _forget_spoken(self) -> None:
        for final, _ in self._finals:
            final.cancel()
        self._finals.clear()
        self._heard = Heard()

    async def _say(self, turn: int, words: AsyncGenerator[str, None]) -> None:
        """Speak phrases; tell the turn core how it goes."""
        crew = self._crew
        voice = self._settings.voice or crew.agent.voice
        resampler = Resampler(crew.mouth.rate, self.line.rate)
        async with aclosing(crew.mouth.speak(words, voice, self._now())) as chunks:
            async for chunk in chunks:
                if not self._turn.replying(turn):
                    return
                if not self._spoken.words:
                    self.trace.mark("tts_first", turn, self._now())
                for word in chunk.words:
                    self._spoken.starts.append(word.start * self.line.rate // crew.mouth.rate)
                    self._spoken.ends.append(word.end * self.line.rate // crew.mouth.rate)
                    self._spoken.words.append(word.text)
                self._playout.write(resampler.push(chunk.pcm))
                until = self._playout.until(self._now())
                self._receive(ReplyProgressed(turn, until))
                await asyncio.sleep(max(0.0, until - self._now() - MADE_AHEAD))
        self._playout.write(resampler.flush())
        self._playout.finish(lambda: self._played(turn))

    def _left(self, position: int) -> None:
        """Note that samples up to `position` of the reply have left."""
        spoken = self._spoken
        if not spoken.sent:
            spoken.sent = True
            self.trace.mark("sent", spoken.turn, self._now())
            trace = self.trace.of(spoken.turn)
            if (total := trace.total) is not None:
                stages = {name: round(value, 5) for name, value in trace.stages().items()}
                if self._settings.profile == "bench":
                    self._tell_markers(trace)
                self._tell(
                    {
                        "type": "turn",
                        "turn": spoken.turn,
                        "stages": stages,
                        "total": round(total, 5),
                    }
                )
        shown = bisect_right(spoken.starts, position)
        if shown > spoken.shown:
            spoken.shown = shown
            self._caption("agent", spoken.turn, " ".join(spoken.words[:shown]), final=False)

    def _tell_markers(self, trace: TurnTrace) -> None:
        """Tell the moments of a turn by the names that the comparison with other servers has."""
        for name, moment in MARKERS.items():
            if (at := trace.at(moment)) is not None:
                self.line.tell({"ev": name, "t": at})

    def _played(self, turn: int) -> None:
        """Note that the caller has heard the whole reply."""
        spoken, self._spoken = self._spoken, Spoken(0)
        if spoken.words:
            self._caption("agent", turn, " ".join(spoken.words), final=True)
        self._receive(ReplyPlayed(turn, self._thinking.end))

    def _stop_reply(self, turn: int) -> None:
        """Stop the sound and the work of reply `turn`, if either goes on."""
        if self._reply is not None:
            self._reply.cancel()
            self._reply = None
        if self._spoken.turn != turn:
            return  # it was heard to its end
        spoken, self._spoken = self._spoken, Spoken(0)
        heard = bisect_right(spoken.ends, self._playout.clear())
        self._interrupted = self.context.agent_heard(turn, heard) or self._interrupted
        if spoken.words:
            self.line.clear()
            self._tell({"type": "clear", "turn": turn})
            text = " ".join(spoken.words[:heard])
            self._caption("agent", turn, text, final=True, interrupted=True)

    # Odds and ends.

    def _expects(self) -> str:
        return self._understanding.expects or self._toolbox.expects

    def _opened(self, utterance: Utterance) -> None:
        self._spawn(self._show(utterance, self._turn.number + 1))

    async def _show(self, utterance: Utterance, turn: int) -> None:
        """Show the caller's words as they are recognised."""
        try:
            async for hypothesis in utterance.stream.hypotheses():
                if utterance is self._ears.utterance and hypothesis.text:
                    self._caption("user", turn, hypothesis.text, final=False)
        except asr.engine.EngineError:
            pass  # whoever asks for the final words hears of it

    def _caption(self, role: str, turn: int, text: str, *, final: bool, **more: bool) -> None:
        if role == "user":
            self._partial = 0 if final else turn
        caption = {"type": "captions", "turn": turn, "role": role, "text": text, "final": final}
        self._tell(caption | more)

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
        return asyncio.get_running_loop().time()

"""The agent's side of one call: replies are made, held back, let go, said and stopped."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from time import monotonic
from typing import Any, Protocol

import asr.engine
import llm.engine
import tts.engine
from asr.echo import EchoGuard
from latency.trace import Moment, TurnTrace
from latency.trace import Outcome as Fate
from transport.line import Line
from voice.answering import Answering
from voice.context import Context
from voice.crew import Crew
from voice.hearing import Ears, Final
from voice.prefill import Prefill
from voice.recording import Recording
from voice.reply import Thinking
from voice.settings import SessionSettings, Settings
from voice.speaking import Speaker
from voice.speculation import Attempt, Spent, Tally, timed
from voice.tools import Outcome, Toolbox
from voice.turn import Cause, Event, Floor, ReplyFailed, ReplyPlayed, ReplyProgressed, Turn
from voice.understanding import Understanding

log = logging.getLogger(__name__)

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


class Conversation(Protocol):
    """What the replies of a call need of it.

    Attributes:
        chosen: What the caller has chosen.
        budget: What they may have to wait for an answer, in seconds.
    """

    @property
    def chosen(self) -> SessionSettings: ...

    @property
    def budget(self) -> float: ...

    def feed(self, event: Event) -> None:
        """Feed the turn core, and do what it says."""

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """Run work that ends with the call, and ends the call if it fails."""

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tell an event to the caller and to the log."""

    def note(self, event: Mapping[str, Any]) -> None:
        """Tell an event to the log."""

    def keep(self, task: asyncio.Task[Outcome]) -> None:
        """Let a tool work to its end, whatever becomes of the reply that called it."""

    def expects(self) -> str:
        """Return the topic that the agent has just asked about."""

    def know_words(self, final: str) -> None:
        """Take all words of the caller's turn."""

    def forget_sound(self) -> None:
        """Forget a sound that was no interruption."""


class Replies:
    """The replies of one call, one after the other."""

    def __init__(
        self,
        call: Conversation,
        turn: Turn,
        crew: Crew,
        settings: Settings,
        line: Line,
        ears: Ears,
        echo: EchoGuard,
        context: Context,
        toolbox: Toolbox,
        understanding: Understanding,
        recording: Recording,
    ) -> None:
        """Get ready. `turn` is only looked at here; events for it go to `call`."""
        self.recording = recording
        self.speaker = Speaker(
            crew.pacer,
            line,
            call.tell,
            self._sent,
            self._audible,
            self._played,
            echo,
            lambda: self.thinking.working,
        )
        self.thinking = Thinking(
            prefill=Prefill(crew.mind),
            context=context,
            toolbox=toolbox,
            lines=crew.agent.lines,
            tool_timeout=settings.tool_timeout,
            lengths=lambda: crew.knobs.phrases,
            trace=recording.trace,
            tell=call.tell,
            keep=call.keep,
            decided=self.decided,
            due=self.due,
            params=llm.engine.Params(adapter=crew.agent.adapter),
        )
        self.answering = Answering(
            self, self.thinking, understanding, context, toolbox, call.note, call.tell
        )
        self.attempt: Attempt | None = None
        """The answer that is held back, if one is."""
        self.tally = Tally()
        """What the answers of this call cost."""
        self._call, self._turn, self._crew, self._settings = call, turn, crew, settings
        self._line, self._ears, self._context = line, ears, context
        self._trace = recording.trace
        self._reply: asyncio.Task[None] | None = None
        self._went_on = asyncio.Event()  # an answer was let go

    def expects(self) -> str:
        """Return the topic that the agent has just asked about."""
        return self._call.expects()

    def start(self, turn: int, cause: Cause, decided: float | None) -> None:
        """Answer, or let go what is held of this answer.

        It was due at `decided`, in monotonic seconds, if the caller waits for it.
        """
        now = monotonic()
        if cause is Cause.TYPED:  # what was being said meanwhile is taken back
            self._ears.drop()
            self.answering.words.forget()
        if decided is not None:
            self.recording.decided(turn, decided, cause is Cause.TYPED)
        attempt = self.attempt
        if attempt is not None and attempt.turn == turn and not attempt.failed:
            attempt.decided = True
            if attempt.checking is None:
                self._let_go(attempt)
            return
        self.drop_attempt()
        self.stop(turn - 1)
        if cause is Cause.SPOKEN:
            self._trace.mark("asr_start", turn, now)
            if (final := self._ears.finish(now)) is not None:
                self.answering.words.finals.append(final)
        else:
            self.answering.interrupted = ""
        self._make(turn, cause)

    def _make(self, turn: int, cause: Cause, *, held: bool = False) -> None:
        """Begin to make a reply and to say it, or to hold it."""
        self.speaker.begin(turn, self._crew.mouth.rate, held=held)
        spent = self.attempt.spent if held and self.attempt else Spent()
        self._reply = self._call.spawn(self._make_reply(turn, cause, spent))

    async def _make_reply(self, turn: int, cause: Cause, spent: Spent) -> None:
        try:
            async with aclosing(self.answering.phrases(turn, cause, spent)) as phrases:
                await self._say(turn, phrases, spent)
        except ENGINE_ERRORS as error:
            log.warning("call %s, turn %d: %s", self.recording.call, turn, error)
            self._call.note({"type": "failed", "turn": turn, "message": str(error)})
            if self._turn.replying(turn):
                self._over_reply(turn, "failed")
            if self.attempt is not None and self.attempt.turn == turn:
                self.attempt.failed = spent.wasted = True
            self._call.feed(ReplyFailed(turn))
        finally:
            self.tally.add(spent)
            self.recording.spent(turn, spent)
            work = {"type": "work", "turn": turn, "wasted": spent.wasted}
            self._call.note(work | {"seconds": spent.rounded()})

    # Answers before the decision.

    def speculate(self, turn: int) -> None:
        """Make the answer to the words so far, unless it is being made."""
        if self.attempt is not None:
            self._check(self.attempt)
            return
        if self.thinking.working or not self._crew.may_speculate():
            return
        now = monotonic()
        if (final := self._ears.settle(self._turn.decides_at(now))) is not None:
            self._begin_attempt(turn, final, now)

    def _begin_attempt(self, turn: int, final: Final, asked: float) -> None:
        """Begin to answer words that the recogniser was asked for at `asked`."""
        self._trace.mark("speculation", turn, monotonic())
        self._trace.mark("asr_start", turn, asked)
        self.attempt = Attempt(turn, monotonic(), self.answering.snapshot())
        self.tally.starts += 1
        self.answering.words.finals.append(final)
        self._make(turn, Cause.SPOKEN, held=True)

    def _check(self, attempt: Attempt) -> None:
        """After a little more sound: keep the answer if the words are the same, else anew."""
        if (final := self._ears.settle(self.due(attempt.turn))) is None:
            return
        asked = monotonic()
        self._trace.mark("asr_start", attempt.turn, asked)
        attempt.checking = final[0]

        async def check() -> None:
            await asyncio.wait({final[0]})
            if self.attempt is not attempt or attempt.checking is not final[0]:
                return  # it is dropped, or looked at once more
            failed = final[0].cancelled() or final[0].exception() is not None
            attempt.checking = None
            if not failed and not attempt.failed and attempt.answers(final[0].result().text):
                self._trace.mark("asr_final", attempt.turn, monotonic())
                if attempt.decided:
                    self._let_go(attempt)
                return
            turn, decided = attempt.turn, attempt.decided
            self.drop_attempt()
            self._begin_attempt(turn, final, asked)
            if decided:
                assert self.attempt is not None
                self._let_go(self.attempt)

        self._call.spawn(check())

    def _let_go(self, attempt: Attempt) -> None:
        """Let an answer that was held be heard: the caller is done."""
        self.attempt = None
        self.tally.kept += 1
        self._call.note({"type": "speculation", "turn": attempt.turn, "kept": True})
        self.recording.overlapped = monotonic() - attempt.began
        finals = self.answering.words.finals
        self._ears.leave(finals[-1][0] if finals else None)
        for effect in attempt.effects:
            effect()
        self._trace.mark("let_go", attempt.turn, monotonic())
        self.speaker.release()
        if self.speaker.began:
            self._call.feed(ReplyProgressed(attempt.turn, self.speaker.until()))
        self._went_on.set()

    def drop_attempt(self) -> None:
        """Forget the held answer and all that making it has changed."""
        attempt, self.attempt = self.attempt, None
        if attempt is None:
            return
        attempt.spent.wasted = True
        self._call.note({"type": "speculation", "turn": attempt.turn, "kept": False})
        if self._reply is not None:
            self._reply.cancel()
            self._reply = None
        self.speaker.stop(attempt.turn)
        self.recording.dropped(attempt.turn, monotonic())
        self.answering.restore(attempt.before)

    def knows_words(self, turn: int, text: str) -> None:
        """Take all words of a turn, once they are known."""
        if self.attempt is not None and self.attempt.turn == turn:
            self.attempt.text = text
            self._call.know_words(text)

    async def decided(self, turn: int) -> None:
        """Return once it is decided that turn `turn` is to be answered."""
        while self.attempt is not None and self.attempt.turn == turn:
            self._went_on.clear()
            await self._went_on.wait()

    def due(self, turn: int) -> float:
        """Return when the next result of reply `turn` is wanted, in `monotonic` seconds.

        Of a reply that is held: when it will be decided that the caller is done. Of any other: now.
        """
        attempt, now = self.attempt, monotonic()
        held = attempt is not None and attempt.turn == turn and not attempt.decided
        return self._turn.decides_at(now) if held else now

    def once_decided(self, turn: int, effect: Callable[[], None]) -> None:
        """Do something now, or when the held answer `turn` is let go; never if it is dropped."""
        if self.attempt is not None and self.attempt.turn == turn:
            self.attempt.effects.append(effect)
        else:
            effect()

    async def _say(self, turn: int, phrases: AsyncGenerator[str, None], spent: Spent) -> None:
        """Speak phrases; tell the turn core how it goes."""
        crew, speaker = self._crew, self.speaker
        first = await anext(phrases, None)
        if first is None:
            speaker.end()
            return
        # The mouth waits for phrases, and whoever waits for the mouth waits for them, too.
        words = timed(_before(first, phrases), lambda seconds: spent.add("tts", -seconds))
        self._trace.mark("tts_start", turn, monotonic())
        spoken = crew.mouth.speak(words, self._call.chosen.voice, self.due(turn))
        speech = timed(spoken, partial(spent.add, "tts"))
        async with aclosing(speech) as chunks:
            async for chunk in chunks:
                if not speaker.began:
                    now = monotonic()
                    self._trace.mark("tts_first", turn, now)
                    if not speaker.held:
                        self._trace.mark("let_go", turn, now)
                speaker.take(chunk)
                self._trace.of(turn).audio = speaker.seconds
                if speaker.held:  # also when it was decided, while the words are looked at again
                    continue
                until = speaker.until()
                self._call.feed(ReplyProgressed(turn, until))
                if until - monotonic() > MADE_AHEAD:
                    await asyncio.sleep(until - monotonic() - MADE_AHEAD)
        speaker.end()

    def _sent(self, turn: int) -> None:
        """Note that the first frame of a reply has left."""
        self._trace.mark("sent", turn, monotonic())

    def _audible(self, turn: int, at: float) -> None:
        """Note that the first sound of a reply has left, and is heard at `at`."""
        trace = self.recording.heard(turn, at, self._call.budget, monotonic())
        if trace is not None and self._settings.profile == "bench":
            self._tell_markers(trace)

    def _tell_markers(self, trace: TurnTrace) -> None:
        """Tell the moments of a turn by the names that the comparison with other servers has."""
        for name, moment in MARKERS.items():
            if (at := trace.at(moment)) is not None:
                self._line.tell({"ev": name, "t": at})

    def _played(self, turn: int) -> None:
        """Note that the caller has heard the whole reply."""
        if self._ears.utterance is not None:  # a sound that was no interruption, until now
            self._call.forget_sound()
        self._over_reply(turn, "played")
        self._call.feed(ReplyPlayed(turn, self.thinking.end))

    def _over_reply(self, turn: int, outcome: Fate) -> None:
        """Note what became of a reply."""
        self.recording.over(turn, outcome, self.speaker.underruns, self._reply)

    def close(self) -> None:
        """Be silent; what is still being said then, the call's own failure has cut off."""
        if (turn := self.speaker.turn) != 0:
            self._over_reply(turn, "failed")
            self.speaker.stop(turn)

    def stop(self, turn: int, stalled: bool = False) -> None:
        """Stop the sound and the work of reply `turn`, if either goes on; tell if it `stalled`."""
        saying, making = self.speaker.turn == turn, self._reply
        if self.attempt is not None and self.attempt.turn == turn:
            self.drop_attempt()  # it was decided, but not yet whether its words are all
        if saying:
            left = self._turn.floor is Floor.OVER
            fate: Fate = "failed" if stalled else "hung_up" if left else "interrupted"
            self.recording.over(turn, fate, self.speaker.underruns, making)
        if self._reply is not None:
            self._reply.cancel()
            self._reply = None
        heard = self.speaker.stop(turn)
        if heard is not None:
            cut = self._context.agent_heard(turn, heard)
            self.answering.interrupted = cut or self.answering.interrupted


async def _before(first: str, rest: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    yield first
    async for phrase in rest:
        yield phrase

"""What the agent says next: the caller's sound is understood or not, and answered."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Protocol

from asr.engine import Word
from voice.context import Context
from voice.hearing import Words
from voice.reply import Thinking
from voice.speculation import Before, Spent
from voice.tools import Toolbox
from voice.turn import Cause
from voice.understanding import Understanding, Verdict


class Call(Protocol):
    """What an answer needs of its call."""

    def expects(self) -> str:
        """Return the topic that the agent has just asked about."""

    def knows_words(self, turn: int, text: str) -> None:
        """Take all words of a turn, once they are known."""

    def once_decided(self, turn: int, effect: Callable[[], None]) -> None:
        """Do something once it is decided that turn `turn` is to be answered."""

    async def decided(self, turn: int) -> None:
        """Return once that is decided."""


@dataclass(slots=True)
class Answering:
    """The answers of one call.

    Attributes:
        call: The call.
        thinking: Asks the model and its tools.
        understanding: Decides what is acted on.
        context: The conversation so far.
        toolbox: The call's tools.
        note: Takes events for the log.
        tell: Takes events for the caller, too.
    """

    call: Call
    thinking: Thinking
    understanding: Understanding
    context: Context
    toolbox: Toolbox
    note: Callable[[Mapping[str, Any]], None]
    tell: Callable[[Mapping[str, Any]], None]
    words: Words = field(default_factory=Words)
    """What the caller said since the last answer."""
    typed: list[str] = field(default_factory=list)
    """What they typed since."""
    interrupted: str = ""
    """What the agent was saying when it was cut off."""
    _partial: int = 0
    """Turn of a caption of the caller's words that is not final yet."""

    def snapshot(self) -> Before:
        """Return what `restore` takes, should the next answer be dropped."""
        return Before(
            tuple(self.context.snapshot()),
            self.words.copy(),
            self.understanding.misses,
            self.understanding.expects,
            self.interrupted,
        )

    def restore(self, before: Before) -> None:
        """Forget all that an answer has changed."""
        self.context.restore(before.context)
        self.words.drop(before.words)
        self.understanding.misses = before.misses
        self.understanding.expects = before.expects
        self.interrupted = before.interrupted

    def read_ahead(self, committed: Sequence[Word]) -> None:
        """Let the model read what will not change of the caller's turn, which goes on.

        `committed` are such words of the utterance being heard.
        """
        if committed and not self.words.finals:  # else words are missing before these
            said = " ".join(word.text for word in committed)
            self.thinking.read_ahead(f"{self.words.heard.text} {said}".strip())

    async def phrases(self, turn: int, cause: Cause, spent: Spent) -> AsyncGenerator[str, None]:
        """Yield the phrases of a reply; of one that is held, only the first."""
        lines, thinking = self.thinking.lines, self.thinking
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
                text = " ".join(self.typed)
                self.typed.clear()
                phrases = self._answer(turn, text, spent)
            case Cause.SPOKEN:
                phrases = await self._answer_spoken(turn, spent)
        async with aclosing(phrases):
            async for phrase in phrases:
                yield phrase
                await self.call.decided(turn)

    async def _answer_spoken(self, turn: int, spent: Spent) -> AsyncGenerator[str, None]:
        """Decide what the caller's sound was, and answer that."""
        asked = monotonic()
        try:
            heard = await self.words.all()
        finally:
            spent.add("asr", monotonic() - asked)
        self.thinking.trace.mark("asr_final", turn, monotonic())
        self.thinking.trace.of(turn).words = heard.duration
        self.call.knows_words(turn, heard.text)
        judged = self.understanding.judge(heard, self.call.expects(), bool(self.interrupted))
        note = {
            "type": "heard",
            "turn": turn,
            "text": heard.text,
            "confidence": round(heard.confidence, 3),
            "seconds": round(heard.duration, 2),
            "verdict": judged.verdict.name.lower(),
        }
        self.call.once_decided(turn, partial(self.note, note))
        interrupted, self.interrupted = self.interrupted, ""
        match judged.verdict:
            case Verdict.UNDERSTOOD:
                return self._answer(turn, heard.text, spent)
            case Verdict.MISSED:
                self.thinking.trace.of(turn).missed = True
                self.call.once_decided(turn, partial(self._show_missed, turn, heard.text))
                return self.thinking.line(turn, judged.line)
            case Verdict.NOISE:
                self.call.once_decided(turn, self.take_back_caption)
                return self._go_on(turn, interrupted, spent)

    async def _answer(self, turn: int, text: str, spent: Spent) -> AsyncGenerator[str, None]:
        """Answer the caller's words, after what is still to be said of a tool at work."""
        self.understanding.understood()
        self.call.once_decided(turn, partial(self.caption, turn, text, final=True))
        async with aclosing(self.thinking.settle(turn)) as phrases:
            async for phrase in phrases:
                yield phrase
        if self.thinking.end:
            return
        self.context.caller_said(turn, text)
        async with aclosing(self.thinking.answer(turn, spent)) as phrases:
            async for phrase in phrases:
                yield phrase

    def _go_on(self, turn: int, interrupted: str, spent: Spent) -> AsyncGenerator[str, None]:
        """Say what a sound that meant nothing has cut off."""
        if self.thinking.working:
            return self.thinking.settle(turn)
        if not interrupted and self.context.unanswered:
            return self.thinking.answer(turn, spent)
        return self.thinking.line(turn, interrupted)

    # What is shown of the caller's words.

    def caption(self, turn: int, text: str, *, final: bool, **more: bool) -> None:
        """Show what the caller said."""
        self._partial = 0 if final else turn
        caption = {"type": "captions", "turn": turn, "role": "user", "text": text, "final": final}
        self.tell(caption | more)

    def take_back_caption(self) -> None:
        """Show that what was shown last was nothing."""
        if self._partial:
            self.caption(self._partial, "", final=True)

    def _show_missed(self, turn: int, text: str) -> None:
        self.caption(turn, text, final=True, understood=False)
        choices = list(self.toolbox.choices)
        self.tell({"type": "choices", "turn": turn, "choices": choices})

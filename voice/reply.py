"""From the model's tokens to phrases worth speaking, with tools run on the way."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from latency.trace import CallTrace
from llm.engine import EngineError, Params, Text, ToolCall, ToolResult
from tts.phrases import Phrases, PhraseSettings
from voice.agent import Lines
from voice.context import Context
from voice.prefill import Prefill
from voice.speculation import Spent, timed
from voice.tools import Outcome, Toolbox, ToolError

PATIENCE = 0.7
"""Seconds a tool may take before the caller is asked to wait."""

MAX_ROUNDS = 5
"""How often one reply may call tools; a model that calls for ever has failed."""


@dataclass(slots=True)
class Thinking:
    """What one call needs to find its answers.

    Attributes:
        prefill: The language model, which may have read the caller's words already.
        context: The conversation; what is said and done is added to it.
        toolbox: The call's tools.
        lines: What the agent says by itself.
        tool_timeout: Seconds a tool may take.
        lengths: Tells how long phrases are, anew for every reply.
        trace: Takes the moments of a turn.
        tell: Takes the events that the caller's side may want to show.
        keep: Keeps a task alive until it is done; a tool at work is never cut off.
        decided: Returns once it is decided that the caller of a turn is done: no tool runs before.
        params: How the model answers.
        due: Tells when the next result of a reply is wanted, in `monotonic` seconds.
    """

    prefill: Prefill
    context: Context
    toolbox: Toolbox
    lines: Lines
    tool_timeout: float
    lengths: Callable[[], PhraseSettings]
    trace: CallTrace
    tell: Callable[[Mapping[str, Any]], None]
    keep: Callable[[asyncio.Task[Outcome]], None]
    decided: Callable[[int], Awaitable[None]]
    due: Callable[[int], float]
    params: Params
    end: str = field(default="", init=False)
    """Why the call ends after the latest answer, "" if it goes on."""
    _working: asyncio.Task[Outcome] | None = field(default=None, init=False)
    """The tool at work, or done and not yet spoken about."""
    _told: bool = field(default=False, init=False)
    """Whether the caller has been given an answer in this reply."""

    @property
    def working(self) -> bool:
        """Whether a tool is at work, or its outcome was not spoken about yet."""
        return self._working is not None

    def read_ahead(self, words: str) -> None:
        """Let the model read all `words` so far that the caller's turn surely begins with."""
        if self.prefill.useful and not self.working:
            self.prefill.read(self.context.items(), self.toolbox.specs, words)

    async def line(self, turn: int, text: str) -> AsyncGenerator[str, None]:
        """Yield phrases of the agent's own words; no model is asked."""
        self.end = ""
        self.prefill.close()
        for phrase in self._said(turn, text):
            yield phrase

    async def answer(self, turn: int, spent: Spent) -> AsyncGenerator[str, None]:
        """Yield phrases that answer the conversation, as soon as each can be spoken.

        The model's time is added to `spent`.

        Raises:
            EngineError: If the model failed, or called tools without end.
        """
        self.end, self._told = "", False
        for _ in range(MAX_ROUNDS):
            calls: list[ToolCall] = []
            async with aclosing(self._generate(turn, calls, spent)) as phrases:
                async for phrase in phrases:
                    self._told = True
                    yield phrase
            self._told = self._told and not calls
            for call in calls:
                await self.decided(turn)
                self._begin(turn, call)
                async with aclosing(self.settle(turn)) as phrases:
                    async for phrase in phrases:
                        yield phrase
                if self.end:
                    return
            if self._told or not calls:
                break
        else:
            raise EngineError(f"the model called tools {MAX_ROUNDS} times without an answer")
        if not self._told:
            raise EngineError("the model answered nothing")

    async def settle(self, turn: int) -> AsyncGenerator[str, None]:
        """Yield what is to be said of the tool at work, if one is; wait for it.

        A reply may be cut off while a tool works. The tool goes on, and the next reply
        begins with this.
        """
        self.end = ""
        if self._working is None:
            return
        now = monotonic
        self.trace.mark("tool_start", turn, now())
        if not self._working.done():
            await asyncio.wait({self._working}, timeout=PATIENCE)
        if not self._working.done():
            self.trace.mark("tool_end", turn, now())  # what is waited for now is the voice
            for phrase in self._said(turn, self.lines.wait):
                yield phrase
            self.trace.mark("tool_start", turn, now())
            await asyncio.wait({self._working}, timeout=self.tool_timeout - PATIENCE)
        self.trace.mark("tool_end", turn, now())
        task, self._working = self._working, None
        if not task.done():
            self._told = True
            for phrase in self._said(turn, self.lines.tool_slow):
                yield phrase
            return
        outcome = task.result()
        self.end, self._told = outcome.end, bool(outcome.say or outcome.end)
        for phrase in self._said(turn, outcome.say):
            yield phrase

    async def _generate(
        self, turn: int, calls: list[ToolCall], spent: Spent
    ) -> AsyncGenerator[str, None]:
        """Yield the phrases of one generation; put its tool calls into `calls`."""
        now = monotonic
        phrases, pace, first = self._phrases(), self.trace.pace(turn), True
        self.trace.mark("llm_start", turn, now())
        thread = self.prefill.take(self.context.items(), self.toolbox.specs)
        try:
            generation = thread.generate(self.params, self.due(turn))
            async with aclosing(timed(generation, partial(spent.add, "llm"))) as pieces:
                asked = now()
                async for piece in pieces:
                    came = now()
                    if first:
                        self.trace.mark("llm_first", turn, came)
                        first = False
                    if isinstance(piece, ToolCall):
                        calls.append(piece)
                    elif isinstance(piece, Text):
                        pace.came(asked, came)
                        for phrase in phrases.push(piece.text):
                            yield self._noted(turn, phrase)
                    asked = now()
        finally:
            thread.close()
        for phrase in phrases.flush():
            yield self._noted(turn, phrase)

    def _begin(self, turn: int, call: ToolCall) -> None:
        """Set a tool to work."""
        self._working = asyncio.create_task(self._use(turn, call))
        self.keep(self._working)

    async def _use(self, turn: int, call: ToolCall) -> Outcome:
        """Call the tool; note call and result in the conversation, whoever still listens."""
        event: dict[str, Any] = {
            "type": "tool",
            "turn": turn,
            "name": call.name,
            "arguments": dict(call.arguments),
        }
        try:
            outcome = await self.toolbox.call(call.name, call.arguments, turn)
            self.tell(event | {"result": dict(outcome.output)})
        except ToolError as error:
            outcome = Outcome(output={"error": str(error)}, say=self.lines.tool_failed)
            self.tell(event | {"error": str(error)})
        result = ToolResult(call.id, call.name, outcome.output)
        self.context.tool_called(turn, call, result)
        return outcome

    def _said(self, turn: int, text: str) -> list[str]:
        """Cut the agent's own words into phrases and note them."""
        phrases = self._phrases()
        return [self._noted(turn, phrase) for phrase in (*phrases.push(text), *phrases.flush())]

    def _phrases(self) -> Phrases:
        """Return what cuts the next text into phrases."""
        lengths = self.lengths()
        return Phrases(lengths.first, lengths.later)

    def _noted(self, turn: int, phrase: str) -> str:
        """Note in the conversation that `phrase` is about to be said."""
        self.trace.mark("phrase", turn, monotonic())
        self.context.agent_says(turn, phrase)
        return phrase

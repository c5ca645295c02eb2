"""Ears in an engine process; see `voice.engine_remote`."""

import asyncio
from collections.abc import AsyncIterator

from asr.engine import EngineError, Hypothesis, Listening, Pcm
from asr.latest import Latest
from llm.engine import Json
from voice.engine_process import EngineProcess
from voice.engine_remote import Remote
from voice.engine_wire import Kind, hypothesis, to_raw


class RemoteEars(Remote):
    """A recogniser in an engine process; see `asr.engine.Engine`."""

    def __init__(self, process: EngineProcess, name: str) -> None:
        super().__init__(process, name, "ears")

    async def start(self) -> None:
        """Start the process and wait until it has loaded.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        await self._start(EngineError)

    def open(self, listening: Listening) -> "RemoteStream":
        """Begin one utterance; never blocks."""
        return RemoteStream(self._process, listening)


class RemoteStream:
    """One utterance, heard in an engine process; see `asr.engine.Stream`."""

    def __init__(self, process: EngineProcess, listening: Listening) -> None:
        self._process = process
        self._latest = Latest(Hypothesis())
        self._failure = ""
        self._asked: set[Question] = set()
        self._final: asyncio.Task[Hypothesis] | None = None
        self._number = process.begin(self, Kind.LISTEN, listening)

    def push(self, pcm: Pcm) -> None:
        """Add samples; they leave for the process at once."""
        self._process.send(Kind.PUSH, self._number, None, to_raw(pcm))

    def hypotheses(self) -> AsyncIterator[Hypothesis]:
        """Yield a hypothesis whenever it changed; end after `finish` or `close`."""
        return self._latest.each()

    async def settle(self, deadline: float) -> Hypothesis:
        """Return what `finish` would; see `asr.engine.Stream.settle`.

        Raises:
            EngineError: If the recogniser failed or died during this utterance.
        """
        return await self._ask(Kind.SETTLE, deadline)

    async def finish(self, deadline: float) -> Hypothesis:
        """Return the final words.

        Raises:
            EngineError: If the recogniser failed or died during this utterance.
        """
        if self._final is None:
            self._final = asyncio.create_task(self._finish(deadline))
            self._final.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._final)

    def close(self) -> None:
        """Stop the work, also in the model. Safe at any time, also twice."""
        if not self._latest.over:
            self._process.close(self._number)
            self.fail("the utterance was closed before its end")

    # What the process calls.

    def item(self, value: Json, raw: bytearray) -> None:
        """Take what the recogniser believes."""
        self._latest.tell(hypothesis(value))

    def want(self) -> None:
        """Utterances want nothing."""

    def done(self, value: Json) -> None:
        """Utterances are never done of their own accord."""

    def fail(self, reason: str) -> None:
        """End without an answer; whoever waits for one is told `reason`."""
        if self._latest.over:
            return
        self._failure = reason
        self._end()
        for question in list(self._asked):
            question.close()
            question.fail(reason)

    async def _ask(self, kind: Kind, deadline: float) -> Hypothesis:
        if self._failure:
            raise EngineError(self._failure)
        question = Question(self._process)
        self._asked.add(question)
        try:
            return hypothesis(await question.ask(kind, [self._number, deadline]))
        finally:
            self._asked.discard(question)
            question.close()

    async def _finish(self, deadline: float) -> Hypothesis:
        final = await self._ask(Kind.FINISH, deadline)
        if not self._latest.over:
            self._process.close(self._number)
            self._latest.tell(final)
            self._end()
        return final

    def _end(self) -> None:
        self._latest.end()


class Question:
    """Something asked about an utterance, and its answer."""

    def __init__(self, process: EngineProcess) -> None:
        self._process = process
        self._number = 0
        self._answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()

    async def ask(self, kind: Kind, value: Json) -> Json:
        """Return the answer; whoever waits may be cancelled."""
        self._number = self._process.begin(self, kind, value)
        return await self._answer

    def close(self) -> None:
        """Take the question back, if it is not answered."""
        self._process.close(self._number)

    def item(self, value: Json, raw: bytearray) -> None:
        """Questions have one answer."""

    def want(self) -> None:
        """Questions want nothing."""

    def done(self, value: Json) -> None:
        """Take the answer."""
        if not self._answer.done():
            self._answer.set_result(value)

    def fail(self, reason: str) -> None:
        """There is none."""
        if not self._answer.done():
            self._answer.set_exception(EngineError(reason))

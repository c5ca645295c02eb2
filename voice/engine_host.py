"""The engines of an engine process, and all their work: messages in, messages out.

Threads, batching and models are the engines' own affair; this only calls them, on the loop
that it runs on, and sends on what they return.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import asr.engine
import llm.engine
import tts.engine
from llm.engine import Json
from voice.engine_wire import (
    CHUNKS_AHEAD,
    PIECES_AHEAD,
    Kind,
    from_raw,
    made,
    tagged,
    to_raw,
    untagged,
)

log = logging.getLogger(__name__)

ERRORS = (asr.engine.EngineError, llm.engine.EngineError, tts.engine.EngineError)
"""What engines raise with a message for people; anything else is a fault in one of them."""

POISONED = re.compile(
    "illegal memory access|device-side assert|unspecified launch failure|misaligned address|"
    "illegal instruction|uncorrectable ECC"
)
"""What a CUDA error says after which nothing works any more in its process (CUDA's runtime API,
cudaError: "the process must be terminated and relaunched")."""

Tell = Callable[..., None]
"""Sends a message: kind, number, structure, samples."""


def built(value: Json) -> Any:
    """Make what `voice.engine_wire.plan` described."""
    match value:
        case {"make": str(target), "arguments": list(arguments), "keywords": dict(keywords)}:
            module, _, name = target.partition(":")
            make = getattr(import_module(module), name)
            given = {key: built(argument) for key, argument in keywords.items()}
            return make(*map(built, arguments), **given)
        case _:
            return value


def reason(error: BaseException) -> str:
    """Return an error's own words; those of a fault with its kind."""
    if isinstance(error, ERRORS):
        return str(error)
    return f"{type(error).__name__}: {error}"


@dataclass(slots=True)
class Allowance:
    """How many results of one work may still be made, before more of them are taken."""

    left: int
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, taken: int) -> None:
        """Let as many more be made."""
        self.left += taken
        self._more.set()

    async def room(self) -> None:
        """Wait until one more may be made."""
        while self.left <= 0:
            self._more.clear()
            await self._more.wait()


class Phrases:
    """The phrases of one speech, asked for one by one: the model that writes them waits too."""

    def __init__(self, want: Callable[[], None]) -> None:
        self._want = want
        self._come: asyncio.Queue[str | None] = asyncio.Queue()
        self._asked = True  # the first comes unasked
        self._ended = False

    def put(self, phrase: str | None) -> None:
        """Take the next phrase; None after the last."""
        self._come.put_nowait(phrase)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        if self._ended:
            raise StopAsyncIteration
        if not self._asked:
            self._asked = True
            self._want()
        phrase = await self._come.get()
        self._asked = False
        if phrase is None:
            self._ended = True
            raise StopAsyncIteration
        return phrase


class Host:
    """The engines of this process and all their work, by number."""

    def __init__(self, tell: Tell) -> None:
        self.ears: asr.engine.Engine | None = None
        self.mind: llm.engine.Engine | None = None
        self.mouth: tts.engine.Engine | None = None
        self._tell = tell
        self._turns: Any = None
        self._poisoned: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._streams: dict[int, asr.engine.Stream] = {}
        self._threads: dict[int, llm.engine.Thread] = {}
        self._allowed: dict[int, Allowance] = {}
        self._phrases: dict[int, Phrases] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def engines(self) -> dict[str, Any]:
        """What there is, by its room."""
        every = {"ears": self.ears, "mind": self.mind, "mouth": self.mouth}
        return {room: engine for room, engine in every.items() if engine is not None}

    async def start(self, plans: Json) -> dict[str, Json]:
        """Build and load what `plans` describes; return what the media process is to know of it.

        Raises:
            Exception: Whatever an engine cannot do.
        """
        self._turns = built(plans["turns"])
        shared = {} if self._turns is None else {"turns": self._turns}
        for room, described in plans["engines"].items():
            given = {**described["keywords"], **(shared if room != "mind" else {})}
            engine = built({**described, "keywords": given})
            setattr(self, room, engine)
            await engine.start()
        known = ("about", "rate", "voices", "prefills", "adjustable")
        return {
            room: {name: getattr(engine, name) for name in known if hasattr(engine, name)}
            for room, engine in self.engines.items()
        }

    async def stop(self) -> None:
        """End all work and free the engines."""
        tasks = list(self._tasks.values())
        for number in (*self._tasks, *self._streams, *self._threads):
            self._close(number)
        await asyncio.gather(*tasks, return_exceptions=True)
        for engine in self.engines.values():
            await engine.stop()

    async def failed(self) -> str:
        """Return why this process will never work again, once an engine or an error says so."""
        waits = {self._poisoned: ""}
        for engine in self.engines.values():
            if hasattr(engine, "wait_failed"):
                waits[asyncio.ensure_future(engine.wait_failed())] = engine.name
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        first = done.pop()
        said = first.exception() or first.result()
        return f"{waits[first]} has failed: {said}".removeprefix(" has failed: ")

    def faring(self) -> dict[str, Json]:
        """Return how the engines fare: their work on the device by kind, and a mind's load."""
        device = self._turns.stats() if hasattr(self._turns, "stats") else {}
        return {"device": dict(device), "load": getattr(self.mind, "load", None)}

    def receive(self, kind: Kind, number: int, value: Json, raw: bytearray) -> None:
        """Take one message; what it asks for happens in a task, or now if it is but a moment."""
        try:
            match kind:
                case Kind.PUSH:
                    if (stream := self._streams.get(number)) is not None:
                        stream.push(from_raw(raw))
                case Kind.LISTEN if self.ears is not None:
                    stream = self.ears.open(made(asr.engine.Listening, value))
                    self._streams[number] = stream
                    self._run(number, partial(self._listen, number, stream))
                case Kind.SETTLE | Kind.FINISH:
                    self._ask(kind, number, *value)
                case Kind.OPEN if self.mind is not None:
                    items, tools = value
                    specs = [made(llm.engine.ToolSpec, tool) for tool in tools]
                    self._threads[number] = self.mind.open(list(map(untagged, items)), specs)
                case Kind.APPEND:
                    if (thread := self._threads.get(number)) is not None:
                        thread.append(value)
                case Kind.GENERATE:
                    self._generate(number, *value)
                case Kind.SPEAK if self.mouth is not None:
                    self._phrases[number] = Phrases(partial(self._tell, Kind.WANT, number))
                    self._allowed[number] = Allowance(CHUNKS_AHEAD)
                    self._run(number, partial(self._speak, number, *value))
                case Kind.PHRASE:
                    if (phrases := self._phrases.get(number)) is not None:
                        phrases.put(value)
                case Kind.MORE:
                    if (allowed := self._allowed.get(number)) is not None:
                        allowed.add(value)
                case Kind.CLOSE:
                    self._close(number)
                case Kind.RESERVE:
                    self._turns.reserve(number, *value)
                case Kind.RELEASE:
                    self._turns.release(number)
                case Kind.ADJUST:
                    room, name, setting = value
                    self.engines[room].adjust(name, setting)
                case _:
                    raise ValueError(f"an engine process does not expect {kind.name}")
        except Exception as error:  # engines raise whatever comes to their mind
            self._fail(number, error)
            self._close(number)

    def _ask(self, kind: Kind, number: int, utterance: int, deadline: float) -> None:
        stream = self._streams.get(utterance)
        if stream is None:
            raise asr.engine.EngineError("the utterance was closed before its end")
        ask = stream.settle if kind is Kind.SETTLE else stream.finish
        self._run(number, partial(ask, deadline))

    def _generate(self, number: int, answer: int, params: dict[str, Json], deadline: float) -> None:
        thread = self._threads.get(answer)
        if thread is None:
            raise llm.engine.EngineError("this answer was never begun, or is closed")
        self._allowed[number] = Allowance(PIECES_AHEAD)
        given = made(llm.engine.Params, params)
        self._run(number, partial(self._think, number, thread, given, deadline))

    async def _listen(self, number: int, stream: asr.engine.Stream) -> None:
        async for hypothesis in stream.hypotheses():
            self._tell(Kind.ITEM, number, hypothesis)

    async def _think(
        self, number: int, thread: llm.engine.Thread, params: llm.engine.Params, deadline: float
    ) -> None:
        pieces = thread.generate(params, deadline)
        await self._pour(number, pieces, lambda piece: (tagged(piece), b""))

    async def _speak(self, number: int, voice: str, deadline: float) -> None:
        assert self.mouth is not None
        speech = self.mouth.speak(self._phrases[number], voice, deadline)
        await self._pour(number, speech, lambda chunk: (chunk.words, to_raw(chunk.pcm)))

    async def _pour(
        self,
        number: int,
        results: AsyncGenerator[Any, None],
        parts: Callable[[Any], tuple[Json, bytes]],
    ) -> None:
        """Send results, each made only once the media process has room for it."""
        allowed = self._allowed[number]
        async with aclosing(results):
            await allowed.room()
            async for result in results:
                self._tell(Kind.ITEM, number, *parts(result))
                allowed.left -= 1
                await allowed.room()

    def _run(self, number: int, work: Callable[[], Awaitable[Json]]) -> None:
        """Do some work in a task, which `_close` ends."""
        self._tasks[number] = asyncio.create_task(self._work(number, work))

    async def _work(self, number: int, work: Callable[[], Awaitable[Json]]) -> None:
        try:
            answer = await work()
        except asyncio.CancelledError:
            if number in self._tasks:  # not by us
                self._fail(number, RuntimeError("the engine broke it off"))
                self._forget(number)
            raise
        except Exception as error:  # engines raise whatever comes to their mind
            if number in self._tasks:
                self._fail(number, error)
            self._forget(number)
            self._close(number)
        else:
            if number in self._tasks and number not in self._streams:  # those are never done
                self._tell(Kind.DONE, number, answer)
            self._forget(number)

    def _fail(self, number: int, error: Exception) -> None:
        if not isinstance(error, ERRORS):
            log.error("a fault in an engine", exc_info=error)
        self._tell(Kind.FAILED, number, reason(error))
        if POISONED.search(str(error)) and not self._poisoned.done():
            self._poisoned.set_result(reason(error))

    def _close(self, number: int) -> None:
        """Stop the work of this number, whatever it is."""
        task = self._tasks.pop(number, None)
        self._forget(number)
        for kept in (self._streams, self._threads):
            opened = kept.pop(number, None)
            if opened is not None:
                opened.close()
        if task is not None:
            task.cancel()

    def _forget(self, number: int) -> None:
        for kept in (self._tasks, self._allowed, self._phrases):
            kept.pop(number, None)

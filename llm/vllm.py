"""A language model on vLLM, in this process: the answers of all calls together, by deadline.

The prompt is read while the caller speaks. With the first `append` a request begins that takes
its prompt in pieces (vLLM's `StreamingInput`): what is settled of it, whatever is said next, is
read at once, and `generate` adds the few tokens that are left. Where that cannot serve (an
answer by a schema, another adapter, words that change the prompt from its beginning, no room),
the request is dropped and an ordinary one finds its tokens in the prefix cache.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from llm.engine import EngineError, Item, Message, Params, Text, ToolCall, ToolSpec, Usage
from llm.hermes import Hermes
from llm.prompt import add_words
from llm.tokens import Tokens
from llm.vllm_load import Load, Loaded, load
from llm.vllm_options import ADJUSTABLE, VllmOptions
from llm.vllm_work import Work

DEFAULT = VllmOptions()

TOP_K = 50
"""Tokens chosen among when the temperature is above 0, as everywhere in this room."""

LATEST = 2**62
"""Priority of what has no deadline."""

Piece = Text | ToolCall | Usage


def priority(deadline: float) -> int:
    """Return vLLM's priority of a deadline in seconds: its milliseconds, lower goes first."""
    return int(min(max(deadline * 1000, -LATEST), LATEST))


class Vllm:
    """Think with a model in Hugging Face's layout, on GPUs or a CPU.

    Attributes:
        failed: Is set when vLLM's own process has died. Answers under way have ended with an
            `EngineError` then, and this object is of no more use: start another.
        load: What vLLM does at the moment.
    """

    def __init__(self, model: str, options: VllmOptions = DEFAULT) -> None:
        """Choose a model's folder, or its id on a hub."""
        self.name = f"vllm:{Path(model).name}"
        self.about = f"The language model {Path(model).name} on vLLM."
        self.failed = asyncio.Event()
        self.load = Load()
        self.prefills = options.stream_prompt
        """Whether it gains by reading the caller's words before the turn's end."""
        self.adjustable = ADJUSTABLE if options.stream_prompt else ()
        """Names of the settings that `adjust` changes."""
        self._model = model
        self._options = options
        self._loaded: Loaded | None = None
        self._works: set[Work] = set()
        self._numbers = count(1)

    def adjust(self, name: str, value: float) -> None:
        """Change one of `adjustable`, from the next words on; never blocks.

        Raises:
            ValueError: If that cannot be changed, or not to this.
        """
        if name not in self.adjustable:
            known = ", ".join(self.adjustable) or "nothing"
            raise ValueError(f"{self.name} cannot change {name} while it runs, but {known}")
        self._options = self._options.adjusted(name, value)

    async def start(self) -> None:
        """Check the model's folder, load it and write two tokens with each adapter.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        if self._loaded is not None:
            return
        self._loaded = await asyncio.to_thread(load, self._model, self._options, self.load)
        prompt = self.prompt([Message("user", "hello")], [])
        try:
            for adapter in ("", *self._loaded.adapters):
                work = self.ask(prompt, Params(max_tokens=2, adapter=adapter), 0.0)
                while (ids := await work.outputs.get()) is not None:
                    if isinstance(ids, EngineError):
                        raise ids
        except EngineError:
            await self.stop()
            raise
        self._loaded.llm.output_handler.add_done_callback(self._died)

    async def stop(self) -> None:
        """End vLLM's processes and free everything; answers under way end with an error."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        for work in list(self._works):
            work.outputs.put_nowait(EngineError(f"{self.name} was stopped"))
            await work.cancel()
        await asyncio.to_thread(loaded.llm.shutdown)

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "Thread":
        """Begin one answer to `items`; the model reads from the first `append` on."""
        return Thread(self, items, tools)

    async def wait_failed(self) -> str:
        """Return once vLLM's process has died, with why this engine will never work again."""
        await self.failed.wait()
        return str(self._dead())

    # What a thread needs of its engine.

    @property
    def tokens(self) -> Tokens:
        """The model's tokenizer and template."""
        return self._running().tokens

    @property
    def gather(self) -> float:
        """Seconds in which words are gathered before they are read."""
        return self._options.gather

    @property
    def limit(self) -> int:
        """Tokens that a prompt may have; the rest of what the model reads is for the answer."""
        return self._running().context * 3 // 4

    def prompt(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> list[int]:
        """Return the prompt of an answer."""
        return self.tokens.prompt(items, tools, self.limit)

    def read(self, tokens: int) -> Work | None:
        """Begin a request whose prompt, of so many tokens by now, comes in pieces.

        None if there is no room for one. Such requests hold their place and their KV blocks
        while a caller speaks, and vLLM takes neither from them. So all together they get half
        of each.
        """
        reading = sum(work.chunks is not None for work in self._works)
        room = reading < self._options.max_num_seqs // 2 and self._has_room(tokens)
        if not (self._options.stream_prompt and room):
            return None
        work = Work(self._adapter(""), chunks=asyncio.Queue())
        sampling = self._sampling(Params(max_tokens=1), 1)
        self._begin(work, work.stream(), sampling, time.monotonic())
        return work

    def read_on(self, work: Work, settled: Sequence[int]) -> bool:
        """Let a request read what is new of `settled`, which begins with what it has read.

        False if there is no room for it.
        """
        rest = settled[len(work.sent) :]
        if rest and not self._has_room(len(rest)):
            return False
        if rest:
            work.unread += 1
            self._give(work, rest, None)
        return True

    def answer(self, work: Work, prompt: Sequence[int], params: Params) -> bool:
        """Let a request read the rest of its prompt and answer; False if it cannot serve."""
        same = params.schema is None and work.adapter == self._adapter(params.adapter)
        if not same or not work.alive or prompt[: len(work.sent)] != work.sent:
            return False
        assert work.chunks is not None
        work.cached = len(work.sent)
        self._give(work, prompt[work.cached :], self._sampling(params, len(prompt)))
        work.chunks.put_nowait(None)
        return True

    def ask(self, prompt: Sequence[int], params: Params, deadline: float) -> Work:
        """Begin an ordinary request."""
        from vllm.inputs import tokens_input

        work = Work(self._adapter(params.adapter))
        sampling = self._sampling(params, len(prompt))
        self._begin(work, tokens_input(list(prompt)), sampling, deadline)
        return work

    def _has_room(self, tokens: int) -> bool:
        """Whether prompts that are still being spoken may hold so many tokens more."""
        held = sum(len(work.sent) for work in self._works if work.chunks is not None)
        return held + tokens <= self._running().capacity // 2

    def _running(self) -> Loaded:
        if self._loaded is None:
            raise EngineError(f"{self.name} is not running; await start() first")
        if self.failed.is_set():
            raise self._dead()
        return self._loaded

    def _begin(self, work: Work, prompt: Any, sampling: Any, deadline: float) -> None:
        outputs = self._running().llm.generate(
            prompt,
            sampling,
            str(next(self._numbers)),
            priority=priority(deadline),
            lora_request=work.adapter,
        )
        self._works.add(work)
        work.task = asyncio.create_task(self._run(work, outputs))
        work.task.add_done_callback(lambda _: self._works.discard(work))

    async def _run(self, work: Work, outputs: AsyncGenerator[Any, None]) -> None:
        """Pass on what vLLM writes. Cancelled, vLLM drops the request and frees its blocks."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            async for output in outputs:
                work.take(output)
        except EngineDeadError:
            work.outputs.put_nowait(self._dead())
        except Exception as error:  # vLLM's own, pydantic's, zmq's
            said = " ".join(str(error.__cause__ or error).split())
            work.outputs.put_nowait(EngineError(f"{self.name} failed: {said}"))
        finally:
            work.outputs.put_nowait(None)

    def _give(self, work: Work, rest: Sequence[int], sampling: Any) -> None:
        from vllm.engine.protocol import StreamingInput
        from vllm.inputs import tokens_input

        assert work.chunks is not None
        work.sent += rest
        work.chunks.put_nowait(StreamingInput(tokens_input(list(rest)), sampling))

    def _sampling(self, params: Params, prompt: int) -> Any:
        """Return vLLM's form of `params` for a prompt of so many tokens."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        loaded, schema = self._running(), params.schema
        try:
            return SamplingParams(
                max_tokens=max(1, min(params.max_tokens, loaded.context - prompt)),
                temperature=params.temperature,
                top_k=TOP_K if params.temperature > 0 else 0,
                stop_token_ids=sorted(loaded.tokens.ends),
                structured_outputs=None
                if schema is None
                else StructuredOutputsParams(json=dict(schema)),
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
        except Exception as error:  # ValueError or vLLM's own: a temperature out of its range, say
            raise EngineError(f"{self.name} cannot answer so: {error}") from error

    def _adapter(self, name: str) -> Any:
        """Return vLLM's form of an adapter, None for the model itself."""
        adapters = self._running().adapters
        name = name or self._options.lora_default
        if name and name not in adapters:
            known = ", ".join(adapters) or "none: set vllm.lora"
            raise EngineError(f"{self.name} has no adapter {name!r}; it has {known}")
        return adapters[name] if name else None

    def _dead(self) -> EngineError:
        return EngineError(
            f"{self.name} has died: vLLM's process ended, its log above says why; "
            "start the engine again"
        )

    def _died(self, _: object) -> None:
        """Hear that nothing more will come from vLLM's process."""
        if self._loaded is not None:
            self.failed.set()


class Thread:
    """One answer of a model."""

    def __init__(self, engine: Vllm, items: Sequence[Item], tools: Sequence[ToolSpec]) -> None:
        self._engine = engine
        self._items = list(items)
        self._tools = tools
        self._reading: Work | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._works: set[Work] = set()
        self._closed = False

    def append(self, words: str) -> None:
        """Add words to the user's last message; the model reads what is settled of the prompt.

        Words cannot be taken back, so they should be committed ones. Adding "" makes the
        model read what is there already.
        """
        self._items = add_words(self._items, words)
        if not (self._closed or self._works or self._timer):
            self._timer = asyncio.get_running_loop().call_later(self._engine.gather, self._read)

    def _read(self) -> None:
        """Let the model read what is settled by now."""
        self._timer = None
        engine = self._engine
        try:
            settled = engine.tokens.settled(self._items, self._tools, engine.limit)
            if self._reading and settled[: len(self._reading.sent)] != self._reading.sent:
                self._drop()
            self._reading = self._reading or engine.read(len(settled))
            if self._reading and not engine.read_on(self._reading, settled):
                self._drop()
        except EngineError:
            self._drop()  # `generate` will say why

    async def generate(self, params: Params, deadline: float) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it is written; see `llm.engine.Thread`."""
        if self._closed:
            return
        self._wait_no_more()
        engine = self._engine
        prompt = engine.prompt(self._items, self._tools)
        if self._reading and engine.answer(self._reading, prompt, params):
            work, self._reading = self._reading, None
        else:
            self._drop()
            work = engine.ask(prompt, params, deadline)
        self._works.add(work)
        tokens, hermes = engine.tokens, Hermes(_new_id)
        text, read = tokens.detokenizer(), hermes.push if params.schema is None else _verbatim
        written = 0
        try:
            while (ids := await work.outputs.get()) is not None and not self._closed:
                if isinstance(ids, EngineError):
                    raise ids
                written += len(ids)
                for token in ids:
                    if token not in tokens.ends:
                        for piece in read(text.push(token)):
                            yield piece
            if self._closed:
                return
            for piece in hermes.finish():
                yield piece
            yield Usage(prompt=len(prompt), cached=work.cached, completion=written)
        finally:
            self._works.discard(work)
            await work.cancel()

    def close(self) -> None:
        """Stop the work, also inside the model: its KV blocks are free one step later."""
        self._closed = True
        self._drop()
        for work in self._works:
            work.outputs.put_nowait(None)
            work.drop()

    def _wait_no_more(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def _drop(self) -> None:
        self._wait_no_more()
        if self._reading:
            self._reading.drop()
        self._reading = None


def _new_id() -> str:
    """Name a tool call, also apart from those of an engine that was here before."""
    return f"call_{uuid.uuid4().hex[:12]}"


def _verbatim(text: str) -> list[Text | ToolCall]:
    return [Text(text)] if text else []

"""A small language model on the CPU, through CTranslate2.

CTranslate2 serves one generation of a model at a time, so one thread of this file
takes the most urgent answer, writes it token by token, and takes the next. The
instructions and tools of a call come first in most prompts; what the model makes of
them is kept, which spares 665 tokens of instructions 30 of 40 ms in every turn.
"""

import asyncio
import atexit
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from llm.chat import ChatTemplate
from llm.convert import converted, read_json
from llm.engine import (
    EngineError,
    Item,
    Message,
    Params,
    Text,
    ToolCall,
    ToolSpec,
    Usage,
)
from llm.hermes import Hermes
from llm.prompt import add_words, controls, fitting, harmless

PREFIXES = 32
"""How many beginnings of prompts are kept: about 9 kB a token for a model of 3 million
parameters (measured 2026-11-23). CTranslate2 forgets none of its own accord."""

CONTEXT = 2048
"""Tokens of prompt and answer together where config.json gives no limit."""

Piece = Text | ToolCall | Usage


class CTranslate:
    """Think with a small instruct model, in Hugging Face's layout or CTranslate2's."""

    def __init__(self, path: Path, threads: int = 1, cache: Path | None = None) -> None:
        """Choose the model's directory; see `llm.convert.converted` for `cache`."""
        self.name = f"ctranslate:{path.name}"
        self.about = f"The language model in {path.name}, in 8 bits on {threads} CPU thread(s)."
        self._path = path
        self._threads = threads
        self._cache = cache
        self._jobs: queue.PriorityQueue[tuple[float, int, _Job | None]] = queue.PriorityQueue()
        self._numbers = count(1)
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Convert the model if need be, load it and write a token.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        if self._thread is not None:
            return
        model = await asyncio.to_thread(_Model, self._path, self._threads, self._cache)
        self._thread = threading.Thread(
            target=self._work, args=(model,), name="ctranslate", daemon=True
        )
        self._thread.start()
        # A thread that is in the model when the interpreter ends aborts the process.
        atexit.register(self._exit)

    async def stop(self) -> None:
        """End the thread and free the model; answers under way end with an `EngineError`."""
        if thread := self._end():
            await asyncio.to_thread(thread.join)

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "Thread":
        """Begin one answer to `items`: when idle, the model reads the instructions already."""
        if self._thread is not None:
            self.submit(float("inf"), _Job(list(items), tools))
        return Thread(self, items, tools)

    def submit(self, due: float, job: "_Job") -> None:
        """Queue a job.

        Raises:
            EngineError: If the engine does not run.
        """
        if self._thread is None:
            raise EngineError(f"{self.name} is not running; await start() first")
        self._jobs.put((due, next(self._numbers), job))

    def _end(self) -> threading.Thread | None:
        """Tell the thread to stop and return it, if it runs."""
        thread, self._thread = self._thread, None
        if thread:
            self._jobs.put((float("-inf"), 0, None))
            atexit.unregister(self._exit)
        return thread

    def _exit(self) -> None:
        if thread := self._end():
            thread.join()

    def _work(self, model: "_Model") -> None:
        """Do one job after the other, the most urgent first; the thread's main function."""
        while job := self._jobs.get()[2]:
            try:
                self._do(model, job)
            except EngineError as error:
                job.fail(error)
            except Exception as error:  # CTranslate2 raises RuntimeError, its callback anything
                job.fail(EngineError(f"{self.name} failed: {error!r}"))
        model.close()
        with contextlib.suppress(queue.Empty):
            while job := self._jobs.get_nowait()[2]:
                job.fail(EngineError(f"{self.name} was stopped"))

    def _do(self, model: "_Model", job: "_Job") -> None:
        if job.send is None:
            model.read(job.items, job.tools)
        elif not job.dropped:
            usage = model.answer(job, job.send, lambda: job.dropped or self._thread is None)
            if self._thread is None:
                raise EngineError(f"{self.name} was stopped")
            job.send(usage)
            job.send(None)


class Thread:
    """One answer of a model."""

    def __init__(
        self, engine: CTranslate, items: Sequence[Item], tools: Sequence[ToolSpec]
    ) -> None:
        self._engine = engine
        self._items = list(items)
        self._tools = tools
        self._jobs: list[_Job] = []
        self._closed = False

    def append(self, words: str) -> None:
        """Add words to the user's last message; the model reads them in `generate`."""
        self._items = add_words(self._items, words)

    async def generate(self, params: Params, deadline: float) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it is written; see `llm.engine.Thread`."""
        if self._closed:
            return
        if params.schema is not None or params.adapter:
            raise EngineError(
                f"{self._engine.name} knows neither schemas nor adapters; use vllm: or openai:"
            )
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | EngineError | None] = asyncio.Queue()

        def send(piece: Piece | EngineError | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = _Job(self._items, self._tools, params, send)
        self._engine.submit(deadline, job)
        self._jobs.append(job)
        try:
            while (piece := await pieces.get()) is not None and not job.dropped:
                if isinstance(piece, EngineError):
                    raise piece
                yield piece
        finally:
            job.dropped = True
            self._jobs.remove(job)

    def close(self) -> None:
        """Stop the work, also inside the model, after the token it is at."""
        self._closed = True
        for job in self._jobs:
            job.dropped = True
            if job.send:
                job.send(None)


@dataclass(slots=True)
class _Job:
    """One answer to write; with nobody to send it to, instructions to read ahead."""

    items: Sequence[Item]
    tools: Sequence[ToolSpec]
    params: Params = field(default_factory=Params)
    send: Callable[[Piece | EngineError | None], None] | None = None
    dropped: bool = False

    def fail(self, error: EngineError) -> None:
        """Send why there is no answer; one that nobody asked for will fail again when asked."""
        if self.send:
            self.send(error)


class _Model:
    """A loaded model with its tokenizer; for one thread at a time."""

    def __init__(self, path: Path, threads: int, cache: Path | None) -> None:
        from ctranslate2 import Generator
        from tokenizers import Tokenizer
        from tokenizers.decoders import DecodeStream

        self._new_stream = DecodeStream
        self._template = ChatTemplate(path)
        directory = converted(path, cache)
        file = path / "tokenizer.json"
        if not file.is_file():
            raise EngineError(f"{file} is missing; copy it there")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises Exception itself
            raise EngineError(f"{file} is damaged: {error}; copy it again") from error
        try:
            self._generator = Generator(str(directory), "cpu", intra_threads=threads)
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"CTranslate2 cannot load {directory}: {error}; delete it and start again"
            ) from error
        config = read_json(path / "config.json")
        self._context: int = config.get("max_position_embeddings") or CONTEXT
        self._ends = self._end_tokens(path, config)
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._controls = controls(token.content for token in added if token.special)
        self._prefixes: dict[str, list[str]] = {}
        self._calls = count(1)
        prompt = self._encode(self._template.render([Message("user", "hello")], []))
        self._generator.generate_batch([prompt], max_length=2, include_prompt_in_result=False)

    def close(self) -> None:
        """Free the model, here and now, whoever still refers to it (an error's traceback)."""
        del self._generator

    def _end_tokens(self, path: Path, config: dict[str, Any]) -> list[int]:
        """Return the ids that end an answer: all that any of the model's files names."""
        generation = path / "generation_config.json"
        configs = [config, read_json(generation) if generation.is_file() else {}]
        ends = {self._tokenizer.token_to_id(self._template.end)}
        for ids in (found.get("eos_token_id") for found in configs):
            ends |= set(ids if isinstance(ids, list) else [ids])
        known = sorted(end for end in ends if end is not None)
        if not known:
            raise EngineError(
                f"the model in {path} names no token that ends an answer; "
                "add eos_token to tokenizer_config.json"
            )
        return known

    def read(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> None:
        """Read the instructions in `items` and the tools, if they are new."""
        prefix, is_new = self._prefix(items, tools)
        if is_new:
            self._generator.generate_batch(
                [prefix[-1:]], static_prompt=prefix, max_length=1, include_prompt_in_result=False
            )

    def answer(self, job: _Job, send: Callable[[Piece], None], ends: Callable[[], bool]) -> Usage:
        """Write one answer to `send`; blocks until it is written or `ends` says so.

        Raises:
            EngineError: If the prompt does not fit or what the model writes makes no sense.
        """
        prefix, is_new = self._prefix(job.items, job.tools)
        prompt = self._prompt(job.items, job.tools)
        if prompt[: len(prefix)] != prefix or len(prompt) == len(prefix):
            prefix = []
        # What `step` refers to may be freed on CTranslate2's own thread, which would
        # abort the process if that were the generator: so nothing of `self`.
        tokenizer, stops, calls = self._tokenizer, self._ends, self._calls
        hermes = Hermes(lambda: f"call_{next(calls)}")
        stream = self._new_stream(skip_special_tokens=False)
        written = 0

        def step(result: Any) -> bool:
            nonlocal written
            if ends():
                return True
            written += 1
            if result.token_id not in stops:
                for piece in hermes.push(stream.step(tokenizer, result.token_id) or ""):
                    send(piece)
            return False

        warm = job.params.temperature > 0
        self._generator.generate_batch(
            [prompt[len(prefix) :]],
            static_prompt=prefix or None,
            include_prompt_in_result=False,
            max_length=min(job.params.max_tokens, self._context - len(prompt)),
            end_token=self._ends,
            sampling_topk=50 if warm else 1,
            sampling_temperature=job.params.temperature if warm else 1.0,
            callback=step,
        )
        if not ends():
            for piece in hermes.finish():
                send(piece)
        cached = 0 if is_new else len(prefix)
        return Usage(prompt=len(prompt), cached=cached, completion=written)

    def _prefix(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> tuple[list[str], bool]:
        """Return the tokens that the prompt begins with, and whether they are new to the model."""
        text = self._template.prefix(items, tools)
        if not text or text in self._prefixes or len(self._prefixes) == PREFIXES:
            return self._prefixes.get(text, []), False
        self._prefixes[text] = self._encode(text)
        return self._prefixes[text], True

    def _prompt(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> list[str]:
        """Return the tokens of the prompt, without the oldest items if it is too long."""
        kept = [harmless(item, self._controls) for item in items]
        limit = self._context * 3 // 4  # the rest is for the answer
        return fitting(kept, limit, lambda some: self._encode(self._template.render(some, tools)))

    def _encode(self, text: str) -> list[str]:
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens

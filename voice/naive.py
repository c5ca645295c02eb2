"""The naive baselines: each model as it first runs, one request after the other.

They satisfy the rooms' Protocols, so that the same load can be put on them and on the engines that
share a model among calls (`voice.bench_engines`). They are not for serving: nothing is batched,
ordered by deadline, cancelled, or given out before it is complete.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import asr.engine
import llm.engine
import tts.engine
from llm.chat import ChatTemplate
from llm.hermes import Hermes
from llm.prompt import add_words

T = TypeVar("T")


class Worker:
    """One thread; what it is given to do, it does in the order it was given."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def stream(self, work: Callable[[Callable[[T], None]], None]) -> AsyncGenerator[T, None]:
        """Yield what `work` gives to the function it is called with."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

        def give(piece: T) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, (piece,))

        working = loop.run_in_executor(self._pool, work, give)
        working.add_done_callback(lambda _: pieces.put_nowait(None))
        while (piece := await pieces.get()) is not None:
            yield piece[0]
        await working

    async def stop(self) -> None:
        """Finish what is being done; the rest is dropped."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


def device() -> str:
    """Return where torch computes here."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Transformers:
    """A language model in transformers: `generate` with a streamer."""

    about = "transformers' generate, one answer after the other"

    def __init__(self, model: Path) -> None:
        self.name = f"transformers:{model.name}"
        self._path = model
        self._worker = Worker()
        self._calls = count(1)
        self._template: ChatTemplate
        self._tokenizer: Any
        self._model: Any

    async def start(self) -> None:
        """Load the model."""
        await self._worker.run(self._load)

    def open(
        self, items: Sequence[llm.engine.Item], tools: Sequence[llm.engine.ToolSpec]
    ) -> "TransformersThread":
        """Begin one answer."""
        return TransformersThread(self, items, tools)

    async def stop(self) -> None:
        """Free the model."""
        await self._worker.stop()
        self._model = None

    def answer(
        self,
        items: Sequence[llm.engine.Item],
        tools: Sequence[llm.engine.ToolSpec],
        params: llm.engine.Params,
    ) -> AsyncGenerator[llm.engine.Text | llm.engine.ToolCall | llm.engine.Usage, None]:
        """Yield the answer to a conversation, when those asked for before are done."""
        prompt = self._template.render(items, tools)
        return self._worker.stream(lambda give: self._generate(prompt, params, give))

    def _load(self) -> None:
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        self._template = ChatTemplate(self._path)
        self._tokenizer = Tokenizer.from_file(str(self._path / "tokenizer.json"))
        model = AutoModelForCausalLM.from_pretrained(self._path, dtype="auto")
        self._model = model.to(device()).eval()

    def _generate(
        self, prompt: str, params: llm.engine.Params, give: Callable[[Any], None]
    ) -> None:
        import torch

        ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        given = torch.tensor([ids], device=self._model.device)
        warm = {"do_sample": True, "temperature": params.temperature}
        streamer = _Streamer(self._tokenizer, Hermes(lambda: f"call_{next(self._calls)}"), give)
        with torch.inference_mode():
            made = self._model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=params.max_tokens,
                streamer=streamer,
                **(warm if params.temperature else {"do_sample": False}),
            )
        give(llm.engine.Usage(prompt=len(ids), cached=0, completion=made.shape[1] - len(ids)))


class _Streamer:
    """Takes tokens from `generate` and gives text out."""

    def __init__(self, tokenizer: Any, hermes: Hermes, give: Callable[[Any], None]) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._hermes, self._give = tokenizer, hermes, give
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._calls = set(map(tokenizer.token_to_id, ("<tool_call>", "</tool_call>")))
        self._prompted = False

    def put(self, ids: Any) -> None:
        """Take the prompt, then one token after the other."""
        if not self._prompted:
            self._prompted = True
            return
        for token in ids.flatten().tolist():
            for piece in self._hermes.push(self._decoder.step(self._tokenizer, token) or ""):
                self._give(piece)

    def end(self) -> None:
        """Give out what is left."""
        for piece in self._hermes.finish():
            self._give(piece)


class TransformersThread:
    """One answer."""

    def __init__(
        self,
        engine: Transformers,
        items: Sequence[llm.engine.Item],
        tools: Sequence[llm.engine.ToolSpec],
    ) -> None:
        self._engine, self._items, self._tools = engine, items, tools

    def append(self, words: str) -> None:
        """Add words to the user's last message; the model reads them with all the rest."""
        self._items = add_words(self._items, words)

    def generate(
        self, params: llm.engine.Params, deadline: float
    ) -> AsyncGenerator[llm.engine.Text | llm.engine.ToolCall | llm.engine.Usage, None]:
        """Yield the answer; `deadline` changes nothing."""
        return self._engine.answer(self._items, self._tools, params)

    def close(self) -> None:
        """Do nothing: what is begun goes on to its end."""


class FasterWhisper:
    """faster-whisper's own `transcribe`."""

    about = "faster-whisper's transcribe, one utterance after the other"

    def __init__(self, model: Path, tokens: int) -> None:
        """Write at most `tokens` for one utterance."""
        self.name = f"faster-whisper:{model.name}"
        self._path, self._tokens = model, tokens
        self._worker = Worker()
        self._model: Any

    async def start(self) -> None:
        """Load the model."""
        await self._worker.run(self._load)

    def open(self, listening: asr.engine.Listening) -> "FasterWhisperStream":
        """Begin one utterance."""
        return FasterWhisperStream(self)

    async def stop(self) -> None:
        """Free the model."""
        await self._worker.stop()
        self._model = None

    async def transcribe(self, pcm: asr.engine.Pcm) -> asr.engine.Hypothesis:
        """Return the words of an utterance, when those before are done."""
        return await self._worker.run(lambda: self._transcribe(pcm))

    def _load(self) -> None:
        from faster_whisper import WhisperModel

        where = device()
        self._model = WhisperModel(
            str(self._path),
            device=where,
            compute_type="int8" if where == "cpu" else "float16",
            cpu_threads=1,
            local_files_only=True,
        )

    def _transcribe(self, pcm: asr.engine.Pcm) -> asr.engine.Hypothesis:
        segments, _ = self._model.transcribe(
            pcm,
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            max_new_tokens=self._tokens,
            without_timestamps=True,  # with random ones it would go over the same sound again
        )
        text = " ".join(segment.text for segment in segments).split()
        words = tuple(asr.engine.Word(word, 0.0, 0.0) for word in text)
        return asr.engine.Hypothesis(words, end=len(pcm))


class FasterWhisperStream:
    """One utterance, kept until it is over."""

    def __init__(self, engine: FasterWhisper) -> None:
        self._engine = engine
        self._pieces: list[asr.engine.Pcm] = []

    def push(self, pcm: asr.engine.Pcm) -> None:
        """Keep a copy."""
        self._pieces.append(pcm.copy())

    async def hypotheses(self) -> AsyncIterator[asr.engine.Hypothesis]:
        """Yield nothing: nothing is known before the end."""
        nothing: tuple[asr.engine.Hypothesis, ...] = ()
        for hypothesis in nothing:
            yield hypothesis

    async def settle(self, deadline: float) -> asr.engine.Hypothesis:
        """Return the words so far."""
        return await self._engine.transcribe(np.concatenate(self._pieces))

    async def finish(self, deadline: float) -> asr.engine.Hypothesis:
        """Return the words; `deadline` changes nothing."""
        return await self.settle(deadline)

    def close(self) -> None:
        """Do nothing: what is begun goes on to its end."""


class Coqui:
    """A Coqui model through its own `Synthesizer`, which makes a whole sentence."""

    about = "Coqui's Synthesizer, one sentence after the other"
    voices = ("",)

    def __init__(self, model: Path) -> None:
        self.name = f"synthesizer:{model.name}"
        self.rate = 0
        self._path = model
        self._worker = Worker()
        self._model: Any
        self._given: dict[str, str] = {}

    async def start(self) -> None:
        """Load the model."""
        await self._worker.run(self._load)

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[tts.engine.Chunk, None]:
        """Yield each phrase as one chunk, without the times of its words."""
        async for phrase in phrases:
            yield tts.engine.Chunk(await self._worker.run(lambda p=phrase: self._say(p)), ())  # type: ignore[misc]

    async def stop(self) -> None:
        """Free the model."""
        await self._worker.stop()
        self._model = None

    def _load(self) -> None:
        from tts.coqui_load import import_tts

        import_tts()
        from TTS.utils.synthesizer import Synthesizer

        speakers = self._path / "speakers_xtts.pth"
        weights = next(file for file in sorted(self._path.glob("*.pth")) if file != speakers)
        self._model = Synthesizer(
            tts_checkpoint=self._path if speakers.is_file() else weights,
            tts_config_path=self._path / "config.json",
            use_cuda=device() == "cuda",
        )
        self.rate = self._model.output_sample_rate
        if speakers.is_file():
            first = next(iter(self._model.tts_model.speaker_manager.speakers))
            self._given = {"speaker_name": first, "language_name": "en"}

    def _say(self, phrase: str) -> tts.engine.Pcm:
        from TTS.utils.synthesizer import PAD_SILENCE_SAMPLES

        made = self._model.tts(phrase, split_sentences=False, **self._given)
        return np.asarray(made[:-PAD_SILENCE_SAMPLES], np.float32)

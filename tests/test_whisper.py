import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from asr.engine import EngineError, Hypothesis, Listening
from asr.whisper import Whisper
from asr.whisper_decoder import Aligned, Written
from asr.whisper_options import WhisperOptions
from asr.whisper_tokens import Tokens

from speech import RATE, Pcm, noise, silence

SPECIAL = (
    *("endoftext", "startoftranscript", "en", "de", "translate", "transcribe", "startoflm"),
    *("startofprev", "nospeech", "notimestamps"),
)
WORDS = {f"\u0120word{second}": second for second in range(60)}
"""What the model can write: a space and a word each."""


class Model:
    """Stands in for a network: hears one word a second, whatever is said.

    Attributes:
        heard: The seconds of sound in each window of every batch.
        columns: How long each window was made, in hundredths of a second.
        prompts: What the transcripts began with, as text.
        beams: What every batch was searched with.
        go: Cleared, it holds the thread up.
    """

    about, bands, together, grain = "a stand-in", 80, False, 0.1
    sizes = ((1, 1.0),)
    fixed: tuple[str, ...] = ()

    def __init__(self, folder: Path, languages: bool = True) -> None:
        tokenizer = Tokenizer(models.BPE(vocab=WORDS, merges=[]))
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in SPECIAL])
        tokenizer.save(str(folder / "tokenizer.json"))
        self.tokens = Tokens(folder / "tokenizer.json", languages)
        self.tokens.encode = lambda text: [50 + i for i, _ in enumerate(text.split())]  # type: ignore[method-assign]
        self.names = tokenizer
        self.heard: list[list[int]] = []
        self.columns: list[list[int]] = []
        self.prompts: list[list[str]] = []
        self.beams: list[int] = []
        self.detected = 0
        self.likely = 0.9
        self.doubt = -0.1
        self.trouble: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def encode(self, mel: Any) -> list[int]:
        self.go.wait(10)
        if self.trouble is not None:
            raise self.trouble
        loud = (mel.max(1) > mel.min() + 0.1).sum(1)  # columns that are not padding
        self.columns.append([mel.shape[2]] * len(mel))
        self.heard.append([round(columns / 100) for columns in loud])
        return self.heard[-1]

    def detect(self, encoded: list[int]) -> list[tuple[str, float]]:
        self.detected += 1
        return [("de", self.likely)] * len(encoded)

    def generate(
        self,
        encoded: list[int],
        prompt: Sequence[Sequence[int]],
        given: Sequence[Sequence[int]],
        limit: int,
        beam: int,
    ) -> list[Written]:
        self.beams.append(beam)
        assert limit >= max(encoded) - min(len(one) for one in given)
        self.prompts += [[self.names.id_to_token(token) for token in one] for one in prompt]
        return [
            Written(list(range(len(one), seconds)), self.doubt, 0.1)
            for seconds, one in zip(encoded, given, strict=True)
        ]

    def align(
        self, encoded: list[int], index: int, start: Sequence[int], text: Sequence[int], _: float
    ) -> Aligned:
        return Aligned([*map(float, range(len(text) + 1))], [0.9] * len(text))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model(tmp_path)
    monkeypatch.setattr("asr.whisper_model.load", lambda source, options: model)
    return model


@asynccontextmanager
async def started(model: Model, turns: Any = None, **options: Any) -> AsyncIterator[Whisper]:
    engine = Whisper("tiny", WhisperOptions(**options), turns)
    await engine.start()
    model.heard.clear()
    model.columns.clear()
    model.prompts.clear()
    model.beams.clear()
    yield engine
    model.go.set()
    await engine.stop()


def sound(seconds: float) -> Pcm:
    return noise(seconds) * np.float32(0.1)


async def answer(
    engine: Whisper, pcm: Pcm, deadline: float = 0.0, listening: Listening | None = None
) -> Hypothesis:
    stream = engine.open(listening or Listening(language="en-US"))
    stream.push(pcm)
    return await stream.finish(deadline)


async def busy(engine: Whisper, model: Model) -> "asyncio.Task[Hypothesis]":
    """Let the model be held up by an utterance of a second; return its answer to come."""
    model.go.clear()
    first = asyncio.create_task(answer(engine, sound(1)))
    await asyncio.sleep(0.05)
    return first


async def test_an_utterance_comes_back_with_word_times_and_confidence(model: Model) -> None:
    async with started(model, align=True) as engine:
        heard = await answer(engine, sound(2))
    assert heard.text == "word0 word1"
    assert (heard.committed[1].start, heard.committed[1].end) == (1, 2)
    assert heard.committed[1].confidence == pytest.approx(0.9)
    assert heard.end == 2 * RATE
    assert heard.confidence == pytest.approx(np.exp(-0.1) * 0.9)
    assert model.heard == [[2]]


async def test_doubtful_words_are_not_confident(model: Model) -> None:
    model.doubt = -1.0
    async with started(model) as engine:
        assert (await answer(engine, sound(2))).confidence < 0.5


async def test_silence_never_reaches_the_model(model: Model) -> None:
    async with started(model) as engine:
        for pcm in (silence(2), sound(2) * np.float32(0.005), sound(0.05), silence(0)):
            heard = await answer(engine, pcm)
            assert (heard.text, heard.confidence, heard.end) == ("", 0.0, len(pcm))
    assert model.heard == []


async def test_the_samples_are_copied_when_they_are_pushed(model: Model) -> None:
    async with started(model, interval=0.0) as engine:
        stream, pcm = engine.open(Listening()), sound(2)
        stream.push(pcm)
        pcm[:] = 0
        assert (await stream.finish(0)).text == "word0 word1"


async def test_the_most_urgent_utterance_is_decoded_first(model: Model) -> None:
    async with started(model, interval=0.0, batch=1) as engine:
        first = await busy(engine, model)
        others = [asyncio.create_task(answer(engine, sound(s), 9 - s)) for s in (2, 3, 4)]
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(first, *others)
    assert model.heard == [[1], [4], [3], [2]]


async def test_all_that_waits_is_decoded_together(model: Model) -> None:
    async with started(model, interval=0.0) as engine:
        first = await busy(engine, model)
        others = [asyncio.create_task(answer(engine, sound(s), s)) for s in (3, 2, 2)]
        await asyncio.sleep(0.05)
        model.go.set()
        texts = [(await task).text for task in (first, *others)]
    assert model.heard == [[1], [2, 2, 3]]
    assert texts == ["word0", "word0 word1 word2", "word0 word1", "word0 word1"]


async def test_a_final_does_not_wait_behind_partial_words(model: Model) -> None:
    async with started(model) as engine:
        first = await busy(engine, model)
        speaking = [engine.open(Listening()) for _ in range(3)]
        for stream in speaking:
            stream.push(sound(2))
        final = asyncio.create_task(answer(engine, sound(3), monotonic() + 60))
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(first, final)
        assert model.heard[:2] == [[1], [3]]
        await asyncio.gather(*(stream.settle(0) for stream in speaking))
    assert [seconds for batch in model.heard[2:] for seconds in batch] == [2, 2, 2]


async def test_words_come_while_they_are_spoken_and_stand_once_committed(model: Model) -> None:
    async with started(model) as engine:
        stream = engine.open(Listening())
        seen: list[Hypothesis] = []

        async def watch() -> None:
            seen.extend([hypothesis async for hypothesis in stream.hypotheses()])

        watching = asyncio.create_task(watch())
        for _ in range(4):
            stream.push(sound(1))
            await stream.settle(0)
        final = await stream.finish(0)
        await watching
    assert [hypothesis.text for hypothesis in seen[:3]] == [
        "word0",
        "word0 word1",
        "word0 word1 word2",
    ]
    assert [len(hypothesis.committed) for hypothesis in seen[:4]] == [0, 1, 2, 3]
    assert seen[-1] is final
    assert final.text == "word0 word1 word2 word3"
    assert final.tentative == ""


async def test_partial_words_need_no_asking(model: Model) -> None:
    async with started(model, interval=0.5) as engine:
        stream = engine.open(Listening())
        for _ in range(10):
            stream.push(sound(0.1))
        async for hypothesis in stream.hypotheses():
            assert hypothesis.text == "word0"
            break
        stream.close()


async def test_if_only_silence_came_after_the_last_decoding_there_is_no_other(
    model: Model,
) -> None:
    async with started(model) as engine:
        stream = engine.open(Listening())
        stream.push(sound(2))
        settled = await stream.settle(0)
        stream.push(silence(0.5))
        final = await stream.finish(0)
        assert model.heard == [[2]]
        assert final.committed == settled.committed
        assert final.end == 2.5 * RATE
        assert await stream.finish(0) == final


async def test_silence_behind_the_last_word_is_not_decoded(model: Model) -> None:
    async with started(model, interval=0.0) as engine:
        stream = engine.open(Listening())
        stream.push(np.concatenate([sound(2), noise(3) * np.float32(5e-4)]))
        assert (await stream.finish(0)).end == 5 * RATE
    assert model.columns == [[220 + 50]]  # 0.2 s of what follows, and the padding


async def test_what_is_said_after_a_decoding_is_decoded(model: Model) -> None:
    async with started(model) as engine:
        stream = engine.open(Listening())
        stream.push(sound(2))
        assert (await stream.settle(0)).text == "word0 word1"
        stream.push(sound(1))
        assert (await stream.finish(0)).text == "word0 word1 word2"
    assert model.heard == [[2], [3]]


async def test_who_asks_while_it_is_decoded_waits_for_that(model: Model) -> None:
    async with started(model) as engine:
        model.go.clear()
        stream = engine.open(Listening())
        stream.push(sound(2))  # asks for partial words
        await asyncio.sleep(0.05)
        both = [asyncio.create_task(stream.settle(0)) for _ in range(2)]
        await asyncio.sleep(0.05)
        model.go.set()
        assert [task.text for task in await asyncio.gather(*both)] == ["word0 word1"] * 2
    assert model.heard == [[2]]


async def test_what_nobody_waits_for_any_more_is_not_decoded(model: Model) -> None:
    async with started(model, interval=0.0) as engine:
        first = await busy(engine, model)
        stream = engine.open(Listening())
        stream.push(sound(2))
        waiting = asyncio.create_task(stream.settle(0))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        model.go.set()
        await first
        await answer(engine, sound(3))
        assert model.heard == [[1], [3]]
        assert (await stream.finish(0)).text == "word0 word1"


async def test_the_loop_goes_on_while_the_model_works(model: Model) -> None:
    async with started(model) as engine:
        first = await busy(engine, model)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not first.done()
        model.go.set()
        await first


async def test_a_closed_utterance_is_not_decoded(model: Model) -> None:
    async with started(model) as engine:
        first = await busy(engine, model)
        stream = engine.open(Listening())
        stream.push(sound(2))
        closed = asyncio.create_task(stream.finish(9))
        await asyncio.sleep(0.05)
        stream.close()
        stream.close()
        with pytest.raises(EngineError, match="closed"):
            await closed
        model.go.set()
        await first
        await answer(engine, sound(3))
        with pytest.raises(EngineError, match="closed"):
            await stream.settle(0)
    assert model.heard == [[1], [3]]


async def test_words_that_come_after_the_close_are_dropped(model: Model) -> None:
    async with started(model) as engine:
        model.go.clear()
        stream = engine.open(Listening())
        stream.push(sound(2))
        final = asyncio.create_task(stream.finish(0))
        await asyncio.sleep(0.05)
        stream.close()
        with pytest.raises(EngineError, match="closed"):
            await final
        model.go.set()
        await answer(engine, sound(1))  # by then they have come
        assert [hypothesis async for hypothesis in stream.hypotheses()] == []
        with pytest.raises(EngineError, match="closed"):
            await stream.settle(0)


async def test_hypotheses_end_with_the_final_one(model: Model) -> None:
    async with started(model, interval=0.0) as engine:
        stream = engine.open(Listening())
        stream.push(sound(1))
        final = await stream.finish(0)
        assert [hypothesis async for hypothesis in stream.hypotheses()] == [final]
        closed = engine.open(Listening())
        closed.close()
        assert [hypothesis async for hypothesis in closed.hypotheses()] == []


async def test_samples_that_are_no_numbers_fail_their_utterance_and_no_other(
    model: Model,
) -> None:
    async with started(model) as engine:
        for wrong in (np.nan, np.inf):
            bad = sound(1)
            bad[100] = wrong
            stream = engine.open(Listening())
            stream.push(bad)
            with pytest.raises(EngineError, match="samples that are no numbers"):
                await stream.finish(0)
            assert [hypothesis async for hypothesis in stream.hypotheses()] == []
        assert (await answer(engine, sound(1))).text == "word0"


async def test_a_failing_model_fails_what_it_was_decoding_and_goes_on(model: Model) -> None:
    async with started(model, interval=0.0) as engine:
        first = await busy(engine, model)
        stream = engine.open(Listening())
        stream.push(sound(2))
        model.trouble = RuntimeError("CUDA error: an illegal memory access")
        model.go.set()
        with pytest.raises(EngineError, match="Whisper failed: CUDA error: an illegal"):
            await first
        assert not engine.failed
        model.trouble = None
        assert (await stream.finish(0)).text == "word0 word1"


async def test_after_failing_too_often_in_a_row_it_gives_up_and_says_so(model: Model) -> None:
    async with started(model, failures=3) as engine:
        gives_up = asyncio.create_task(engine.wait_failed())
        for times in (2, 3):
            for _ in range(times):
                assert not engine.failed
                assert not gives_up.done()
                model.trouble = RuntimeError("CUDA error")
                with pytest.raises(EngineError, match="Whisper failed: CUDA error"):
                    await answer(engine, sound(1))
            if times == 2:  # not in a row with the others
                model.trouble = None
                await answer(engine, sound(1))
        assert "3 times in a row: it must be started anew" in await engine.wait_failed()
        with pytest.raises(EngineError, match="3 times in a row"):
            await answer(engine, sound(1))
        stream = engine.open(Listening())
        stream.push(sound(1))  # asks for partial words, in vain
        stream.close()


async def test_out_of_memory_makes_later_batches_smaller(model: Model) -> None:
    async with started(model, interval=0.0) as engine:
        first = await busy(engine, model)
        model.trouble = RuntimeError("CUDA failed with error out of memory")
        others = [asyncio.create_task(answer(engine, sound(2))) for _ in range(4)]
        await asyncio.sleep(0.05)
        model.go.set()
        failed = await asyncio.gather(first, *others, return_exceptions=True)
        assert all(isinstance(one, EngineError) for one in failed)
        model.trouble = None
        first = await busy(engine, model)
        others = [asyncio.create_task(answer(engine, sound(2))) for _ in range(4)]
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(first, *others)
    assert model.heard == [[1], [2, 2], [2, 2]]


async def test_stopping_fails_who_waits(model: Model) -> None:
    async with started(model, interval=0.0) as engine:
        first = await busy(engine, model)
        waiting = asyncio.create_task(answer(engine, sound(2)))
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0.05)
        model.go.set()
        await stopping
        assert (await first).text == "word0"
        with pytest.raises(EngineError, match="stopped"):
            await waiting
        with pytest.raises(EngineError, match="stopped"):
            await answer(engine, sound(1))


@pytest.mark.parametrize("padding", [0.5, 4.0])
async def test_longer_than_the_model_sees_is_heard_to_its_end(model: Model, padding: float) -> None:
    options = {"interval": 0.0, "align": True, "repetitive": 100, "padding": padding}
    async with started(model, **options) as engine:
        heard = await answer(engine, sound(40))
    assert len(heard.committed) >= 25
    assert len(model.heard) > 1
    assert all(seconds <= 30 for batch in model.heard for seconds in batch)
    assert heard.end == 40 * RATE


def test_padding_leaves_room_for_a_window_that_is_cut() -> None:
    with pytest.raises(ValueError, match=r"whisper.padding is 5.0 s; expected 0.0 to 4.0 s"):
        WhisperOptions(padding=5.0)  # windows would never grow so long that they must be cut


async def test_the_language_is_the_one_of_the_call(model: Model) -> None:
    async with started(model) as engine:
        await answer(engine, sound(1), listening=Listening(language="de-AT", call="one"))
        assert model.detected == 0
        await answer(engine, sound(1), listening=Listening(language="", call="one"))
    prompt = ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    assert model.prompts == [prompt, prompt]
    assert model.detected == 1  # what was told once is not what was found out


async def test_a_language_is_found_out_once_in_a_call(model: Model) -> None:
    async with started(model, language="auto") as engine:
        for call in ("one", "one", "two", ""):
            await answer(engine, sound(1), listening=Listening(language="en", call=call))
    assert [prompt[1] for prompt in model.prompts] == ["<|de|>"] * 4
    assert model.detected == 3


async def test_a_language_that_is_not_sure_is_looked_for_again(model: Model) -> None:
    model.likely = 0.4
    async with started(model) as engine:
        for _ in range(2):
            await answer(engine, sound(1), listening=Listening(language="", call="one"))
    assert model.detected == 2


async def test_a_model_of_english_alone_is_told_no_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(tmp_path, languages=False)
    monkeypatch.setattr("asr.whisper_model.load", lambda source, options: model)
    async with started(model, language="auto") as engine:
        assert (await answer(engine, sound(1))).text == "word0"
    assert model.prompts == [["<|startoftranscript|>", "<|notimestamps|>"]]
    assert model.detected == 0


async def test_a_language_that_the_model_does_not_know_is_named(model: Model) -> None:
    engine = Whisper("tiny", WhisperOptions(language="xx"))
    with pytest.raises(EngineError, match=r"whisper\.language is 'xx'; .* knows en, de, and"):
        await engine.start()
    await engine.stop()


async def test_a_vocabulary_that_is_too_long_is_cut_with_a_warning(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    model.tokens.encode = lambda text: [50] * 300  # type: ignore[method-assign]
    async with started(model, vocabulary="many names") as engine:
        await answer(engine, sound(1))
    assert "whisper.vocabulary has 300 tokens: only the first 199 are read" in caplog.text
    assert model.prompts[0].count("\u0120word50") == 199


async def test_the_vocabulary_is_read_first(model: Model) -> None:
    async with started(model, vocabulary="Okafor Lindqvist") as engine:
        await answer(engine, sound(1))
    [prompt] = model.prompts
    assert prompt[:4] == [
        "<|startofprev|>",
        "\u0120word50",
        "\u0120word51",
        "<|startoftranscript|>",
    ]


async def test_the_device_is_asked_for_with_the_most_urgent_deadline(model: Model) -> None:
    turns: list[tuple[str, float]] = []

    class Turns:
        @contextmanager
        def turn(self, kind: str, deadline: Any, cost: float) -> Iterator[None]:
            turns.append((kind, deadline()))
            yield

    async with started(model, turns=Turns(), interval=0.0) as engine:
        await answer(engine, sound(1), 123.0)
        assert turns == [("asr final", 123.0)]


async def test_a_directory_without_a_model_is_named_with_the_remedy(tmp_path: Path) -> None:
    engine = Whisper(str(tmp_path))
    with pytest.raises(EngineError, match="expected a directory in CTranslate2 format"):
        await engine.start()
    with pytest.raises(EngineError, match="did not start"):
        await answer(engine, sound(1))
    await engine.stop()


async def test_a_truncated_model_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x06\x00\x00\x00")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    engine = Whisper(str(tmp_path), WhisperOptions(device="cpu"))
    with pytest.raises(EngineError, match="cut off, delete the directory and fetch it again"):
        await engine.start()
    await engine.stop()


async def test_a_missing_tokenizer_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x06\x00\x00\x00")
    (tmp_path / "config.json").write_text("{}")
    engine = Whisper(str(tmp_path), WhisperOptions(device="cpu"))
    with pytest.raises(EngineError, match=r"no tokenizer\.json .* name it in --copy_files"):
        await engine.start()
    await engine.stop()


@pytest.mark.parametrize(
    ("file", "backend", "other"),
    [("model.bin", "torch", "ctranslate2"), ("model.safetensors", "ctranslate2", "torch")],
)
async def test_a_model_of_the_other_backend_is_told(
    tmp_path: Path, file: str, backend: str, other: str
) -> None:
    (tmp_path / file).write_bytes(b"")
    engine = Whisper(str(tmp_path), WhisperOptions(backend=backend))
    with pytest.raises(EngineError, match=f"is a model for whisper.backend = {other}"):
        await engine.start()
    await engine.stop()


async def test_offline_no_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def download(name: str, local_files_only: bool) -> str:
        asked.append(local_files_only)
        raise OSError("not in the cache")

    monkeypatch.setattr("faster_whisper.utils.download_model", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    engine = Whisper("tiny")
    with pytest.raises(EngineError, match="HF_HUB_OFFLINE is set and the model is not in"):
        await engine.start()
    assert asked == [True]
    await engine.stop()


@pytest.mark.parametrize("device", ["cuda", "auto"])
async def test_a_gpu_without_cublas_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    for file in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / file).write_text("{}")
    monkeypatch.setattr("asr.whisper_model.gpus", lambda: 1)
    monkeypatch.setattr("asr.whisper_model.cublas", lambda: False)
    engine = Whisper(str(tmp_path), WhisperOptions(device=device))
    with pytest.raises(EngineError, match=r"pip install nvidia-cublas-cu12.*backend = torch"):
        await engine.start()
    await engine.stop()


@pytest.mark.parametrize(
    ("gpus", "cublas", "fetched"),
    [(0, False, "ctranslate2"), (1, True, "ctranslate2"), (1, False, "torch")],
)
async def test_a_name_is_fetched_in_the_format_that_this_machine_can_run(
    monkeypatch: pytest.MonkeyPatch, gpus: int, cublas: bool, fetched: str
) -> None:
    def fetch(source: str, backend: str, offline: bool) -> str:
        raise OSError(f"no {source} for {backend}")

    monkeypatch.setattr("asr.whisper_model.gpus", lambda: gpus)
    monkeypatch.setattr("asr.whisper_model.cublas", lambda: cublas)
    monkeypatch.setattr("asr.whisper_model._fetch", fetch)
    engine = Whisper("small")
    with pytest.raises(EngineError, match=f"no small for {fetched}.*Is there a network"):
        await engine.start()
    await engine.stop()


# What may change while calls go on.


async def test_the_next_batch_has_another_beam_and_window_and_size(model: Model) -> None:
    async with started(model, interval=0.0, window="full") as engine:
        await answer(engine, sound(1))
        engine.adjust("whisper.beam", 3)
        engine.adjust("whisper.window", 1)
        engine.adjust("whisper.batch", 1)
        first = await busy(engine, model)
        others = [asyncio.create_task(answer(engine, sound(1), s)) for s in (3, 2)]
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(first, *others)
    assert model.beams == [1, 3, 3, 3]
    assert model.columns[0] == [3000]
    assert [len(batch) for batch in model.columns] == [1, 1, 1, 1]
    assert all(batch[0] < 200 for batch in model.columns[1:])


async def test_partial_words_come_as_often_as_was_said_last_before_the_utterance(
    model: Model,
) -> None:
    async with started(model, interval=0.0) as engine:
        before = engine.open(Listening())
        engine.adjust("whisper.interval", 0.5)
        after = engine.open(Listening())
        for stream in (before, after):
            stream.push(sound(2))
        async with asyncio.timeout(10):
            await anext(after.hypotheses())
        assert model.heard == [[2]]
        await asyncio.gather(before.finish(0), after.finish(0))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("whisper.interval", 9.0, "whisper.interval is 9.0 s; expected 0.1 to 5.0 s"),
        ("whisper.beam", 1.5, "whisper.beam is 1.5; expected a whole number"),
        ("whisper.beam", float("inf"), "expected a whole number"),
        ("whisper.batch", 0, "whisper.batch is 0; expected 1 to 256"),
        ("whisper.window", 2, "whisper.window is 2; expected 0 .full. or 1 .short."),
        ("whisper.device", 1, "cannot change whisper.device while it runs, but whisper.interval"),
    ],
)
async def test_what_cannot_be_changed_is_named(
    model: Model, name: str, value: float, message: str
) -> None:
    async with started(model) as engine:
        with pytest.raises(ValueError, match=message):
            engine.adjust(name, value)
        assert (await answer(engine, sound(1))).text == "word0"
    assert model.beams == [1]


async def test_what_a_model_has_fixed_is_not_offered(model: Model) -> None:
    model.fixed = ("whisper.beam",)
    async with started(model) as engine:
        assert engine.adjustable == ("whisper.interval", "whisper.window", "whisper.batch")
        with pytest.raises(ValueError, match=r"cannot change whisper\.beam while it runs"):
            engine.adjust("whisper.beam", 1)

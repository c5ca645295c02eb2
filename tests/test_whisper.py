import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from asr.engine import EngineError, Hypothesis, Listening
from asr.whisper import Whisper

from speech import RATE, Pcm, noise, silence


class Model:
    """Stands in for faster-whisper's model: hears one word a second."""

    is_multilingual = True

    def __init__(self, *_: object, **options: Any) -> None:
        self.options = options
        self.heard: list[int] = []
        self.doubt = -0.1
        self.go = threading.Event()
        self.go.set()

    def transcribe(self, pcm: Pcm, **options: Any) -> tuple[Iterator[SimpleNamespace], None]:
        assert options["language"] == "en"
        self.go.wait(10)
        if not np.isfinite(pcm).all():
            raise RuntimeError("the samples are no numbers")
        self.heard.append(len(pcm))
        words = [
            SimpleNamespace(word=f" word{second}", start=second, end=second + 0.5, probability=0.9)
            for second in range(len(pcm) // RATE)
        ]
        segment = SimpleNamespace(
            words=words, tokens=[0] * 8, avg_logprob=self.doubt, no_speech_prob=0.1
        )
        return iter([segment]), None


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Whisper]:
    monkeypatch.setattr("faster_whisper.WhisperModel", Model)
    engine = Whisper("tiny")
    await engine.start()
    engine._model.heard.clear()
    yield engine
    await engine.stop()


def sound(seconds: float) -> Pcm:
    return noise(seconds) * np.float32(0.1)


async def answer(engine: Whisper, pcm: Pcm, deadline: float = 0.0) -> Hypothesis:
    stream = engine.open(Listening(language="en-US"))
    stream.push(pcm)
    return await stream.finish(deadline)


async def test_an_utterance_comes_back_with_word_times_and_confidence(engine: Whisper) -> None:
    heard = await answer(engine, sound(2))
    assert heard.text == "word0 word1"
    assert (heard.committed[1].start, heard.committed[1].end) == (1, 1.5)
    assert heard.end == 2 * RATE
    assert heard.confidence == pytest.approx(np.exp(-0.1) * 0.9)


async def test_doubtful_words_are_not_confident(engine: Whisper) -> None:
    engine._model.doubt = -1.0
    assert (await answer(engine, sound(2))).confidence < 0.5


async def test_silence_never_reaches_the_model(engine: Whisper) -> None:
    for pcm in (silence(2), sound(2) * np.float32(0.005), sound(0.05), silence(0)):
        heard = await answer(engine, pcm)
        assert (heard.text, heard.confidence) == ("", 0.0)
    assert engine._model.heard == []


async def test_the_samples_are_copied_when_they_are_pushed(engine: Whisper) -> None:
    stream, pcm = engine.open(Listening()), sound(2)
    stream.push(pcm)
    pcm[:] = np.nan
    assert (await stream.finish(0)).text == "word0 word1"


async def test_the_most_urgent_utterance_is_decoded_first(engine: Whisper) -> None:
    engine._model.go.clear()
    first = asyncio.create_task(answer(engine, sound(1), deadline=1))
    await asyncio.sleep(0.05)  # now the model is busy with it
    others = [asyncio.create_task(answer(engine, sound(s), deadline=9 - s)) for s in (2, 3, 4)]
    await asyncio.sleep(0.05)
    engine._model.go.set()
    await asyncio.gather(first, *others)
    assert engine._model.heard == [seconds * RATE for seconds in (1, 4, 3, 2)]


async def test_the_loop_goes_on_while_the_model_works(engine: Whisper) -> None:
    engine._model.go.clear()
    task = asyncio.create_task(answer(engine, sound(1)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    engine._model.go.set()
    await task


async def test_a_closed_utterance_is_not_decoded(engine: Whisper) -> None:
    engine._model.go.clear()
    first = asyncio.create_task(answer(engine, sound(1)))
    stream = engine.open(Listening())
    stream.push(sound(2))
    closed = asyncio.create_task(stream.finish(9))
    await asyncio.sleep(0.05)
    stream.close()
    stream.close()
    with pytest.raises(EngineError, match="closed"):
        await closed
    engine._model.go.set()
    await first
    await answer(engine, sound(3))
    assert engine._model.heard == [RATE, 3 * RATE]


async def test_hypotheses_end_with_the_final_one(engine: Whisper) -> None:
    stream = engine.open(Listening())
    stream.push(sound(1))
    final = await stream.finish(0)
    assert [hypothesis async for hypothesis in stream.hypotheses()] == [final]
    closed = engine.open(Listening())
    closed.close()
    assert [hypothesis async for hypothesis in closed.hypotheses()] == []


async def test_a_failing_model_fails_the_utterance_and_no_other(engine: Whisper) -> None:
    bad = sound(1)
    bad[100] = np.inf
    with pytest.raises(EngineError, match="Whisper failed: the samples are no numbers"):
        await answer(engine, bad)
    assert (await answer(engine, sound(1))).text == "word0"


async def test_a_directory_without_a_model_is_named_with_the_remedy(tmp_path: Path) -> None:
    engine = Whisper(str(tmp_path))
    with pytest.raises(EngineError, match="expected a directory in CTranslate2 format"):
        await engine.start()
    await engine.stop()


async def test_a_truncated_model_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x06\x00\x00\x00")
    (tmp_path / "config.json").write_text("{}")
    engine = Whisper(str(tmp_path), device="cpu")
    with pytest.raises(EngineError, match="cut off, delete the directory and fetch it again"):
        await engine.start()
    await engine.stop()


async def test_offline_no_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faster_whisper.WhisperModel", Model)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    engine = Whisper("tiny")
    await engine.start()
    assert engine._model.options["local_files_only"] is True
    await engine.stop()

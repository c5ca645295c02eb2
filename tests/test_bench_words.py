"""Real engines whose words are replaced: all of their work is done, and no more."""

import asyncio
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from asr.engine import RATE, Listening
from asr.fake import Fake as FakeEars
from llm.engine import Message, Params, Text, Usage
from llm.fake import Fake as FakeMind
from voice import bench_words
from voice.prefill import Prefill
from voice.stubs import REPLY, TRANSCRIPT


async def test_every_utterance_is_heard_as_the_agreed_words() -> None:
    real = FakeEars(["gibberish", ""], confidence=0.1)
    ears = bench_words.Ears(real)
    for _ in range(2):
        stream = ears.open(Listening())
        assert real.listening == 1
        stream.push(np.zeros(RATE, np.float32))
        heard = await stream.finish(0.0)
        assert heard.text == TRANSCRIPT
        assert heard.confidence == 1.0
        assert heard.committed[-1].end == pytest.approx(1.0)
        assert real.listening == 0


async def test_words_are_sure_as_time_goes_on_though_the_real_ones_are_not() -> None:
    real = FakeEars([""])
    stream = bench_words.Ears(real).open(Listening())
    heard = []

    async def listen() -> None:
        async for hypothesis in stream.hypotheses():
            heard.append(" ".join(word.text for word in hypothesis.committed))

    listening = asyncio.create_task(listen())
    for _ in range(20):
        stream.push(np.zeros(RATE // 10, np.float32))
        await asyncio.sleep(0)
    assert heard == ["Could", "Could you", "Could you please"]
    await stream.finish(0.0)
    await listening  # ends with the utterance
    assert real.listening == 0


async def test_each_piece_of_the_real_answer_becomes_a_token_of_the_agreed_one() -> None:
    real = FakeMind("x y z.")
    thread = bench_words.Mind(real).open([Message("user", "hello")], [])
    thread.append("there")
    answer = [piece async for piece in thread.generate(Params(), 0.0)]
    assert answer[:-1] == [Text("Sure"), Text(","), Text(" it"), Text(" is")]
    assert isinstance(answer[-1], Usage)
    assert real.prompts == [(Message("user", "hello there"),)]


async def test_the_real_model_is_stopped_after_the_last_agreed_word_and_when_cut_off() -> None:
    real = FakeMind("word " * 100)
    mind = bench_words.Mind(real)
    spoken = [piece async for piece in mind.open([], []).generate(Params(), 0.0)]
    assert "".join(piece.text for piece in spoken if isinstance(piece, Text)) == REPLY
    assert real.generating == 0
    async with aclosing(mind.open([], []).generate(Params(), 0.0)) as pieces:
        await anext(pieces)
        assert real.generating == 1
    assert real.generating == 0


async def test_a_real_model_that_reads_early_is_given_the_words_as_they_are_said() -> None:
    class Reading(FakeMind):
        prefills = False

        async def start(self) -> None:
            self.prefills = True  # a model in another process says so once it is loaded

    real = Reading("x y z.")
    mind = bench_words.Mind(real)
    early = Prefill(mind)
    assert not early.useful
    await mind.start()
    assert early.useful
    early.read([], [], "Could you")
    early.read([], [], "Could you please")
    read = early._thread
    thread = early.take([Message("user", TRANSCRIPT)], [])
    assert thread is read
    answer = [piece async for piece in thread.generate(Params(max_tokens=2), 0.0)]
    assert answer[:-1] == [Text("Sure"), Text(",")]
    assert real.prompts == [(Message("user", TRANSCRIPT),)]
    thread.close()
    assert not bench_words.Mind(FakeMind("x")).prefills


@pytest.mark.parametrize("wrap", [bench_words.Ears, bench_words.Mind])
def test_what_a_real_engine_can_change_can_be_changed(wrap: Any) -> None:
    changed = []

    class Real:
        name, about, adjustable = "real", "It can change.", ("real.pace",)

        def adjust(self, name: str, value: float) -> None:
            changed.append((name, value))

    wrapped = wrap(Real())
    assert wrapped.adjustable == ("real.pace",)
    wrapped.adjust("real.pace", 2.0)
    assert changed == [("real.pace", 2.0)]
    assert wrap(FakeEars()).adjustable == ()

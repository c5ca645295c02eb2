import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.engine import RATE, Hypothesis, Word
from asr.sphinx_decoder import Line
from asr.sphinx_wire import Kind, Messages, from_json, pack, pack_json, to_json
from asr.sphinx_worker import PATIENCE, PIECE, Desk


@dataclass
class Decoder:
    """Stands in for pocketsphinx: its words are how much it has heard."""

    topic: str = ""
    heard: int = 0
    lent: int = 0
    log: list[str] = field(default_factory=list)
    line: Line = field(default_factory=lambda: Line(np.zeros(13), 7))

    def begin(self, topic: str, line: Line | None) -> None:
        self.topic, self.heard = topic, 0
        self.lent += 1

    def hear(self, samples: np.ndarray) -> None:
        if samples.max() == 666:
            raise RuntimeError("it broke")
        self.heard += len(samples)
        self.log.append(self.topic)

    def text(self) -> str:
        return f"{self.heard} samples"

    def end(self) -> Hypothesis:
        return Hypothesis((Word(self.text(), 0.0, 1.0),), "", 0.9, self.heard)

    def abandon(self) -> None:
        self.topic = ""


class Bench:
    """A desk with decoders, and everything it said."""

    def __init__(self, decoders: int = 1) -> None:
        self.decoders = [Decoder() for _ in range(decoders)]
        self.said: list[tuple[Kind, int, Any]] = []
        tell = lambda *message: self.said.append(message)  # noqa: E731
        self.desk = Desk(list(self.decoders), tell)  # type: ignore[arg-type]
        self.now = 0.0

    def open(self, *numbers: int) -> None:
        for number in numbers:
            self.desk.receive(Kind.OPEN, number, json.dumps([f"topic{number}", None]).encode())

    def audio(self, number: int, samples: int, value: int = 1) -> None:
        self.desk.receive(Kind.AUDIO, number, np.full(samples, value, "<i2").tobytes())

    def finish(self, number: int, deadline: float = 0.0) -> None:
        self.desk.receive(Kind.FINISH, number, json.dumps(deadline).encode())

    def work(self) -> None:
        while self.desk.step(self.now):
            self.now += 0.01

    def answers(self, kind: Kind = Kind.FINAL) -> list[int]:
        return [number for told, number, _ in self.said if told is kind]


def test_all_audio_is_decoded_before_the_answer() -> None:
    bench = Bench()
    bench.open(7)
    for _ in range(10):
        bench.audio(7, 320)
    bench.finish(7)
    bench.work()
    kind, number, value = bench.said[-1]
    assert (kind, number) == (Kind.FINAL, 7)
    assert value[0]["words"][0][0] == "3200 samples"


def test_partial_words_come_when_they_changed_and_not_too_often() -> None:
    bench = Bench()
    bench.open(1)
    for _ in range(20):
        bench.audio(1, PIECE)
        bench.desk.step(bench.now)
        bench.now += 0.0625
    times = len(bench.answers(Kind.PARTIAL))
    assert times == 9  # in 1.25 s, with a look every 62.5 ms
    bench.now += 1
    bench.work()
    assert len(bench.answers(Kind.PARTIAL)) == times


def test_who_finds_no_decoder_free_waits_and_is_caught_up() -> None:
    bench = Bench(decoders=1)
    bench.open(1, 2)
    bench.audio(1, PIECE)
    bench.work()
    bench.audio(2, 5 * PIECE)
    bench.finish(2)
    bench.work()
    assert bench.answers() == []
    bench.finish(1)
    bench.work()
    assert bench.answers() == [1, 2]
    assert bench.said[-1][2][0]["words"][0][0] == f"{5 * PIECE} samples"
    assert bench.decoders[0].lent == 2


def test_the_earliest_deadline_is_answered_first() -> None:
    bench = Bench(decoders=3)
    bench.open(1, 2, 3)
    for number, deadline in ((1, 30.0), (2, 10.0), (3, 20.0)):
        bench.audio(number, 4 * PIECE)
        bench.finish(number, deadline)
    bench.work()
    assert bench.answers() == [2, 3, 1]


def test_an_answer_that_is_wanted_goes_before_somebody_who_still_speaks() -> None:
    bench = Bench(decoders=2)
    bench.open(1, 2)
    bench.audio(1, 20 * PIECE)
    bench.audio(2, PIECE)
    bench.finish(2)
    for _ in range(2):
        bench.desk.step(0.0)
    assert bench.answers() == [2]


def test_a_closed_utterance_frees_its_decoder_and_says_nothing_more() -> None:
    bench = Bench(decoders=1)
    bench.open(1, 2)
    bench.audio(1, PIECE)
    bench.work()
    bench.desk.receive(Kind.CLOSE, 1, b"")
    bench.audio(1, PIECE)
    bench.finish(1)
    bench.audio(2, PIECE)
    bench.finish(2)
    bench.work()
    assert bench.answers() == [2]


def test_audio_waits_only_so_long() -> None:
    bench = Bench(decoders=1)
    bench.open(1, 2)
    bench.audio(1, PIECE)
    bench.work()
    for _ in range(PATIENCE + 1):
        bench.audio(2, RATE)
    assert bench.answers(Kind.FAILED) == [2]
    bench.finish(1)
    bench.work()
    assert bench.answers() == [1]


def test_a_decoder_that_breaks_fails_its_utterance_and_no_other() -> None:
    bench = Bench(decoders=1)
    bench.open(1, 2)
    bench.audio(1, PIECE, value=666)
    bench.work()
    assert bench.answers(Kind.FAILED) == [1]
    bench.audio(2, PIECE)
    bench.finish(2)
    bench.work()
    assert bench.answers() == [2]


def test_an_utterance_without_audio_has_an_empty_answer() -> None:
    bench = Bench()
    bench.open(1)
    bench.finish(1)
    bench.work()
    assert bench.answers() == [1]
    assert bench.said[-1][2][0]["end"] == 0


@given(
    st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=99))),
    st.integers(1, 50),
)
def test_messages_survive_any_cutting(sent: list[tuple[Kind, int, bytes]], size: int) -> None:
    wire = b"".join(pack(*message) for message in sent)
    messages = Messages()
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    assert [message for piece in pieces for message in messages.feed(piece)] == sent


def test_nonsense_on_the_wire_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most"):
        list(Messages().feed(b"\xff" * 20))


def test_a_hypothesis_survives_the_wire() -> None:
    said = Hypothesis((Word("at", 0.1, 0.2, 0.5), Word("ten", 0.2, 0.5)), "a m", 0.25, 8000)
    [(_, _, payload)] = Messages().feed(pack_json(Kind.FINAL, 1, to_json(said)))
    assert from_json(json.loads(payload)) == said

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tts.chunking import Piece
from tts.coqui_worker import Job, Worker
from tts.engine import Chunk, EngineError, Pcm, Word
from tts.voice_output import Output
from tts.word_times import Timed


@dataclass(eq=False)
class Speech:
    text: str
    times: Timed
    left: int
    read: bool = False
    ended: bool = False

    @property
    def speakable(self) -> bool:
        return self.text.strip() != ""


@dataclass
class Model:
    """Says a second of audio for each letter, after a step that reads the text."""

    name: str = "model"
    rate: int = 10
    voices: tuple[str, ...] = ("one",)
    longest: int = 100
    batch: int = 8
    steps: list[tuple[str, str]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    poison: dict[str, list[Exception]] = field(default_factory=dict)
    broken: str = ""

    def begin(self, text: str, words: Sequence[str], voice: str, seed: int) -> Speech:
        if text == "unreadable":
            raise KeyError(text)
        return Speech(text, Timed([Word(w, 0, 10) for w in words]), len(text))

    def kind(self, speech: Speech) -> Hashable:
        return ("say", 1) if speech.read else "read"

    def most(self, speech: Speech) -> int:
        return self.batch

    def run(self, speeches: Sequence[Speech]) -> list[Pcm | EngineError]:
        kind = self.kind(speeches[0])
        assert all(self.kind(speech) == kind for speech in speeches)
        for speech in speeches:
            if self.poison.get(speech.text):
                raise self.poison[speech.text].pop()
        self.steps.append(
            (str(kind[0]) if isinstance(kind, tuple) else "read", self.texts(speeches))
        )
        if kind == "read":
            for speech in speeches:
                speech.read = True
            return [np.zeros(0, np.float32)] * len(speeches)
        for speech in speeches:
            speech.left -= 1
            speech.ended = speech.left == 0
        return [np.full(10, np.nan if s.text == self.broken else 0.5, np.float32) for s in speeches]

    def end(self, speech: Speech) -> None:
        self.ended.append(speech.text)

    @staticmethod
    def texts(speeches: Sequence[Speech]) -> str:
        return "".join(speech.text[0] for speech in speeches)


class Device:
    freed = 0

    def stream(self, *, urgent: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def free(self) -> None:
        self.freed += 1


def job(text: str, deadline: float, got: list[Chunk | EngineError | None] | None = None) -> Job:
    got = [] if got is None else got
    output = Output(0, 0, None, None)
    return Job(Piece(text, (text,)), "one", deadline, 0, output, got.append)


def work(worker: Worker, steps: int = 50) -> None:
    for _ in range(steps):
        worker.step()


def test_the_most_urgent_goes_first_and_takes_along_who_can_take_the_same_step() -> None:
    model = Model(batch=2)
    worker = Worker(model, Device(), 1)
    for text, deadline in (("late", 9.0), ("bb", 2.0), ("aa", 1.0)):
        worker.add(job(text, deadline))
    work(worker)
    assert model.steps[:3] == [("read", "ab"), ("say", "ab"), ("say", "ab")]
    assert model.steps[3:5] == [("read", "l"), ("say", "l")]


def test_audio_already_given_makes_the_next_less_urgent() -> None:
    model = Model(batch=1)
    worker = Worker(model, Device(), 1)
    worker.add(job("aaa", 0.0))
    worker.add(job("bbb", 1.5))
    work(worker)
    said = "".join(texts for kind, texts in model.steps if kind == "say")
    # a is due at 0, 1 and 2 s, b at 1.5, 2.5 and 3.5 s.
    assert said == "aababb"


def test_chunks_then_the_end_come_to_who_waits() -> None:
    got: list[Chunk | EngineError | None] = []
    model = Model()
    worker = Worker(model, Device(), 1)
    worker.add(job("ab", 0.0, got))
    work(worker)
    first, second, last = got
    assert isinstance(first, Chunk) and isinstance(second, Chunk)
    assert (first.pcm.size, first.words) == (10, (Word("ab", 0, 10),))
    assert (second.pcm.size, second.words, last) == (10, (), None)
    assert model.ended == ["ab"]


def test_a_dropped_job_takes_no_further_step() -> None:
    model = Model()
    worker = Worker(model, Device(), 1)
    long = job("aaaaaaaa", 0.0)
    worker.add(long)
    work(worker, 3)
    long.dropped = True
    work(worker)
    assert len(model.steps) == 3
    assert model.ended == ["aaaaaaaa"]


def test_one_that_fails_does_not_harm_the_others_of_its_step() -> None:
    model = Model(poison={"c": [ValueError("boo")] * 9})
    worker = Worker(model, Device(), 1)
    got: dict[str, list[Chunk | EngineError | None]] = {text: [] for text in "abcde"}
    for text, into in got.items():
        worker.add(job(text, 0.0, into))
    work(worker)
    (error,) = [answer for answer in got.pop("c") if answer is not None]
    assert isinstance(error, EngineError)
    assert "the model failed on 'c': ValueError('boo')" in str(error)
    for into in got.values():
        assert isinstance(into[0], Chunk)
        assert into[-1] is None


def test_without_memory_the_step_is_halved_and_then_tried_once_more() -> None:
    full = MemoryError("full")
    model, device = Model(poison={"a": [full, full], "b": [full] * 9}), Device()
    worker = Worker(model, device, 1)
    got: dict[str, list[Chunk | EngineError | None]] = {"a": [], "b": [], "c": []}
    for text, into in got.items():
        worker.add(job(text, 0.0, into))
    work(worker)
    assert isinstance(got["a"][0], Chunk)
    assert isinstance(got["c"][0], Chunk)
    error = got["b"][0]
    assert isinstance(error, EngineError)
    assert "no memory left" in str(error)
    assert "coqui.batch" in str(error)
    assert device.freed >= 2


def test_samples_that_are_not_numbers_fail_their_phrase_alone() -> None:
    model = Model(broken="bad")
    worker = Worker(model, Device(), 1)
    bad: list[Chunk | EngineError | None] = []
    good: list[Chunk | EngineError | None] = []
    worker.add(job("bad", 0.0, bad))
    worker.add(job("good", 0.0, good))
    work(worker)
    assert isinstance(bad[0], EngineError)
    assert "not numbers for 'bad'" in str(bad[0])
    assert [type(answer) for answer in good] == [Chunk] * 4 + [type(None)]
    assert sorted(model.ended) == ["bad", "good"]


def test_a_text_that_cannot_be_read_is_an_error_and_nothing_to_say_is_the_end() -> None:
    worker = Worker(Model(), Device(), 1)
    unreadable: list[Chunk | EngineError | None] = []
    nothing: list[Chunk | EngineError | None] = []
    worker.add(job("unreadable", 0.0, unreadable))
    worker.add(job(" ", 0.0, nothing))
    work(worker)
    assert isinstance(unreadable[0], EngineError)
    assert nothing == [None]


def test_the_turn_is_asked_for_the_most_urgent_and_the_batch_made_once_it_is_given() -> None:
    model = Model()
    asked: list[tuple[str, float]] = []
    late = job("z", 5.0)

    class Turns:
        @contextmanager
        def turn(self, kind: str, deadline: Callable[[], float], cost: float) -> Iterator[None]:
            asked.append((kind, deadline()))
            assert cost >= 0
            if len(asked) == 1:
                worker.add(late)
            yield

    worker = Worker(model, Device(), 1, Turns())
    worker.add(job("ab", 3.0))
    worker.add(job("cd", 2.0))
    work(worker)
    assert asked[0] == ("phrase", 2.0)
    assert model.steps[0] == ("read", "caz")
    assert asked[2] == ("chunk", 3.0)  # c has been given a second of audio


def test_stopping_ends_what_is_queued_and_refuses_more() -> None:
    worker = Worker(Model(), Device(), 1)
    got: list[Chunk | EngineError | None] = []
    worker.add(job("a" * 100, 0.0, got))
    worker.stop()
    thread = threading.Thread(target=worker.run)
    thread.start()
    thread.join(5)
    assert isinstance(got[-1], EngineError)
    with pytest.raises(EngineError, match="not running"):
        worker.add(job("b", 0.0))

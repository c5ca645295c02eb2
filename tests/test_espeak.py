import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts import speak_lib
from tts.engine import Chunk, EngineError, Word
from tts.espeak import CLAUSE_PAUSE, SENTENCE_PAUSE, Espeak, Slicer
from tts.speak_lib import RATE

BOOKED = "You are booked for Tuesday at 10.30 a.m. with Dr. Miller."


@pytest.fixture
async def mouth() -> AsyncIterator[Espeak]:
    engine = Espeak()
    await engine.start()
    yield engine
    await engine.stop()


async def stream(*phrases: str) -> AsyncIterator[str]:
    for phrase in phrases:
        yield phrase


async def collect(chunks: AsyncGenerator[Chunk, None]) -> tuple[list[Word], np.ndarray]:
    async with aclosing(chunks):
        heard = [chunk async for chunk in chunks]
    words = [word for chunk in heard for word in chunk.words]
    return words, np.concatenate([chunk.pcm for chunk in heard])


def loud(pcm: np.ndarray) -> bool:
    return bool(np.abs(pcm).max() > 0.1)


async def test_every_word_sounds_where_it_says(mouth: Espeak) -> None:
    words, pcm = await collect(mouth.speak(stream(BOOKED), "", 0.0))
    assert [word.text for word in words] == BOOKED.split()
    assert words[0].start == 0
    assert words[-1].end == pcm.size
    for word, following in pairwise(words):
        assert word.end == following.start
    assert all(loud(pcm[word.start : word.end]) for word in words)
    assert 2 * RATE < pcm.size < 6 * RATE


async def test_audio_is_float32_within_one_and_begins_at_once(mouth: Espeak) -> None:
    _, pcm = await collect(mouth.speak(stream("— Hello."), "", 0.0))
    assert pcm.dtype == np.float32
    assert 0.2 < np.abs(pcm).max() <= 1.0
    assert abs(pcm[0]) > 0.003


async def test_the_words_of_many_kinds_of_phrases_are_the_phrase(mouth: Espeak) -> None:
    phrases = [
        "That is $3,000 & 50%, e.g. www.example.com, O'Neil's; well-known.",
        "— yes — one of the best «Äh» … naïve 你好 ok",
        "Room 1024, 5:30 pm, 21st of May 2026; call +1 (555) 123-4567.",
        "…",
        "[[x]] <b> \0 \ud800 !!",
        "ok",
    ]
    words, pcm = await collect(mouth.speak(stream(*phrases), "", 0.0))
    assert " ".join(word.text for word in words) == " ".join(phrases)
    assert all(0 <= word.start <= word.end <= pcm.size for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


async def test_words_count_on_over_phrases_and_a_short_pause_lies_between(mouth: Espeak) -> None:
    words, pcm = await collect(mouth.speak(stream("One.", "two,", "three"), "", 0.0))
    one, two, three = words
    assert two.start - one.end == round(SENTENCE_PAUSE * RATE)
    assert three.start - two.end == round(CLAUSE_PAUSE * RATE)
    assert three.end == pcm.size
    assert not loud(pcm[one.end : two.start])
    assert all(loud(pcm[word.start : word.end]) for word in words)


async def test_empty_phrases_are_passed_over(mouth: Espeak) -> None:
    words, _ = await collect(mouth.speak(stream("", "  ", "Hello."), "", 0.0))
    assert [word.text for word in words] == ["Hello."]


async def test_closing_one_speak_stops_it_and_leaves_the_other_alone(mouth: Espeak) -> None:
    other = asyncio.create_task(collect(mouth.speak(stream(BOOKED, BOOKED), "en-us+m3", 0.0)))
    async with aclosing(mouth.speak(stream(*[BOOKED * 50] * 3), "", 0.0)) as chunks:
        await anext(chunks)
    words, _ = await other
    assert [word.text for word in words] == BOOKED.split() * 2
    words, _ = await collect(mouth.speak(stream("Still here."), "", 0.0))
    assert [word.text for word in words] == ["Still", "here."]


async def test_closing_stops_the_synthesis_itself(
    mouth: Espeak, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bool] = []
    synthesise = speak_lib.synthesise

    def watched(text: str, voice: str, speed: int, receive: speak_lib.Receive) -> None:
        def listen(pcm: np.ndarray, begins: object) -> bool:
            answers.append(receive(pcm, begins))  # type: ignore[arg-type]
            return answers[-1]

        synthesise(text, voice, speed, listen)

    monkeypatch.setattr(speak_lib, "synthesise", watched)
    async with aclosing(mouth.speak(stream(BOOKED * 200), "", 0.0)) as chunks:
        await anext(chunks)
    await collect(mouth.speak(stream("ok"), "", 0.0))
    assert answers.count(False) == 1
    assert len(answers) < 1000


async def test_the_most_urgent_phrase_is_spoken_first(
    mouth: Espeak, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    begun, go_on = threading.Event(), threading.Event()
    synthesise = speak_lib.synthesise

    def watched(text: str, voice: str, speed: int, receive: speak_lib.Receive) -> None:
        order.append(text)
        begun.set()
        go_on.wait()  # the first phrase holds the thread while the others ask
        synthesise(text, voice, speed, receive)

    monkeypatch.setattr(speak_lib, "synthesise", watched)
    try:
        held = asyncio.create_task(collect(mouth.speak(stream("first"), "", 0.0)))
        await asyncio.to_thread(begun.wait)
        jobs = [
            asyncio.create_task(collect(mouth.speak(stream(text), "", due)))
            for text, due in {"late": 9.0, "soon": 5.0, "later": 9.5}.items()
        ]
        await asyncio.sleep(0)  # each has asked
    finally:
        go_on.set()
    await asyncio.gather(held, *jobs)
    assert order == ["first", "soon", "late", "later"]


async def test_all_voices_differ(mouth: Espeak) -> None:
    first = {}
    for voice in mouth.voices:
        _, pcm = await collect(mouth.speak(stream("Good morning, 10."), voice, 0.0))
        first[voice] = (pcm.size, round(float(np.square(pcm).sum())))
    assert len(set(first.values())) == len(mouth.voices)


async def test_a_higher_speed_is_shorter() -> None:
    sizes = []
    for speed in (120, 240):
        engine = Espeak(speed=speed)
        await engine.start()
        _, pcm = await collect(engine.speak(stream(BOOKED), "", 0.0))
        sizes.append(pcm.size)
        await engine.stop()
    assert sizes[1] < 0.7 * sizes[0]


def test_a_speed_out_of_range_is_an_error_that_names_the_range() -> None:
    with pytest.raises(ValueError, match="speed is 20 words per minute, expected 80 to 450"):
        Espeak(speed=20)


async def test_a_voice_it_has_not_got_is_an_error_that_names_the_others(mouth: Espeak) -> None:
    with pytest.raises(EngineError, match=r"'en-gb'.*en-us, en-us\+f1"):
        await collect(mouth.speak(stream("Hello."), "en-gb", 0.0))


async def test_speaking_after_stop_is_an_error_and_start_mends_it(mouth: Espeak) -> None:
    await mouth.stop()
    await mouth.stop()
    with pytest.raises(EngineError, match=r"await start\(\) first"):
        await collect(mouth.speak(stream("Hello."), "", 0.0))
    await mouth.start()
    await collect(mouth.speak(stream("Hello."), "", 0.0))


async def test_an_error_nobody_foresaw_ends_one_speak_and_not_the_engine(
    mouth: Espeak, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(speak_lib, "synthesise", broken)
        with pytest.raises(EngineError, match="MemoryError"):
            await collect(mouth.speak(stream("Hello."), "", 0.0))
    await collect(mouth.speak(stream("Hello."), "", 0.0))


async def test_stop_ends_what_is_being_spoken(mouth: Espeak) -> None:
    async with aclosing(mouth.speak(stream(BOOKED * 500), "", 0.0)) as chunks:
        await anext(chunks)
        await mouth.stop()
        with pytest.raises(EngineError, match="stopped"):
            async for _ in chunks:
                pass


def test_the_process_exits_cleanly_while_it_speaks() -> None:
    script = """
import asyncio
from tts.espeak import Espeak

async def phrases():
    yield "Hello there. " * 30_000

async def main():
    mouth = Espeak()
    await mouth.start()
    chunks = mouth.speak(phrases(), "", 0.0)
    await anext(chunks)
    return chunks

unfinished = asyncio.new_event_loop().run_until_complete(main())
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_word_begins_where_it_sounds_after_silence_was_cut_and_a_pause_put_before() -> None:
    slicer = Slicer(["one", "of", "the", "—", "two"], pause=50 / RATE)
    pcm = np.full(1000, 0.5, np.float32)
    pcm[:100] = 0
    (chunk,) = slicer.add(pcm, [(0, 0), (4, 400)])
    assert chunk.words == (Word("one", 50, 350),)
    assert (chunk.pcm.size, np.count_nonzero(chunk.pcm)) == (350, 300)
    (chunk,) = slicer.add(pcm[:500], [(13, 1400)])
    assert chunk.words == (Word("of", 350, 750), Word("the", 750, 1350), Word("—", 1350, 1350))
    assert slicer.end().words == (Word("two", 1350, 1450),)


@given(
    st.lists(st.sampled_from(["a", "ten,", "—", "10.30", "of"]), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3000)), max_size=10),
    st.integers(1, 3000),
    st.integers(0, 1000),
    st.integers(0, 2000),
)
def test_a_slicer_loses_no_word_and_no_sample_whatever_begins_when(
    words: list[str], begins: list[tuple[int, int]], step: int, lead: int, pause: int
) -> None:
    slicer = Slicer(words, pause / RATE)
    pcm = np.full(3000, 0.5, np.float32)
    pcm[:lead] = 0
    begins = sorted(begins, key=lambda begin: begin[1])
    chunks = []
    for start in range(0, pcm.size, step):
        here = [begin for begin in begins if start <= begin[1] < start + step]
        chunks += slicer.add(pcm[start : start + step], here)
    chunks.append(slicer.end())
    out = [word for chunk in chunks for word in chunk.words]
    assert [word.text for word in out] == words
    assert sum(chunk.pcm.size for chunk in chunks) == pause + pcm.size - lead
    assert out[0].start == pause
    assert out[-1].end == pause + pcm.size - lead
    assert all(one.end == two.start for one, two in pairwise(out))

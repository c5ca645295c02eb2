from collections.abc import AsyncIterator
from contextlib import aclosing

import numpy as np
import pytest

from tts.engine import Chunk, EngineError, Word
from tts.fake import Fake


async def stream(*phrases: str) -> AsyncIterator[str]:
    for phrase in phrases:
        yield phrase


async def speak(mouth: Fake, *phrases: str, voice: str = "") -> list[Chunk]:
    async with aclosing(mouth.speak(stream(*phrases), voice, 0.0)) as chunks:
        return [chunk async for chunk in chunks]


async def test_every_character_of_a_word_lasts_60_ms() -> None:
    mouth = Fake(rate=1000)
    chunks = await speak(mouth, "Hello, you.", "Bye.")
    assert [word for chunk in chunks for word in chunk.words] == [
        Word("Hello,", 0, 360),
        Word("you.", 360, 600),
        Word("Bye.", 600, 840),
    ]
    assert [chunk.pcm.size for chunk in chunks] == [360, 240, 240]
    assert mouth.phrases == ["Hello, you.", "Bye."]


async def test_words_may_all_last_the_same() -> None:
    chunks = await speak(Fake(word=0.1, rate=1000), "a longer one")
    assert [chunk.pcm.size for chunk in chunks] == [100, 100, 100]


async def test_the_tone_is_220_hz_without_clicks_between_words() -> None:
    pcm = np.concatenate([chunk.pcm for chunk in await speak(Fake(), "one two")])
    assert pcm.dtype == np.float32
    assert np.abs(pcm).max() <= 0.3
    assert np.abs(np.diff(pcm)).max() < 0.02
    hertz = np.abs(np.fft.rfft(pcm)).argmax() * 24_000 / pcm.size
    assert abs(hertz - 220) < 3


async def test_closing_takes_no_further_phrase() -> None:
    mouth = Fake()
    async with aclosing(mouth.speak(stream("one two", "three"), "", 0.0)) as chunks:
        await anext(chunks)
        assert mouth.speaking == 1
    assert mouth.speaking == 0
    assert mouth.phrases == ["one two"]


async def test_a_voice_it_has_not_got_is_an_error_that_names_the_others() -> None:
    with pytest.raises(EngineError, match=r"'bass'.*hum, hum-low"):
        await speak(Fake(), "one", voice="bass")

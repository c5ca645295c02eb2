import asyncio
from pathlib import Path

import numpy as np
import pytest
from speech import Pcm, noise, say, silence

from asr.engine import EngineError, Hypothesis, Listening
from asr.sphinx import Sphinx

TOPICS = {
    "open": "book an appointment\ncancel my appointment\nwhat are your opening hours\n" * 5,
    "day": "on monday\non tuesday\non wednesday\non thursday\non friday\nmonday\ntuesday\nfriday\n",
    "yes_no": "yes please\nno thank you\nyes\nno\n" * 3,
    "background": "the dog is barking again\nwe watched a film about whales\n",
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    for topic, lines in TOPICS.items():
        (folder / f"{topic}.txt").write_text(lines)
    return folder


def utterance(text: str, voice: str = "en-us") -> Pcm:
    return np.concatenate([silence(0.2), say(text, voice), silence(0.1)])


async def heard(engine: Sphinx, pcm: Pcm, expects: str = "") -> Hypothesis:
    """Push an utterance as a line does, in pieces of 20 ms, and return the answer."""
    stream = engine.open(Listening(expects=expects))
    for start in range(0, len(pcm), 320):
        stream.push(pcm[start : start + 320])
    return await stream.finish(asyncio.get_running_loop().time())


async def test_words_come_back_with_times(speech: Path) -> None:
    engine = Sphinx(speech, decoders=1)
    await engine.start()
    try:
        answer = await heard(engine, utterance("cancel my appointment"))
    finally:
        await engine.stop()
    assert answer.text == "cancel my appointment"
    print(answer)


async def test_other(speech: Path) -> None:
    engine = Sphinx(speech, decoders=2)
    await engine.start()
    try:
        for t, e in (
            ("on friday", "day"),
            ("yes please", "yes_no"),
            ("what are your opening hours", ""),
        ):
            print(await heard(engine, utterance(t), e))
    finally:
        await engine.stop()

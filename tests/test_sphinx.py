import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from asr.engine import EngineError, Hypothesis, Listening
from asr.sphinx import Sphinx

from speech import RATE, Pcm, mix, noise, say, silence

ROOT = Path(__file__).parent.parent

TOPICS = {
    "open": "book an appointment\ncancel my appointment\nwhat are your opening hours\n" * 5,
    "day": "on monday\non tuesday\non wednesday\non thursday\non friday\nmonday\ntuesday\nfriday\n",
    "yes_no": "yes please\nno thank you\nyes\nno\n" * 3,
    "background": "the dog is barking again\nwe watched a film about whales\nxyzzy\n",
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    for topic, lines in TOPICS.items():
        (folder / f"{topic}.txt").write_text(lines)
    return folder


@pytest.fixture
async def engine(speech: Path) -> AsyncIterator[Sphinx]:
    engine = Sphinx(speech, processes=1, decoders=2)
    await engine.start()
    yield engine
    await engine.stop()


def utterance(text: str, voice: str = "en-us") -> Pcm:
    """What a line gives to a recogniser: speech with a little silence around it."""
    return np.concatenate([silence(0.2), say(text, voice), silence(0.1)])


async def heard(engine: Sphinx, pcm: Pcm, expects: str = "") -> Hypothesis:
    """Push an utterance as a line does, in pieces of 20 ms, and return the answer."""
    stream = engine.open(Listening(expects=expects))
    for start in range(0, len(pcm), 320):
        stream.push(pcm[start : start + 320])
    return await stream.finish(asyncio.get_running_loop().time())


def worker(engine: Sphinx) -> int:
    """Process id of the engine's only worker."""
    process = engine._workers[0]._process
    assert process is not None
    return process.pid


async def test_words_come_back_with_their_times(engine: Sphinx) -> None:
    pcm = utterance("cancel my appointment")
    answer = await heard(engine, pcm)
    assert answer.text == "cancel my appointment"
    assert answer.tentative == ""
    assert answer.end == len(pcm)
    starts = [word.start for word in answer.committed]
    assert starts == sorted(starts)
    assert abs(answer.committed[0].start - 0.2) < 0.1
    assert abs(answer.committed[-1].end - (len(pcm) / RATE - 0.1)) < 0.1


async def test_expected_words_are_believed(engine: Sphinx) -> None:
    for text, topic in (("on friday", "day"), ("yes please", "yes_no"), ("no thank you", "yes_no")):
        answer = await heard(engine, utterance(text), topic)
        assert (answer.text, answer.confidence >= 0.5) == (text, True)


async def test_a_topic_hears_its_own_sentences_only(engine: Sphinx) -> None:
    answer = await heard(engine, utterance("on friday"), "yes_no")
    assert "friday" not in answer.text
    assert answer.confidence < 0.5


async def test_an_unknown_topic_listens_for_anything(engine: Sphinx) -> None:
    answer = await heard(engine, utterance("cancel my appointment"), "no such topic")
    assert answer.text == "cancel my appointment"


@pytest.mark.parametrize("text", ["She sells sea shells.", "Where is the railway station?"])
@pytest.mark.parametrize("topic", ["", "day"])
async def test_what_no_caller_says_is_not_believed(engine: Sphinx, text: str, topic: str) -> None:
    assert (await heard(engine, utterance(text), topic)).confidence < 0.5


async def test_noise_and_silence_are_not_believed(engine: Sphinx) -> None:
    for pcm in (silence(1), noise(1) * np.float32(0.1), np.zeros(0, np.float32), silence(0.01)):
        assert (await heard(engine, pcm, "yes_no")).confidence < 0.5


async def test_the_caller_before_leaves_nothing_behind(engine: Sphinx) -> None:
    pcm = utterance("on tuesday")
    alone = await heard(engine, pcm, "day")
    await heard(engine, mix(utterance("no thank you", "en-us+f3"), noise(3), 5), "yes_no")
    await heard(engine, utterance("on friday", "en-us+m3") * np.float32(0.2), "day")
    again = await heard(engine, pcm, "day")
    assert [word.text for word in again.committed] == [word.text for word in alone.committed]
    assert again.confidence == pytest.approx(alone.confidence, abs=0.1)


async def test_words_appear_while_they_are_spoken(engine: Sphinx) -> None:
    stream = engine.open(Listening())
    seen: list[Hypothesis] = []

    async def watch() -> None:
        seen.extend([hypothesis async for hypothesis in stream.hypotheses()])

    watching = asyncio.create_task(watch())
    pcm = utterance("what are your opening hours")
    for start in range(0, len(pcm), 3200):
        stream.push(pcm[start : start + 3200])
        await asyncio.sleep(0.15)
    final = await stream.finish(0)
    await watching
    assert seen[-1] == final
    texts = [hypothesis.text for hypothesis in seen]
    assert "what are your" in texts
    assert all(first != second for first, second in pairwise(texts[:-1]))
    assert all(hypothesis.committed == () for hypothesis in seen[:-1])


async def test_more_callers_than_decoders_are_all_answered(engine: Sphinx) -> None:
    days = ["on monday", "on tuesday", "on wednesday", "on thursday", "on friday"]
    answers = await asyncio.gather(*(heard(engine, utterance(day), "day") for day in days))
    assert [answer.text for answer in answers] == days


async def test_a_closed_utterance_frees_its_decoder(engine: Sphinx) -> None:
    pcm = utterance("on friday")
    for _ in range(4):
        stream = engine.open(Listening(expects="day"))
        stream.push(pcm)
        await asyncio.sleep(0.05)
        stream.close()
        stream.close()
        with pytest.raises(EngineError, match="closed"):
            await stream.finish(0)
        assert [hypothesis async for hypothesis in stream.hypotheses()][1:] == []
    assert (await heard(engine, pcm, "day")).text == "on friday"


async def test_finish_may_be_asked_twice(engine: Sphinx) -> None:
    stream = engine.open(Listening(expects="yes_no"))
    stream.push(utterance("yes please"))
    first, second = await asyncio.gather(stream.finish(0), stream.finish(0))
    assert first == second == await stream.finish(0)


async def test_a_dead_worker_fails_its_utterances_and_comes_back(engine: Sphinx) -> None:
    pcm = utterance("on friday")
    speaking, waiting = (engine.open(Listening(expects="day")) for _ in range(2))
    speaking.push(pcm)
    waiting.push(pcm)
    died = worker(engine)
    os.kill(died, signal.SIGSTOP)  # it cannot answer any more
    answer = asyncio.create_task(waiting.finish(0))
    await asyncio.sleep(0)
    os.kill(died, signal.SIGKILL)
    with pytest.raises(EngineError, match="died during this utterance"):
        await answer
    with pytest.raises(EngineError, match="died during this utterance"):
        await speaking.finish(0)
    with pytest.raises(EngineError, match="being restarted"):
        await heard(engine, pcm)
    while not engine._workers[0].alive:
        await asyncio.sleep(0.05)
    assert worker(engine) != died
    assert (await heard(engine, pcm, "day")).text == "on friday"


async def test_stopping_ends_the_worker_and_the_utterances(speech: Path) -> None:
    engine = Sphinx(speech, decoders=1)
    await engine.start()
    stream = engine.open(Listening())
    pid = worker(engine)
    await engine.stop()
    await engine.stop()
    assert not _running(pid)
    with pytest.raises(EngineError, match="stopped"):
        await stream.finish(0)


async def test_the_worker_ends_when_its_parent_is_killed(speech: Path) -> None:
    code = (
        "import asyncio, sys, pathlib; from asr.sphinx import Sphinx\n"
        "async def main():\n"
        "    engine = Sphinx(pathlib.Path(sys.argv[1]), decoders=1)\n"
        "    await engine.start()\n"
        "    print(engine._workers[0]._process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(speech)), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    parent.kill()
    await parent.communicate()
    while _running(child):
        await asyncio.sleep(0.05)


def _running(pid: int) -> bool:
    """Whether a process exists and is no zombie that nobody collects."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


async def test_words_that_cannot_be_pronounced_are_warned_about_once(
    speech: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Sphinx(speech, decoders=2)
    await engine.start()
    await engine.stop()
    assert [record.getMessage() for record in caplog.records if "xyzzy" in record.getMessage()] == [
        f"words of {speech} that the recogniser cannot pronounce, and so never hears: xyzzy"
    ]


async def test_a_directory_without_topics_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no open\.txt in .*: expected a directory"):
        await Sphinx(tmp_path).start()


async def test_topics_of_unknown_words_only_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "open.txt").write_text("xyzzy\n")
    with pytest.raises(EngineError, match="did not start"):
        await Sphinx(tmp_path).start()


def test_there_is_at_least_one_process_and_decoder() -> None:
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        Sphinx(None, processes=0)


async def test_without_topics_it_says_that_it_is_poor() -> None:
    engine = Sphinx(None, decoders=1)
    assert "every second word" in engine.about
    await engine.start()
    try:
        assert (await heard(engine, utterance("good morning"))).committed
    finally:
        await engine.stop()

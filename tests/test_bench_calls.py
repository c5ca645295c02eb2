"""What measures the server is measured, too."""

from pathlib import Path

import numpy as np
import pytest

from llm.script import tokens
from transport.audio import from_pcm16
from transport.line import Pcm
from transport.websocket_frames import plain
from voice import stubs
from voice.bench_calls import _slope, faults
from voice.callers import SAMPLES, Caller, Plan, Reply, Turn, babble, frames, hold, noisy, white
from voice.settings import load

from helpers import running, voiced


def test_frames_are_what_a_client_sends() -> None:
    pcm = np.linspace(-0.5, 0.5, 3 * SAMPLES, dtype=np.float32)
    heard = [from_pcm16(message) for frame in frames(pcm) for message in plain(frame) or []]
    assert [len(piece) for piece in heard] == [SAMPLES] * 3
    assert np.allclose(np.concatenate(heard), pcm, atol=1e-4)


def level(pcm: Pcm) -> float:
    return 10 * float(np.log10(np.mean(pcm**2)))


def test_noise_has_its_level_and_lies_under_speech_and_silence() -> None:
    assert level(white(-40)) == pytest.approx(-40, abs=0.2)
    assert level(babble([voiced()], -50)) == pytest.approx(-50, abs=0.2)
    assert not white(float("-inf")).any()
    speech, silence = noisy([np.zeros(1000, np.float32)], white(-40))
    for messages in (speech[0].frames, silence):
        pcm = np.concatenate([from_pcm16(m) for f in messages for m in plain(f) or []])
        assert level(pcm) == pytest.approx(-40, abs=1)
    assert speech[0].seconds == pytest.approx(0.08)


def test_a_reply_that_comes_late_has_an_underrun() -> None:
    reply = Reply(1.0)
    for at in (1.0, 1.0, 1.0, 1.1):
        reply.add(0.02, at)
    assert (reply.underruns, reply.seconds) == (0, pytest.approx(0.08))
    reply.add(0.02, 1.2)
    assert reply.underruns == 1


async def test_a_pause_of_the_voice_is_part_of_its_reply() -> None:
    caller = Caller("ws://nobody/", Plan(speech=[], silence=[], turns=1), 0.0)
    caller.turns.append(turn := Turn(0, 0.0, ended=0.5))
    loud, quiet = (np.full(SAMPLES, level, "<i2").tobytes() for level in (3000, 30))
    for frame in range(40):
        caller._hear(loud if 5 <= frame < 10 or frame >= 20 else quiet, 1.0 + 0.02 * frame)
    assert turn.reply is not None
    assert turn.reply.first == pytest.approx(1.1)  # quiet before it is not yet an answer
    assert turn.reply.seconds == pytest.approx(0.7)
    assert turn.reply.underruns == 0


def test_a_bad_turn_says_what_was_wrong_with_it() -> None:
    def turn(**heard: float) -> Turn:
        return Turn(1, 0.0, ended=1.0, reply=Reply(1.3, **heard))

    assert faults(turn(seconds=1.9), 2.0) == []
    assert faults(turn(seconds=1.0), 2.0) == ["in part"]
    assert faults(turn(seconds=2.0, underruns=1), 2.0) == ["gap"]
    assert faults(Turn(1, 0.0, ended=1.0, early=0.5), None) == ["talked over", "unanswered"]


@pytest.mark.parametrize("patient", [True, False])
async def test_a_patient_caller_lets_a_reply_of_unknown_length_end(
    tmp_path: Path, patient: bool
) -> None:
    settings = load(None, {}, {"profile": "bench", "bench.reply": 1.5}).settings
    speech, silence = noisy([voiced(0.5)], white(-50))
    async with running(
        tmp_path,
        agent=stubs.agent(),
        ears=stubs.ears(settings.bench),
        mind=stubs.mind(settings.bench),
        mouth=stubs.mouth(settings.bench),
        turn=settings.turn,
        profile="bench",
    ) as live:
        plan = Plan(speech=speech, silence=silence, turns=2, period=1.3, pause=0.2, patient=patient)
        (caller,) = await hold("127.0.0.1", live.port, plan, 1, limit=30)
    first, second = caller.turns[:2]
    assert first.reply is not None
    assert (first.reply.seconds > 1.4) == patient
    if patient:
        assert second.early is None
        assert second.started >= first.reply.play_end + plan.pause


def test_a_slope_has_an_error() -> None:
    slope, error = _slope([(0, 1.0), (1, 2.0), (2, 3.0)])
    assert (slope, error) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-3))
    assert _slope([(0, 1.0)]) == (None, None)


async def test_callers_are_answered_by_the_profile_bench_and_interrupt_it(tmp_path: Path) -> None:
    settings = load(None, {}, {"profile": "bench", "bench.reply": 1.2}).settings
    speech, silence = noisy([voiced(0.8)], white(-50))
    async with running(
        tmp_path,
        agent=stubs.agent(),
        ears=stubs.ears(settings.bench),
        mind=stubs.mind(settings.bench),
        mouth=stubs.mouth(settings.bench),
        turn=settings.turn,
        profile="bench",
    ) as live:
        plan = Plan(
            speech=speech,
            silence=silence,
            turns=3,
            period=0,
            interrupt=2,
            barge_after=0.4,
            pause=0.2,
        )
        (caller,) = await hold("127.0.0.1", live.port, plan, 1, limit=30)
        whole, cut, interrupting = caller.turns[:3]
        assert not caller.lost
        for turn in (whole, interrupting):
            assert turn.reply is not None
            assert turn.ended is not None
            assert turn.reply.first - turn.ended > 0.19
            assert turn.reply.seconds == pytest.approx(1.2, abs=0.1)
        assert interrupting.interrupting
        assert cut.reply is not None
        assert cut.reply.seconds < 1.1


def test_the_stubs_take_the_time_that_was_agreed() -> None:
    words = [token.text for token in tokens(stubs.REPLY)]
    assert (len(words), words.index(".") + 1) == (30, 10)

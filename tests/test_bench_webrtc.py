"""The rules of the load of WebRTC calls, and one call of it."""

import numpy as np
import pytest

from transport.codec import SPEAKING_RATE, Decoder
from voice.bench_webrtc import one_way
from voice.callers import white
from voice.webrtc_callers import SAMPLES, make_loop
from voice.webrtc_score import Score


def turn(
    *packets: float, reply: float = 0.1, audible: bool = True, while_speaking: bool = False
) -> Score:
    """One turn that falls silent at 1.0, packets at these moments, and the next turn."""
    score = Score(reply)
    score.speak(0.0)
    if while_speaking:
        score.hear(0.5, audible)
    score.fall_silent(1.0)
    for at in packets:
        score.hear(at, audible)
    score.speak(3.0)
    return score


PACED = (1.4, 1.4, 1.4, 1.42, 1.44)


def test_the_gap_runs_from_the_last_speech_to_the_first_sound() -> None:
    score = turn(*PACED)
    assert score.gaps == [pytest.approx(0.4)]
    assert score.bad == {}
    assert score.turns == 1


def test_silence_is_no_answer() -> None:
    score = turn(*PACED, audible=False)
    assert score.gaps == []
    assert score.bad == {"no_reply": 1}


def test_a_reply_that_lacks_more_than_a_tenth_is_short() -> None:
    assert turn(*PACED, reply=0.2).bad == {"short": 1}


def test_a_reply_that_comes_too_late_to_go_on_is_an_underrun() -> None:
    assert turn(1.4, 1.4, 1.4, 1.53, 1.53).bad == {"underrun": 1}
    assert turn(1.4, 1.4, 1.4, 1.51, 1.51).bad == {}


def test_the_silence_after_a_reply_is_no_underrun() -> None:
    assert turn(*PACED, 1.6, 1.6).bad == {}


def test_sound_over_the_callers_speech_spoils_the_turn() -> None:
    assert turn(*PACED, while_speaking=True).bad == {"talked_over": 1}
    assert turn(while_speaking=True, audible=False).bad == {"no_reply": 1}


def test_the_first_sound_is_looked_for_and_no_other() -> None:
    score = Score(0.1)
    score.speak(0.0)
    assert score.wants_sound
    score.fall_silent(1.0)
    assert score.wants_sound
    score.hear(1.4, True)
    assert not score.wants_sound


def test_a_loop_begins_with_speech_and_meets_every_window() -> None:
    speech = 0.3 * np.sin(np.arange(8000) * 0.2).astype(np.float32)
    loop = make_loop(np.concatenate([np.zeros(800, np.float32), speech]), 16_000, 1.0)
    assert loop.spoken == 25
    assert len(loop.payloads) % 2 == 1
    assert len(loop.payloads) * SAMPLES == len(loop.pcm)
    assert abs(float(loop.pcm[loop.spoken * SAMPLES - 1])) > 0.01
    decoder = Decoder("opus")
    levels = [float(np.abs(decoder.decode(payload)).max()) for payload in loop.payloads]
    assert max(levels[1 : loop.spoken]) > 0.1
    assert max(levels[loop.spoken + 2 :]) < 0.01


def test_noise_lies_under_all_of_a_loop() -> None:
    loop = make_loop(np.full(8000, 0.3, np.float32), 16_000, 1.0, white(-40))
    pause = loop.pcm[loop.spoken * SAMPLES :]
    assert len(pause) > SPEAKING_RATE
    assert float(np.sqrt(np.mean(pause**2))) == pytest.approx(0.01, rel=0.05)


async def test_every_packet_is_heard_once_in_order_and_hardly_later_than_said() -> None:
    row = await one_way(0.8)
    assert row["packets"] == row["sent"] > 30
    assert row["codec_ms"] < 8

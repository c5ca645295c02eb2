import numpy as np

from asr.loudness import Loudness

from speech import RATE, noise, say, silence


def heard(*pcms: np.ndarray, quiet_db: float = -60) -> Loudness:
    sound = Loudness(quiet_db)
    for pcm in pcms:
        sound.add(pcm)
    return sound


def test_silence_has_no_sound() -> None:
    quiet = noise(1) * np.float32(5e-4)
    sound = heard(silence(1), quiet, silence(0))
    assert (sound.until, sound.samples) == (0, 2 * RATE)


def test_the_last_sound_is_found_whatever_the_pieces_are() -> None:
    speech = np.concatenate([say("six"), silence(0.5)])
    whole = heard(speech)
    parts = heard(*np.array_split(speech, 37))
    assert abs(whole.until - len(say("six"))) < RATE // 25
    assert abs(parts.until - whole.until) < RATE // 25
    assert parts.samples == len(speech)


def test_a_room_that_hums_far_below_the_voice_is_silent() -> None:
    hum = noise(1) * np.float32(1e-3)
    assert heard(say("yes"), hum).until < len(say("yes")) + RATE // 25
    assert heard(hum * 2).until == RATE

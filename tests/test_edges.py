import numpy as np
import pytest

from asr.edges import HUSH, last_sound
from transport.line import Pcm

RANDOM = np.random.default_rng(7)


def speech(samples: int = 8000, fade: int = 800) -> Pcm:
    """Return a sound that fades out over its last samples to 3 % of full scale."""
    loudness = np.ones(samples)
    loudness[-fade:] = np.linspace(1.0, 0.04, fade)
    return (0.8 * loudness * np.sign(np.sin(np.arange(samples) / 5))).astype(np.float32)


def hiss(samples: int, level_db: float) -> Pcm:
    return (RANDOM.standard_normal(samples) * 10 ** (level_db / 20)).astype(np.float32)


@pytest.mark.parametrize("noise_db", [-90.0, -58.0, -30.0])
def test_before_silence_the_end_is_exact_whatever_the_noise_is_taken_for(noise_db: float) -> None:
    pcm = np.concatenate([speech(), np.zeros(700, np.float32)])
    assert last_sound(pcm, noise_db) == 8000


def test_a_fading_end_in_a_hiss_is_found_where_it_goes_under() -> None:
    whole = np.concatenate([speech(), np.zeros(1600, np.float32)]) + hiss(9600, -44)
    end = last_sound(whole.astype(np.float32), -42.0)
    assert 7700 < end < 8030


def test_what_drowns_in_noise_is_not_told() -> None:
    assert last_sound(hiss(8000, -20), -40.0) == 0
    assert last_sound(np.zeros(8000, np.float32), -60.0) == 0
    assert last_sound(np.zeros(0, np.float32), -60.0) == 0


def test_a_sound_up_to_now_has_no_end() -> None:
    pcm = np.concatenate([speech(), np.zeros(HUSH - 1, np.float32)])
    assert last_sound(pcm, -60.0) == 0

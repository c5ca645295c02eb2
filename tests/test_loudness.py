import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.loudness import KNEE, MOST_GAIN, SLEW, LeadingSilence, Leveller, limit

RATE = 8_000


def voice(seconds: float, db: float, seed: int = 0) -> np.ndarray:
    """Return noise of a given RMS."""
    noise = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (noise * 10 ** (db / 20)).astype(np.float32)


def loudness(pcm: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm, dtype=np.float64))))


@pytest.mark.parametrize("db", [-35.0, -20.0, -14.0])
def test_the_first_chunk_is_already_as_loud_as_wanted(db: float) -> None:
    leveller = Leveller(RATE, -23.0)
    assert loudness(leveller.push(voice(0.25, db))) == pytest.approx(-23.0, abs=0.5)
    assert leveller.gain_db == pytest.approx(-23.0 - db, abs=0.5)


def test_silence_and_pauses_say_nothing_about_the_voice() -> None:
    leveller = Leveller(RATE, -20.0)
    assert not leveller.push(np.zeros(800, np.float32)).any()
    assert leveller.gain_db is None
    half = np.concatenate((voice(0.2, -30.0), voice(0.2, -47.0)))
    leveller.push(half)
    assert leveller.gain_db == pytest.approx(10.0, abs=0.5)


def test_later_chunks_move_the_gain_slowly_and_without_a_step() -> None:
    leveller = Leveller(RATE, -20.0)
    leveller.push(voice(0.25, -30.0))
    before = leveller.gain_db
    assert before is not None
    steady = np.full(RATE, 0.1, np.float32)  # 1 s, far louder
    out = leveller.push(steady)
    assert leveller.gain_db == pytest.approx(before - SLEW, abs=0.01)
    quiet = np.full(RATE, 0.05, np.float32)
    begins = Leveller(RATE, -20.0, gain_db=3.0).push(quiet)[0]
    assert begins == pytest.approx(0.05 * 10 ** (3 / 20), rel=1e-4)
    assert np.abs(np.diff(out)).max() < 0.001


def test_a_breath_before_the_first_word_does_not_set_the_gain() -> None:
    leveller = Leveller(RATE, -20.0)
    leveller.push(voice(0.3, -46.0))
    said = leveller.push(voice(0.5, -20.0))
    assert loudness(said) == pytest.approx(-20.0, abs=0.5)
    assert np.abs(said).max() <= KNEE


def test_a_known_gain_is_kept_until_the_voice_says_otherwise() -> None:
    leveller = Leveller(RATE, -20.0, gain_db=6.0)
    assert leveller.push(np.zeros(80, np.float32)).size == 80
    assert leveller.gain_db == 6.0


def test_hardly_any_sound_is_not_blown_up_without_bound() -> None:
    leveller = Leveller(RATE, -20.0)
    leveller.push(voice(0.25, -48.9))
    assert leveller.gain_db == MOST_GAIN


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=50))
def test_nothing_exceeds_one_and_what_is_quiet_stays_exact(samples: list[float]) -> None:
    pcm = np.array(samples, np.float32)
    out = limit(pcm)
    assert out.dtype == np.float32
    assert np.abs(out).max() <= 1
    quiet = np.abs(pcm) <= KNEE
    assert (out[quiet] == pcm[quiet]).all()
    order = np.argsort(pcm, kind="stable")
    assert (np.diff(out[order]) >= 0).all()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=12), st.integers(0, 900))
def test_leading_silence_is_cut_however_the_audio_is_divided(sizes: list[int], lead: int) -> None:
    trim = LeadingSilence(RATE, keep=0.005)
    rest = voice(0.2, -20.0) + np.float32(1)
    pcm = np.concatenate((np.zeros(lead, np.float32), rest))
    out, at = [], 0
    for size in (*sizes, pcm.size):
        out.append(trim.push(pcm[at : at + size]))
        at += size
    kept = min(lead, 40)
    assert trim.cut == lead - kept
    assert not trim.silent
    assert np.array_equal(np.concatenate(out), pcm[lead - kept :])


def test_an_empty_chunk_passes() -> None:
    empty = np.zeros(0, np.float32)
    assert Leveller(RATE).push(empty).size == 0
    assert LeadingSilence(RATE).push(empty).size == 0

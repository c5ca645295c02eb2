import numpy as np
import pytest

from transport.audio import Resampler, from_pcm16, level_db, to_pcm16


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(
        np.float32
    )


def test_pcm16_goes_there_and_back() -> None:
    pcm = tone(16000)
    assert np.abs(from_pcm16(to_pcm16(pcm)) - pcm).max() < 1e-4
    assert to_pcm16(np.array([2.0, -2.0], np.float32)) == b"\xff\x7f\x01\x80"


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes are no whole number"):
        from_pcm16(b"abc")


@pytest.mark.parametrize(
    ("source", "target"),
    [(8000, 16000), (48000, 16000), (24000, 16000), (22050, 16000), (22050, 48000), (16000, 8000)],
)
def test_a_resampled_stream_keeps_its_sound_and_lags_little(source: int, target: int) -> None:
    resampler, pieces = Resampler(source, target), []
    pcm, frame = tone(source), source // 50
    lags = []
    for start in range(0, len(pcm), frame):
        pieces.append(resampler.push(pcm[start : start + frame]))
        given = min(start + frame, len(pcm)) / source
        lags.append(given - sum(map(len, pieces)) / target)
    pieces.append(resampler.flush())
    result = np.concatenate(pieces)
    assert max(lags) < 0.004
    assert abs(len(result) - len(pcm) * target / source) <= 40
    spectrum = np.abs(np.fft.rfft(result[: target // 2]))
    assert np.argmax(spectrum) == pytest.approx(220, abs=1)
    assert level_db(result) == pytest.approx(level_db(pcm), abs=0.3)


def test_the_same_rate_is_free() -> None:
    pcm = tone(16000)
    assert Resampler(16000, 16000).push(pcm) is pcm


def test_a_level_is_in_db_of_full_scale() -> None:
    assert level_db(np.ones(10, np.float32)) == pytest.approx(0.0)
    assert level_db(np.zeros(10, np.float32)) == -100.0
    assert level_db(np.zeros(0, np.float32)) == -100.0

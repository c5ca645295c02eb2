import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.vad import (
    CONTEXT,
    SILENT_DB,
    WINDOW,
    Edges,
    Gate,
    SpeechDetector,
    SpeechEvent,
    SpeechStarted,
    SpeechStopped,
    VadModel,
    VadSettings,
    shipped_model,
)

from speech import RATE, Pcm, mix, noise, say, silence


@cache
def model() -> VadModel:
    return VadModel()


def changes(*probabilities: float, settings: VadSettings | None = None) -> list[tuple[int, int]]:
    """When (window of the decision) a gate changed, and since which window."""
    gate = Gate(settings or VadSettings())
    steps = [gate.step(probability) for probability in probabilities]
    return [(now, since) for now, since in enumerate(steps) if since is not None]


def events(pcm: Pcm, step: int = 320, settings: VadSettings | None = None) -> list[SpeechEvent]:
    """What a detector said about a call, pushed `step` samples at a time."""
    detector = SpeechDetector(model(), settings)
    return [
        event
        for start in range(0, len(pcm), step)
        for event in detector.push(pcm[start : start + step])
    ]


def call(speech: Pcm, lead: float = 0.5, tail: float = 0.6) -> tuple[Pcm, int, int]:
    """An utterance in silence; its first sample and the one after its last."""
    pcm = np.concatenate([silence(lead), speech, silence(tail)])
    begin = int(lead * RATE)
    return pcm, begin, begin + len(speech)


def test_one_loud_window_is_not_speech() -> None:
    assert changes(0.1, 0.9, 0.1, 0.9, 0.1) == []


def test_two_windows_in_a_row_start_speech_with_the_first_of_them() -> None:
    assert changes(0.1, 0.5, 0.9) == [(2, 1)]


def test_the_first_silent_window_stops_speech() -> None:
    assert changes(0.9, 0.9, 0.9, 0.34) == [(1, 0), (3, 3)]


def test_a_doubtful_window_changes_nothing() -> None:
    assert changes(0.9, 0.9, 0.4, 0.36, 0.9) == [(1, 0)]


def test_soon_after_a_stop_one_window_is_enough_to_go_on() -> None:
    assert changes(0.9, 0.9, 0.1, 0.1, 0.6) == [(1, 0), (2, 2), (4, 4)]


def test_long_after_a_stop_it_takes_two_windows_again() -> None:
    pause = [0.1] * 32  # 32 windows of 32 ms are more than the 1 s of hangover
    assert changes(0.9, 0.9, *pause, 0.9) == [(1, 0), (2, 2)]
    assert changes(0.9, 0.9, *pause, 0.9, 0.9) == [(1, 0), (2, 2), (35, 34)]


def test_a_quicker_gate_starts_with_one_window() -> None:
    assert changes(0.1, 0.6, settings=VadSettings(windows=1)) == [(1, 1)]


@given(st.lists(st.floats(0, 1)))
def test_starts_and_stops_alternate_whatever_the_probabilities(probabilities: list[float]) -> None:
    gate = Gate(VadSettings())
    states = [gate.speaking for p in probabilities if gate.step(p) is not None]
    assert states == [n % 2 == 0 for n in range(len(states))]


@pytest.mark.parametrize("release", [0.0, 0.6])
def test_a_release_outside_the_threshold_is_refused(release: float) -> None:
    with pytest.raises(ValueError, match="expected 0 < release <= threshold < 1"):
        VadSettings(threshold=0.5, release=release)


def test_speech_ends_with_the_last_block_above_the_noise() -> None:
    edges = Edges()
    edges.push([-60.0] * 100 + [-20.0] * 40 + [-60.0] * 12)
    assert abs(edges.ended() - 140) <= 1


def test_a_soft_ending_counts_and_the_noise_after_it_does_not() -> None:
    edges = Edges()
    edges.push([-50.0] * 100 + [-20.0] * 40 + [-44.0] * 5 + [-50.0] * 12)
    assert abs(edges.ended() - 145) <= 1


def test_without_an_edge_in_the_energy_the_usual_lag_is_assumed() -> None:
    edges = Edges()
    edges.push([-30.0] * 200)
    assert edges.ended() == 200 - Edges.LAG


def test_speech_begins_with_the_soft_sound_before_the_first_loud_window() -> None:
    edges = Edges()
    edges.push([-60.0] * 100 + [-40.0] * 10 + [-20.0] * 10)
    assert abs(edges.began(112) - (100 - Edges.PAD)) <= 1


def test_the_last_sample_is_found_within_20_ms_in_silence() -> None:
    for text in ("yes please", "on tuesday at ten", "my name is emma miller"):
        pcm, _, end = call(say(text))
        last = events(pcm)[-1]
        assert isinstance(last, SpeechStopped)
        assert abs(last.at - end) <= 0.02 * RATE, text


def test_the_last_sample_is_found_in_noise() -> None:
    pcm, _, end = call(say("on tuesday at ten"))
    last = events(mix(pcm, noise(3), 10))[-1]
    assert isinstance(last, SpeechStopped)
    assert abs(last.at - end) <= 0.02 * RATE


def test_a_start_is_a_little_early_and_never_late() -> None:
    for text in ("six", "first thing on monday", "half past four"):
        pcm, begin, _ = call(say(text))
        first = events(pcm)[0]
        assert isinstance(first, SpeechStarted)
        assert begin - 0.1 * RATE <= first.at <= begin, text


def test_silence_and_noise_are_not_speech() -> None:
    assert events(silence(2)) == []
    assert events(noise(3) * np.float32(0.05)) == []


@settings(deadline=None, max_examples=20)
@given(st.integers(20, 2000))
def test_the_size_of_the_pieces_does_not_matter(step: int) -> None:
    pcm, _, _ = call(say("yes please"))
    assert events(pcm, step) == events(pcm, WINDOW)


def test_every_window_is_seen_with_the_end_of_the_one_before() -> None:
    pcm, _, _ = call(say("yes please"))
    windows = pcm[: len(pcm) // WINDOW * WINDOW].reshape(-1, WINDOW)
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), windows[:-1, -CONTEXT:]])
    state = np.zeros((1, 1, 128), np.float32)
    whole = {"input": np.concatenate([before, windows], axis=1), "h": state, "c": state}
    expected = model()._session.run(None, whole)[0]
    detector = SpeechDetector(model())
    probabilities = []
    for window in windows:
        detector.push(window)
        probabilities.append(detector.probability)
    assert np.allclose(probabilities, expected.reshape(-1), atol=1e-5)


def test_calls_do_not_hear_each_other() -> None:
    pcm, _, _ = call(say("yes please"))
    alone = events(pcm)
    first, second = SpeechDetector(model()), SpeechDetector(model())
    heard: list[SpeechEvent] = []
    for start in range(0, len(pcm), 320):
        heard += first.push(pcm[start : start + 320])
        second.push(pcm[::-1][start : start + 320])
    assert heard == alone


def test_level_and_probability_describe_the_last_window() -> None:
    detector = SpeechDetector(model())
    detector.push(np.zeros(31 * WINDOW, np.float32))
    assert (detector.level, detector.speaking) == (SILENT_DB, False)
    assert detector.probability < 0.1
    detector.push(np.full(WINDOW, 0.1, np.float32))
    assert detector.level == pytest.approx(-20)


def test_settings_can_change_during_a_call() -> None:
    detector = SpeechDetector(model())
    detector.settings = VadSettings(threshold=0.99999, release=0.5)
    assert detector.push(call(say("yes please"))[0]) == []


def test_the_model_is_found_without_importing_its_package() -> None:
    code = "import sys, asr.vad; asr.vad.VadModel(); sys.exit('faster_whisper' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
    assert shipped_model().is_file()

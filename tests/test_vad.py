import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.edges import BLOCK, SILENT_DB, Edges
from asr.silero import CONTEXT, UNITS, WINDOW, Silero, read_tensors, shipped_model
from asr.vad import (
    Detection,
    Gate,
    Phase,
    SoundHeard,
    SpeechDetector,
    SpeechEvent,
    SpeechStarted,
    SpeechStopped,
    VadModel,
    VadSettings,
)

from speech import RATE, Pcm, babble, mix, noise, say, silence


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
    heard: list[SpeechEvent] = []
    detector = SpeechDetector(model(), heard.append, settings)
    for start in range(0, len(pcm), step):
        detector.push(pcm[start : start + step])
    return heard


def told(*windows: tuple[float, float], settings: VadSettings | None = None) -> list[str]:
    """What the rules told of windows of (level in dBFS, probability), and after which block."""
    detection = Detection(settings or VadSettings())
    said = []
    for number, (level, probability) in enumerate(windows):
        for block in range(4):
            event = detection.block(level)
            if event is not None:
                said.append(f"{type(event).__name__} {4 * number + block + 1}")
        event = detection.window(probability, level)
        if event is not None:
            said.append(f"{type(event).__name__} {4 * number + 4}")
    return said


QUIET = [(-70.0, 0.05)] * 10
"""Blocks 1 to 40 of a call: nothing."""

SPOKEN = [(-20.0, 0.3), (-20.0, 0.9), (-20.0, 0.9), (-20.0, 0.9), (-20.0, 0.9), (-20.0, 0.9)]
"""Blocks 41 to 64: somebody speaks."""


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


def test_a_single_window_of_speech_is_heard_and_passes() -> None:
    loud_once = [*QUIET, (-50.0, 0.6), (-70.0, 0.1)]
    assert told(*loud_once) == ["SoundHeard 44", "SoundPassed 48"]


def test_a_sound_is_heard_before_it_is_known_to_be_speech() -> None:
    soft = [(-20.0, 0.1), (-20.0, 0.6), (-20.0, 0.9)]
    assert told(*QUIET, *soft) == ["SoundHeard 48", "SpeechStarted 52"]


def test_a_sudden_sound_is_heard_in_the_middle_of_a_window() -> None:
    assert told(*QUIET, *SPOKEN)[:2] == ["SoundHeard 45", "SpeechStarted 52"]


def test_a_sudden_sound_that_the_model_does_not_know_is_not_heard() -> None:
    assert told(*QUIET, *[(-10.0, 0.1)] * 20) == []


def test_a_sound_that_does_not_become_speech_passes() -> None:
    assert told(*QUIET, *[(-20.0, 0.3)] * 20) == ["SoundHeard 45", "SoundPassed 80"]


def test_soon_after_a_stop_speech_starts_without_a_sound_before_it() -> None:
    again = [(-70.0, 0.1)] * 2 + [(-50.0, 0.6)]
    assert told(*QUIET, *SPOKEN, *again)[-2:] == ["SpeechStopped 68", "SpeechStarted 76"]


def test_quiet_stops_speech_before_the_model_does_and_it_need_not_repeat_that() -> None:
    fading = [(-70.0, 0.9), (-70.0, 0.6), (-70.0, 0.2), (-70.0, 0.1)]
    assert told(*QUIET, *SPOKEN, *fading)[2:] == ["SpeechStopped 70"]


def test_without_a_hush_the_model_alone_stops_speech() -> None:
    fading = [(-70.0, 0.9), (-70.0, 0.6), (-70.0, 0.2), (-70.0, 0.1)]
    stopped = told(*QUIET, *SPOKEN, *fading, settings=VadSettings(hush=0))[2:]
    assert stopped == ["SpeechStopped 76"]


def test_a_stop_is_taken_back_when_the_sound_comes_back() -> None:
    closed = [(-70.0, 0.9), (-70.0, 0.6), (-20.0, 0.8)]
    went_on = told(*QUIET, *SPOKEN, *closed)[2:]
    assert went_on == ["SpeechStopped 70", "SpeechStarted 74"]


def test_a_stop_is_taken_back_where_the_sound_came_back() -> None:
    detection = Detection(VadSettings())
    for level, probability in [*QUIET, *SPOKEN, (-70.0, 0.9), (-70.0, 0.6)]:
        for _ in range(4):
            detection.block(level)
        detection.window(probability, level)
    assert detection.phase is Phase.HUSHED
    assert detection.block(-20) is None  # a click
    assert detection.block(-20) == SpeechStarted(72 * BLOCK)


def test_a_stop_is_taken_back_once_when_the_model_hears_speech_on() -> None:
    unheard = told(*QUIET, *SPOKEN, *[(-70.0, 0.9)] * 20)[2:]
    assert unheard == ["SpeechStopped 70", "SpeechStarted 81"]


def test_a_doubting_model_has_twice_the_time_to_agree() -> None:
    doubtful = [(-70.0, 0.9), (-70.0, 0.6), *[(-70.0, 0.4)] * 4, (-70.0, 0.2)]
    assert told(*QUIET, *SPOKEN, *doubtful)[2:] == ["SpeechStopped 70"]


def test_a_stop_is_told_again_when_its_end_is_known_better() -> None:
    detection = Detection(VadSettings())
    said = []
    soft = [(-45.0, 0.9)] * 6
    for level, probability in [*QUIET, *soft, (-70.0, 0.9), (-70.0, 0.6), (-70.0, 0.2)]:
        for _ in range(4):
            clicks = detection.edges.blocks == 71  # the one after the stop was told
            said.append(detection.block(-45 if clicks else level))
        said.append(detection.window(probability, level))
    ends = [event.at // BLOCK for event in said if isinstance(event, SpeechStopped)]
    assert ends == [65, 73]


def test_voices_in_the_background_are_not_the_caller() -> None:
    draw = np.random.default_rng(1)
    crowd = [(float(level), 0.95) for level in draw.uniform(-54, -46, 300)]
    first = told(*QUIET, *crowd)
    assert not [event for event in first if int(event.split()[1]) > 40 + 1000]


def test_a_caller_is_heard_over_voices_and_his_end_too() -> None:
    draw = np.random.default_rng(1)
    crowd = [(float(level), 0.95) for level in draw.uniform(-54, -46, 300)]
    caller = [(-20.0, 0.99)] * 20
    said = [
        event
        for event in told(*QUIET, *crowd, *caller, *crowd[:20])
        if int(event.split()[1]) > 4 * 310
    ]
    # the model hears no end: the first window of the crowd alone is one
    assert said == ["SoundHeard 1244", "SpeechStarted 1248", "SpeechStopped 1324"]


@given(st.lists(st.tuples(st.floats(-90, 0), st.floats(0, 1))))
def test_whatever_comes_the_events_make_sense(windows: list[tuple[float, float]]) -> None:
    detection = Detection(VadSettings())
    state = "silent"
    allowed = {
        "SoundHeard": {"silent"},
        "SoundPassed": {"heard"},
        "SpeechStarted": {"silent", "heard"},
        "SpeechStopped": {"speaking", "silent"},
    }
    becomes = {"SoundHeard": "heard", "SpeechStarted": "speaking"}
    for level, probability in windows:
        given = [detection.block(level) for _ in range(4)]
        for event in [*given, detection.window(probability, level)]:
            if event is not None:
                name = type(event).__name__
                assert state in allowed[name], name
                state = becomes.get(name, "silent")
        assert (detection.phase is Phase.SPEAKING) == (state == "speaking")


@pytest.mark.parametrize("hush", [-0.01, 0.2])
def test_a_hush_that_makes_no_sense_is_refused(hush: float) -> None:
    with pytest.raises(ValueError, match=r"expected 0 \(off\) to 0.13"):
        VadSettings(hush=hush)


def levels(*runs: tuple[int, float]) -> Edges:
    """Edges after runs of (blocks, level in dBFS); what is below -40 is noise."""
    edges = Edges()
    for count, level in runs:
        for _ in range(count):
            edges.push(level, quiet=level < -40)
    return edges


def test_speech_ends_with_the_last_block_above_the_noise() -> None:
    assert abs(levels((100, -60), (40, -20), (12, -60)).ended() - 140) <= 1


def test_a_soft_ending_counts_and_the_noise_after_it_does_not() -> None:
    assert abs(levels((100, -50), (40, -20), (5, -39), (12, -50)).ended() - 145) <= 1


def test_without_an_edge_in_the_energy_the_usual_lag_is_assumed() -> None:
    assert levels((200, -30)).ended() == 200 - Edges.LAG


def test_speech_begins_with_the_soft_sound_before_the_first_loud_window() -> None:
    edges = levels((100, -60), (10, -39), (10, -20))
    assert abs(edges.began(112) - (100 - Edges.PAD)) <= 1


def test_a_steady_noise_is_known_closely_and_a_lively_one_widely() -> None:
    steady, lively = levels((200, -50)), levels(*[(1, -60), (1, -50), (1, -45)] * 60)
    assert (steady.floor, steady.noise) == (-50, -50 + Edges.ABOVE_FLOOR_DB)
    assert (lively.floor, lively.noise) == (-60, -60 + Edges.ABOVE_VOICES_DB)


def test_what_is_lively_from_the_first_sample_may_be_the_caller_and_a_hiss_may_not() -> None:
    hiss, speech = Edges(), Edges()
    for block in range(60):
        hiss.push(-24.0, quiet=True)
        speech.push((-30.0, -15.0, -20.0)[block % 3], quiet=True)
    assert (hiss.floor, speech.floor) == (-24, Edges.UNKNOWN_DB)


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


def test_the_last_sample_is_found_under_voices() -> None:
    pcm, _, end = call(say("on tuesday at ten"), lead=4.0)
    last = events(pcm + babble(len(pcm) / RATE + 0.1)[: len(pcm)] * np.float32(0.003))[-1]
    assert isinstance(last, SpeechStopped)
    assert abs(last.at - end) <= 0.03 * RATE


def told_after(pcm: Pcm, end: int, settings: VadSettings) -> int:
    """Samples after `end` at which a stop was told that stood."""
    heard: list[SpeechEvent] = []
    detector = SpeechDetector(model(), heard.append, settings)
    stop = 0
    for start in range(0, len(pcm), BLOCK):
        before = len(heard)
        detector.push(pcm[start : start + BLOCK])
        if len(heard) > before and isinstance(heard[-1], SpeechStopped):
            stop = start + BLOCK
    return stop - end


def test_a_stop_is_told_before_the_model_knows() -> None:
    calls = [call(say("on tuesday at ten"), 0.5 + 0.008 * phase) for phase in range(4)]
    early, late = (
        [told_after(pcm, end, VadSettings(hush=hush)) for pcm, _, end in calls]
        for hush in (VadSettings().hush, 0)
    )
    assert min(early) > 0 and max(early) < 0.066 * RATE
    assert sum(early) / 4 < sum(late) / 4 - 0.01 * RATE


def test_a_start_is_a_little_early_and_never_late() -> None:
    for text in ("six", "first thing on monday", "half past four"):
        pcm, begin, _ = call(say(text))
        heard, started = (
            next(event for event in events(pcm) if isinstance(event, kind))
            for kind in (SoundHeard, SpeechStarted)
        )
        assert begin - 0.1 * RATE <= heard.at <= begin + 0.01 * RATE, text
        assert begin - 0.1 * RATE <= started.at <= begin, text


def test_silence_noise_and_clicks_are_not_speech() -> None:
    assert events(silence(2)) == []
    assert events(noise(3) * np.float32(0.05)) == []
    clicks = silence(3)
    clicks[::4000] = 0.9
    clicks[1::4000] = -0.9
    assert events(clicks) == []


@settings(deadline=None, max_examples=20)
@given(st.integers(20, 50_000))
def test_the_size_of_the_pieces_does_not_matter(step: int) -> None:
    pcm, _, _ = call(say("yes please"))
    assert events(pcm, step) == events(pcm, BLOCK)


def test_the_network_agrees_with_onnxruntime_alone_and_with_others() -> None:
    pcm, _, _ = call(say("yes please"))
    windows = pcm[: len(pcm) // WINDOW * WINDOW].reshape(-1, WINDOW)
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), windows[:-1, -CONTEXT:]])
    inputs = np.concatenate([before, windows], axis=1)
    blank = np.zeros((1, 1, UNITS), np.float32)
    reference = onnxruntime.InferenceSession(str(shipped_model()))
    expected = reference.run(None, {"input": inputs, "h": blank, "c": blank})[0]
    network = Silero(shipped_model())
    draw = np.random.default_rng(0)
    for calls in (1, 4, 17):
        state = np.zeros((calls, 2 * UNITS), np.float32)
        found = []
        for window in inputs:
            others = draw.standard_normal((calls, CONTEXT + WINDOW)).astype(np.float32)
            others[calls // 2] = window
            probabilities, state = network.step(others, state)
            found.append(probabilities[calls // 2])
        assert np.allclose(found, expected.reshape(-1), atol=1e-5), calls


def test_every_window_is_seen_with_the_end_of_the_one_before() -> None:
    pcm, _, _ = call(say("yes please"))
    network, state = Silero(shipped_model()), np.zeros((1, 2 * UNITS), np.float32)
    detector = SpeechDetector(model(), lambda event: None)
    padded = np.concatenate([silence(CONTEXT / RATE), pcm])
    for start in range(0, len(pcm) - WINDOW + 1, WINDOW):
        expected, state = network.step(padded[None, start : start + CONTEXT + WINDOW], state)
        detector.push(pcm[start : start + WINDOW])
        assert detector.probability == pytest.approx(float(expected[0]), abs=1e-5)


def test_calls_run_together_hear_what_each_hears_alone() -> None:
    texts = ("yes please", "half past four", "six", "on tuesday at ten")
    calls = [call(say(text))[0] for text in texts]
    soon: list[Callable[[], None]] = []
    together = VadModel(schedule=soon.append)
    heard: list[list[SpeechEvent]] = [[] for _ in calls]
    detectors = [SpeechDetector(together, each.append) for each in heard]
    for start in range(0, max(map(len, calls)), 320):
        for detector, pcm in zip(detectors, calls, strict=True):
            detector.push(pcm[start : start + 320])
        if start % 960 == 0:  # the loop is late now and then
            while soon:
                soon.pop()()
    together.flush()
    assert heard == [events(pcm) for pcm in calls]


def test_windows_that_became_full_together_wait_for_one_flush() -> None:
    soon: list[Callable[[], None]] = []
    waiting = VadModel(schedule=soon.append)
    detectors = [SpeechDetector(waiting, lambda event: None) for _ in range(3)]
    for detector in detectors:
        detector.push(np.full(3 * WINDOW, 0.1, np.float32))
    assert len(soon) == 1
    assert [detector.level for detector in detectors] == [SILENT_DB] * 3
    soon.pop()()
    assert [detector.level for detector in detectors] == pytest.approx([-20] * 3)
    assert soon == []


def test_long_messages_are_heard_in_order() -> None:
    pcm, _, _ = call(say("yes please"))
    heard: list[SpeechEvent] = []
    waiting = VadModel(schedule=lambda flush: None)
    detector = SpeechDetector(waiting, heard.append)
    detector.push(pcm[:15_000])
    detector.push(pcm[15_000:])
    assert heard == []
    waiting.flush()
    assert heard == events(pcm)


def test_a_call_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: SpeechEvent) -> None:
        raise RuntimeError("no more")

    pcm, _, _ = call(say("yes please"))
    heard: list[SpeechEvent] = []
    waiting = VadModel(schedule=lambda flush: None)
    for tell in (fail, heard.append):
        SpeechDetector(waiting, tell).push(pcm)
    waiting.flush()
    assert heard == events(pcm)
    assert "a call failed over SoundHeard" in caplog.text


def test_a_closed_call_is_told_nothing_and_the_others_are() -> None:
    pcm, _, _ = call(say("yes please"))
    heard: list[SpeechEvent] = []
    unheard: list[SpeechEvent] = []
    waiting = VadModel(schedule=lambda flush: None)
    closed, other = SpeechDetector(waiting, unheard.append), SpeechDetector(waiting, heard.append)
    for detector in (closed, other):
        detector.push(pcm)
    closed.close()
    closed.push(pcm)
    waiting.flush()
    assert (unheard, heard) == ([], events(pcm))


def test_a_call_may_close_when_it_is_told() -> None:
    pcm, _, _ = call(say("yes please"))
    heard: list[SpeechEvent] = []

    def hang_up(event: SpeechEvent) -> None:
        heard.append(event)
        detector.close()

    detector = SpeechDetector(model(), hang_up)
    detector.push(pcm)
    assert heard == events(pcm)[:1]


def test_level_and_probability_describe_the_last_window() -> None:
    detector = SpeechDetector(model(), lambda event: None)
    detector.push(np.zeros(31 * WINDOW, np.float32))
    assert (detector.level, detector.speaking) == (SILENT_DB, False)
    assert detector.probability < 0.1
    detector.push(np.full(WINDOW, 0.1, np.float32))
    assert detector.level == pytest.approx(-20)


def test_settings_can_change_during_a_call() -> None:
    heard: list[SpeechEvent] = []
    detector = SpeechDetector(model(), heard.append)
    detector.settings = VadSettings(threshold=0.99999, release=0.5)
    detector.push(call(say("yes please"))[0])
    assert not [event for event in heard if isinstance(event, SpeechStarted)]


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(b"")
    assert read_tensors(path) == {}
    with pytest.raises(ValueError, match="is not Silero v6"):
        VadModel(path)


def test_the_model_is_found_without_importing_its_package() -> None:
    code = (
        "import sys, asr.vad; asr.vad.VadModel(); "
        "sys.exit(bool({'faster_whisper', 'onnxruntime'} & set(sys.modules)))"
    )
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
    assert shipped_model().is_file()


def test_the_model_begins_anew_after_a_second_of_silence_and_not_while_somebody_speaks() -> None:
    detection = Detection(VadSettings())
    fresh = []
    for number in range(100):
        for _ in range(4):
            detection.block(-30.0 if 40 <= number < 80 else -90.0)
        speech = 40 <= number < 80
        detection.window(0.9 if speech else 0.02, -30.0 if speech else -90.0)
        if detection.idle:
            fresh.append(number)
    assert fresh == [30]
    assert Detection.IDLE == 31

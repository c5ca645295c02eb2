import numpy as np
import pytest

from asr.echo import Echo, EchoGuard
from asr.vad import SpeechDetector, SpeechEvent, SpeechStarted, SpeechStopped, VadModel
from voice.interruption import InterruptionSettings

from rooms import at_level, drifted, echo, mu_law, room
from speech import RATE, Pcm, noise, resample, say, silence

AGENT = "I have found three free times on Thursday morning. The first is at eight fifteen."

FRAME = 320
"""Samples of a frame (20 ms)."""

BEGAN = 1000.0
"""Loop time at which a call's first frame is played and heard."""

LOUD = 0.4
"""Seconds into the agent's words at which they are loud."""


def agent(lead: float = 0.2) -> Pcm:
    """What is played: silence, then the agent at -20 dBFS."""
    return np.concatenate([silence(lead), at_level(say(AGENT), -20)])


def line_noise(count: int, level_db: float = -50, seed: int = 0) -> Pcm:
    return noise(count / RATE, seed)[:count] * np.float32(10 ** (level_db / 20))


def call(played: Pcm, heard: Pcm, until: float, guard: EchoGuard | None = None) -> EchoGuard:
    """A guard that lived through the first `until` seconds."""
    guard = guard or EchoGuard()
    for start in range(0, min(round(until * RATE), len(heard)), FRAME):
        at = BEGAN + start / RATE
        guard.played(played[start : start + FRAME], RATE, at)
        guard.heard(heard[start : start + FRAME], at)
    return guard


def asked(guard: EchoGuard, since: float, until: float) -> Echo:
    return guard.echo(BEGAN + since, BEGAN + until)


@pytest.mark.parametrize("delay", [0.02, 0.06, 0.15, 0.25, 0.4])
@pytest.mark.parametrize("rt60", [0.0, 0.2, 0.6])
def test_an_echo_is_found_within_a_tenth_of_a_second(delay: float, rt60: float) -> None:
    played = agent()
    heard = echo(played, delay, -12, room(rt60, seed=1)) + line_noise(len(played))
    since = 0.2 + LOUD + delay
    found = asked(call(played, heard, since + 0.1), since, since + 0.1)
    assert found.similarity > 0.7
    assert found.delay == pytest.approx(delay, abs=0.003)
    assert found.residual_db < found.level_db - 5


def test_a_caller_alone_is_no_echo() -> None:
    played = agent()
    caller = at_level(say("wait a moment please", "en-us+m3"), -25)
    heard = np.concatenate([silence(0.6), caller, silence(2)])[: len(played)]
    heard = heard + line_noise(len(heard))
    found = asked(call(played, heard, 0.8), 0.6, 0.8)
    assert found.similarity < 0.5
    assert found.residual_db > found.level_db - 3


def test_somebody_who_says_the_same_is_no_echo() -> None:
    played = agent()
    other = at_level(say(AGENT, "en-us+f3", 170), -25)
    heard = np.concatenate([silence(0.3), other])[: len(played)]
    heard = np.concatenate([heard, silence(3)])[: len(played)] + line_noise(len(played))
    assert asked(call(played, heard, 0.9), 0.6, 0.9).similarity < 0.3


@pytest.mark.parametrize("rt60", [0.2, 0.6])
def test_a_caller_over_the_echo_is_not_dismissed(rt60: float) -> None:
    played = agent()
    heard = echo(played, 0.12, -15, room(rt60, seed=1)) + line_noise(len(played))
    caller = at_level(say("no that is wrong", "en-us+m3"), -27)
    start = int(1.2 * RATE)
    heard[start : start + len(caller)] += caller
    guard = call(played, heard, 1.4)
    assert asked(guard, 0.8, 1.0).similarity > 0.7  # the echo alone, before
    both = asked(guard, 1.2, 1.4)
    assert both.similarity < 0.6
    assert both.residual_db == pytest.approx(-27, abs=5)


def test_a_telephones_codec_and_clock_do_not_hide_an_echo() -> None:
    played = agent()
    path = drifted(mu_law(played), 300)
    heard = mu_law(echo(path, 0.18, -20, room(0.4, seed=2)) + line_noise(len(played)))
    since = 0.2 + LOUD + 0.18
    assert asked(call(played, heard, since + 0.15), since, since + 0.15).similarity > 0.7


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
def test_what_is_played_may_have_any_rate_of_a_line(rate: int) -> None:
    played = agent()[: 2 * RATE]
    heard = echo(played, 0.1, -12, room(0.2, seed=1)) + line_noise(len(played))
    guard, fast, frame = EchoGuard(), resample(played, RATE, rate), rate // 50
    for n in range(45):
        guard.played(fast[n * frame : (n + 1) * frame], rate, BEGAN + n * 0.02)
        guard.heard(heard[n * FRAME : (n + 1) * FRAME], BEGAN + n * 0.02)
    assert asked(guard, 0.7, 0.85).similarity > 0.7


def test_a_rate_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(ValueError, match="44100 Hz"):
        EchoGuard().played(silence(0.02), 44_100, 0.0)


def test_frames_that_arrive_unevenly_are_joined() -> None:
    played = agent()
    heard = echo(played, 0.1, -12, room(0.2, seed=1)) + line_noise(len(played))
    guard = EchoGuard()
    late = np.random.default_rng(0).uniform(0, 0.03, 100)
    for n in range(45):
        guard.played(played[n * FRAME : (n + 1) * FRAME], RATE, BEGAN + n * 0.02)
        guard.heard(heard[n * FRAME : (n + 1) * FRAME], BEGAN + n * 0.02 + late[n])
    found = asked(guard, 0.5, 0.65)
    assert found.similarity > 0.9
    assert found.delay == pytest.approx(0.1, abs=0.02)


def test_what_was_played_long_ago_is_no_echo() -> None:
    words = agent(lead=0.0)[: int(1.5 * RATE)]
    guard = EchoGuard()
    for n in range(75):
        guard.played(words[n * FRAME : (n + 1) * FRAME], RATE, BEGAN + n * 0.02)
    guard.played(silence(0.02), RATE, BEGAN + 2.5)
    for n in range(75):  # somebody plays it to us 1.6 s later
        guard.heard(words[n * FRAME : (n + 1) * FRAME], BEGAN + 1.6 + n * 0.02)
    assert asked(guard, 2.2, 2.4).similarity == 0.0


def test_a_reply_that_begins_after_silence_is_placed_in_time() -> None:
    played = agent(lead=0.0)
    heard = echo(played, 0.1, -12, room(0.2, seed=1)) + line_noise(len(played))
    guard = EchoGuard()
    for n in range(100):
        guard.heard(line_noise(FRAME, seed=n), BEGAN - 2 + n * 0.02)
    for n in range(45):  # nothing was played in the 2 s before
        guard.played(played[n * FRAME : (n + 1) * FRAME], RATE, BEGAN + n * 0.02)
        guard.heard(heard[n * FRAME : (n + 1) * FRAME], BEGAN + n * 0.02)
    found = asked(guard, 0.6, 0.75)
    assert found.similarity > 0.7
    assert found.delay == pytest.approx(0.1, abs=0.003)


def test_silence_and_an_empty_memory_are_no_echo() -> None:
    assert EchoGuard().echo(5.0, 5.2).similarity == 0.0
    guard = call(silence(1), line_noise(RATE), 1.0)
    assert asked(guard, 0.7, 0.9).similarity == 0.0


def test_a_known_path_is_remembered_until_the_next_sound() -> None:
    played = agent()
    heard = echo(played, 0.12, -15, room(0.4, seed=1)) + line_noise(len(played))
    guard = call(played, heard, 0.9)
    assert guard.delay is None
    asked(guard, 0.7, 0.9)
    assert guard.delay == pytest.approx(0.12, abs=0.003)


def test_a_known_delay_is_preferred_to_a_chance_one() -> None:
    played, since = agent(), 0.4
    weak = echo(played, 0.15, -24, room(0.6, seed=6, direct_db=-3))
    guard = call(played, weak + line_noise(len(played), -42, seed=6), since + 0.08)
    assert asked(guard, since, since + 0.08).delay != pytest.approx(0.15, abs=0.003)
    guard.delay = 0.15
    assert asked(guard, since, since + 0.08).delay == pytest.approx(0.15, abs=0.003)


def test_a_piece_longer_than_the_memory_leaves_its_end() -> None:
    played = agent()
    heard = echo(played, 0.15, -12, room(0.2, seed=1)) + line_noise(len(played))
    guard = EchoGuard()
    guard.played(played[: 2 * RATE], RATE, BEGAN)
    guard.heard(heard[: 2 * RATE], BEGAN)
    assert asked(guard, 1.8, 2.0).similarity > 0.7


def test_an_agents_own_echo_hardly_ever_pauses_it() -> None:
    """As a session asks: at every start that the detector tells, and each 0.1 s while it lasts."""
    story = say(
        "Once upon a time there was a small clinic by a lake, and many people came to see it. "
        "Some came by boat, and some came on foot, and all of them were well received."
    )
    delay, frame = round(0.12 * RATE), 320
    microphone = 0.3 * np.concatenate([silence(delay / RATE), story, silence(1)])
    guard, starts, taken = EchoGuard(), list[bool](), 0
    told: list[SpeechEvent] = []
    detector = SpeechDetector(VadModel(), told.append)
    speaking_since: float | None = None
    looks = 0
    for first in range(0, len(microphone) - frame + 1, frame):
        now = (first + frame) / RATE
        guard.played(story[first : first + frame], RATE, first / RATE)
        guard.heard(microphone[first : first + frame], first / RATE)
        detector.push(microphone[first : first + frame].astype(np.float32))
        for event in told:
            if isinstance(event, SpeechStarted):
                speaking_since = event.at / RATE
                starts.append(
                    guard.echo(event.at / RATE, now).similarity >= InterruptionSettings().similarity
                )
            elif isinstance(event, SpeechStopped):
                speaking_since = None
        told.clear()
        if speaking_since is not None and now - speaking_since > 0.2 and first % (5 * frame) == 0:
            looks += 1
            taken += guard.echo(now - 0.2, now).similarity < InterruptionSettings().similarity
    assert len(starts) > 5
    assert looks > 20
    assert starts.count(False) <= 2  # until the path is known
    assert taken <= 1

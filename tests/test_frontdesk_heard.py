"""What the model learns from misheard sentences, and the voices that say them."""

import random
from pathlib import Path

import numpy as np
import pytest

from asr.engine import RATE
from demos.frontdesk import hearing, language
from demos.frontdesk.heard import Heard, learn, read, slots_in, write
from demos.frontdesk.language import Meaning, Moment, Said

BOOKING = Moment("book", "day_time")


def heard(said: Said, transcript: str) -> Heard:
    return Heard("day_time", said, transcript, 0.9)


def test_days_times_and_names_are_found_in_a_text() -> None:
    text = "no not tuesday at ten thirty quarter past two in the afternoon for anna miller"
    assert slots_in(text) == [
        ("day", "tuesday"),
        ("time", "10:30"),
        ("time", "14:15"),
        ("name", "anna miller"),
    ]


@pytest.mark.parametrize(
    ("transcript", "meaning"),
    [
        ("on tuesday at ten thirty", Meaning("book", {"day": "tuesday", "time": "10:30"})),
        ("the tuesday at ten thirty", Meaning("book", {"day": "tuesday", "time": "10:30"})),
        ("on tuesday at ten", Meaning("book", {"day": "tuesday", "time": "10:00"})),
        ("on tuesday the", Meaning("book", {"day": "tuesday"})),
        ("the thing at a", Meaning(reply="unclear")),
        ("cancel tuesday at ten thirty", None),
        ("tuesday thursday at ten", None),
    ],
)
def test_a_misheard_sentence_is_answered_by_what_was_heard(
    transcript: str, meaning: Meaning | None
) -> None:
    said = Said("on tuesday at ten thirty", "day_time", {"day": "tuesday", "time": "10:30"})
    assert learn(heard(said, transcript), BOOKING) == meaning


def test_a_correction_that_lost_its_order_is_not_learnt_from() -> None:
    said = Said("not monday tuesday", "not_day", {"day": "tuesday"})
    assert learn(heard(said, "not monday"), BOOKING) is None
    assert learn(heard(said, "not monday tuesday"), BOOKING) == Meaning("book", {"day": "tuesday"})


def test_nonsense_out_of_other_talk_is_asked_again_and_a_lookalike_is_not_learnt() -> None:
    said = Said("the dog is barking", "elsewhere")
    assert learn(heard(said, "the day is what"), BOOKING) == Meaning(reply="unclear")
    assert learn(heard(said, "on monday"), BOOKING) is None


def test_transcripts_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = [heard(Said("at ten", "time", {"time": "10:00"}), "at ten")]
    write(found, tmp_path / "t.jsonl.gz")
    assert read(tmp_path / "t.jsonl.gz") == found


def test_voices_of_the_tests_are_never_trained_on() -> None:
    assert not set(language.TEST_VOICES) & set(hearing.VOICES)
    assert len(language.TEST_VOICES) >= 3


@pytest.mark.parametrize("voice", language.TEST_VOICES[:3])
@pytest.mark.parametrize("telephone", [True, False])
def test_a_caller_has_the_level_the_length_and_the_band_of_the_line(
    voice: str, telephone: bool
) -> None:
    speaker = hearing.Speaker(voice, 160, 50, telephone, 25.0, 0.5)
    pcm = hearing.called("tuesday at ten thirty please", speaker, random.Random(1))
    assert 1.0 * RATE < len(pcm) < 5 * RATE
    assert 0.3 < float(np.abs(pcm).max()) < 0.7
    assert pcm.dtype == np.float32
    power = np.abs(np.fft.rfft(pcm)) ** 2
    high = power[np.fft.rfftfreq(len(pcm), 1 / RATE) > 3500].sum() / power.sum()
    assert (high < 1e-4) == telephone

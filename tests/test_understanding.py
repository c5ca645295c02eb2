from voice.hearing import Heard
from voice.understanding import Understanding, Verdict

from helpers import LINES


def test_sure_words_are_understood() -> None:
    judged = Understanding(LINES).judge(Heard("tuesday", 0.8, 0.6), "day", interrupting=False)
    assert judged.verdict is Verdict.UNDERSTOOD


def test_a_yes_must_be_surer_than_other_words() -> None:
    for topic, verdict in (("day", Verdict.UNDERSTOOD), ("yes_no", Verdict.MISSED)):
        judged = Understanding(LINES).judge(Heard("yes", 0.45, 0.6), topic, interrupting=False)
        assert judged.verdict is verdict


def test_a_miss_asks_for_what_was_expected() -> None:
    understanding = Understanding(LINES)
    unsure = Heard("tuesday", 0.3, 0.6)
    assert understanding.judge(unsure, "day", interrupting=False).line == "Which day, please?"
    assert understanding.expects == ""


def test_a_topic_without_a_line_of_its_own_has_the_general_one() -> None:
    judged = Understanding(LINES).judge(Heard("x", 0.3, 0.6), "name", interrupting=False)
    assert judged.line == "Please say that again."


def test_after_two_misses_a_person_is_offered_and_yes_or_no_expected() -> None:
    understanding = Understanding(LINES)
    unsure = Heard("x", 0.1, 1.0)
    understanding.judge(unsure, "", interrupting=False)
    assert understanding.judge(unsure, "", interrupting=False).line == LINES.person
    assert understanding.expects == "yes_no"
    understanding.understood()
    assert (understanding.misses, understanding.expects) == (0, "")


def test_a_short_sound_without_words_is_noise() -> None:
    understanding = Understanding(LINES)
    judged = understanding.judge(Heard("", 0.0, 0.2), "", interrupting=False)
    assert judged.verdict is Verdict.NOISE
    assert understanding.misses == 0


def test_long_speech_without_words_is_a_miss_unless_it_interrupted() -> None:
    understanding = Understanding(LINES)
    silent = Heard("", 0.0, 2.0)
    assert understanding.judge(silent, "", interrupting=True).verdict is Verdict.NOISE
    assert understanding.judge(silent, "", interrupting=False).verdict is Verdict.MISSED

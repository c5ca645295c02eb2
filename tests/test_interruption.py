from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.echo import Echo
from voice.interruption import (
    ANSWERS,
    BACK_CHANNELS,
    InterruptionSettings,
    Ruling,
    Sound,
    back_channels,
    judge,
)

SETTINGS = InterruptionSettings()

OWN_VOICE = Echo(similarity=0.95, delay=0.12, level_db=-30, residual_db=-43)

OVER_ECHO = Echo(similarity=0.3, delay=0.12, level_db=-25, residual_db=-27)


def ruling(sound: Sound) -> Ruling:
    return judge(sound, SETTINGS)


def test_the_agents_own_voice_is_nothing_to_stop_for() -> None:
    assert ruling(Sound(0.1, echo=OWN_VOICE)) is Ruling.RESUME
    assert ruling(Sound(2.0, echo=OWN_VOICE)) is Ruling.RESUME


def test_the_agents_own_words_are_not_the_callers() -> None:
    echo = Sound(0.8, words="your appointment is", echo=OWN_VOICE)
    assert ruling(echo) is Ruling.RESUME
    assert ruling(replace(echo, echo=OVER_ECHO)) is Ruling.INTERRUPT


@pytest.mark.parametrize(
    "words", ["stop", "wait", "no", "no no", "sorry", "what", "yes but", "Tuesday"]
)
def test_words_that_want_something_interrupt_at_once(words: str) -> None:
    assert ruling(Sound(0.2, words=words)) is Ruling.INTERRUPT


@pytest.mark.parametrize(
    "words", ["mhm", "Yeah.", "yes, yes", "okay", "right", "uh-huh", "oh I see", "all right okay"]
)
def test_a_back_channel_lets_the_agent_go_on_once_it_is_over(words: str) -> None:
    sound = Sound(0.4, words=words)
    assert ruling(sound) is Ruling.WAIT
    over = replace(sound, ended=True, silence=0.1, final=True)
    assert ruling(over) is Ruling.RESUME


def test_a_back_channel_that_goes_on_and_on_interrupts() -> None:
    assert ruling(Sound(1.4, words="yeah yeah")) is Ruling.WAIT
    assert ruling(Sound(1.5, words="yeah yeah")) is Ruling.INTERRUPT


def test_yes_is_an_answer_when_the_agent_asked_for_one() -> None:
    assert ruling(Sound(0.3, words="yes", expects="yes_no")) is Ruling.INTERRUPT
    assert ruling(Sound(0.3, words="oh", expects="yes_no")) is Ruling.WAIT
    assert ruling(Sound(0.3, words="yes", expects="day")) is Ruling.WAIT


def test_the_beginning_of_a_back_channel_is_waited_for() -> None:
    assert ruling(Sound(0.3, words="oh i")) is Ruling.WAIT
    assert ruling(Sound(0.4, words="oh i see")) is Ruling.WAIT
    assert ruling(Sound(0.4, words="oh i need")) is Ruling.INTERRUPT
    assert ruling(Sound(0.4, ended=True, words="oh i", final=True)) is Ruling.INTERRUPT


def test_speech_without_words_interrupts_after_a_while() -> None:
    assert ruling(Sound(0.69)) is Ruling.WAIT
    assert ruling(Sound(0.7)) is Ruling.INTERRUPT


def test_a_cough_is_nothing_to_stop_for_once_the_recogniser_had_its_word() -> None:
    cough = Sound(0.3, ended=True, silence=0.1)
    assert ruling(cough) is Ruling.WAIT
    assert ruling(replace(cough, final=True)) is Ruling.RESUME
    assert ruling(replace(cough, final=True, words="no")) is Ruling.INTERRUPT


def test_a_recogniser_without_a_word_is_waited_for_only_so_long() -> None:
    assert ruling(Sound(0.3, ended=True, silence=0.59)) is Ruling.WAIT
    assert ruling(Sound(0.3, ended=True, silence=0.6)) is Ruling.RESUME


def test_the_words_of_what_is_over_are_waited_for_before_its_length_counts() -> None:
    yes = Sound(0.8, ended=True, silence=0.2)
    assert ruling(yes) is Ruling.WAIT
    assert ruling(replace(yes, words="yes yes", final=True)) is Ruling.RESUME
    assert ruling(replace(yes, final=True)) is Ruling.INTERRUPT


def test_words_that_are_not_believed_count_as_none() -> None:
    cough = Sound(0.3, words="tuesday", confidence=0.2)
    assert ruling(cough) is Ruling.WAIT
    assert ruling(replace(cough, ended=True, final=True)) is Ruling.RESUME
    assert ruling(replace(cough, seconds=0.7)) is Ruling.INTERRUPT


def test_a_back_channel_need_not_be_believed_and_an_answer_must() -> None:
    yes = Sound(0.8, ended=True, final=True, words="yes yes", confidence=0.1)
    assert ruling(yes) is Ruling.RESUME
    assert ruling(replace(yes, expects="yes_no")) is Ruling.RESUME
    assert ruling(replace(yes, expects="yes_no", confidence=0.5)) is Ruling.INTERRUPT


def test_somebody_far_away_needs_words() -> None:
    far = Sound(0.8, level_db=-50, usual_db=-30)
    assert ruling(far) is Ruling.RESUME
    assert ruling(replace(far, words="come here")) is Ruling.INTERRUPT
    assert ruling(replace(far, level_db=-44)) is Ruling.INTERRUPT
    assert ruling(replace(far, usual_db=None)) is Ruling.INTERRUPT


def test_the_level_that_counts_is_what_the_echo_leaves() -> None:
    loud = Sound(0.8, level_db=-25, usual_db=-30, echo=replace(OVER_ECHO, residual_db=-46))
    assert ruling(loud) is Ruling.RESUME
    assert ruling(replace(loud, echo=OVER_ECHO)) is Ruling.INTERRUPT


def test_the_least_explained_stretch_of_a_sound_counts() -> None:
    sound = Sound(0.2)
    sound.explained(OWN_VOICE)
    assert ruling(sound) is Ruling.RESUME
    sound.explained(OVER_ECHO)
    sound.explained(OWN_VOICE)
    assert ruling(sound) is Ruling.WAIT


SOUNDS = st.builds(
    Sound,
    seconds=st.floats(0, 10),
    ended=st.booleans(),
    silence=st.floats(0, 10),
    words=st.sampled_from(["", "mhm", "yes", "no", "on tuesday", "okay okay", "…", "'"]),
    confidence=st.floats(0, 1),
    final=st.booleans(),
    expects=st.sampled_from(["", "yes_no", "day", "nobody knows"]),
    level_db=st.floats(-90, 0),
    usual_db=st.none() | st.floats(-60, 0),
    echo=st.none()
    | st.builds(
        Echo,
        similarity=st.floats(0, 1),
        delay=st.none() | st.floats(0.01, 0.4),
        level_db=st.floats(-90, 0),
        residual_db=st.floats(-90, 0),
    ),
)


@given(SOUNDS)
def test_no_sound_is_waited_for_longer_than_the_bound(sound: Sound) -> None:
    over = sound.final or sound.silence >= SETTINGS.patience
    if over if sound.ended else sound.seconds >= SETTINGS.longest_back_channel:
        assert ruling(sound) is not Ruling.WAIT


@given(SOUNDS, st.floats(0, 5))
def test_what_interrupts_still_interrupts_when_it_goes_on(sound: Sound, longer: float) -> None:
    if ruling(sound) is Ruling.INTERRUPT:
        assert ruling(replace(sound, seconds=sound.seconds + longer)) is Ruling.INTERRUPT


def test_every_answer_is_a_back_channel() -> None:
    for answers in ANSWERS.values():
        assert answers <= BACK_CHANNELS


@pytest.mark.parametrize("phrase", sorted(BACK_CHANNELS))
def test_every_back_channel_is_found_as_it_is_written(phrase: str) -> None:
    assert back_channels(phrase) == [phrase]


@pytest.mark.parametrize(
    "wrong",
    [
        {"similarity": 0.0},
        {"believed": 1.1},
        {"wordless": 2.0},
        {"longest_back_channel": 6.0},
        {"patience": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InterruptionSettings(**wrong)


def test_words_that_are_hardly_believed_interrupt_when_they_were_long_enough() -> None:
    long = Sound(0.45, ended=True, words="tell", confidence=0.1, final=True)
    assert judge(long, InterruptionSettings()) is Ruling.INTERRUPT
    short = Sound(0.3, ended=True, words="tell", confidence=0.1, final=True)
    assert judge(short, InterruptionSettings()) is Ruling.RESUME
    back = Sound(0.45, ended=True, words="mhm", confidence=0.1, final=True)
    assert judge(back, InterruptionSettings()) is Ruling.RESUME
    wordless = Sound(0.45, ended=True, final=True)
    assert judge(wordless, InterruptionSettings()) is Ruling.RESUME

"""`asr/turn_end.py`: is the caller done, and how long to wait."""

import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr import wording
from asr.engine import RATE, Pcm
from asr.prosody import SILENT, Prosody, prosody
from asr.turn_end import AMONG, LEAST, MOST, USUAL, WITHIN, Evidence, TurnEnd, wait
from demos.turnend.decisions import Mishearing, decisions, late
from demos.turnend.wordings import TRAINING
from voice.pauses import (
    HELD_OUT,
    LONGEST,
    SHORTEST,
    CallerTurn,
    Language,
    calls,
    expand,
    fill,
    read,
    trimmed,
)

MODEL = TurnEnd()

FINAL = Prosody(
    pitch=-3.0, slope=-2.5, fade=-13.0, voiced=0.3, tail=0.02, drawl=1.3, low=0.2, decay=0.12
)
"""Low, soft and drawn out."""

OPEN = Prosody(
    pitch=0.3, slope=0.2, fade=-4.0, voiced=0.15, tail=0.0, drawl=0.9, low=2.5, decay=0.02
)
"""Broken off at the pitch and loudness it had."""


def done(
    words: str, expects: str = "", sound: Prosody | None = None, speech: float | None = None
) -> float:
    """Return how likely the caller is done, who says three words a second."""
    seconds = 0.15 + 0.33 * len(words.split()) if speech is None else speech
    return MODEL.probability(Evidence(words=words, expects=expects, prosody=sound, speech=seconds))


@pytest.mark.parametrize(
    ("open_", "closed", "expects"),
    [
        ("i'd like to", "i'd like to book an appointment", ""),
        ("my number is", "my number is five five five two one four eight nine oh two", "phone"),
        ("it's on monday and then", "it's on monday", "day"),
        ("i need to see the", "i need to see the doctor", ""),
        ("monday at", "monday at ten", "day_time"),
        ("yes but", "yes", "yes_no"),
        ("tuesday um", "tuesday", "day"),
        ("my name is", "my name is gavin osborne", "name"),
        ("at half past", "at half past nine", "time"),
        ("no it isn't because", "no it isn't", "yes_no"),
    ],
)
def test_words_that_must_go_on_are_less_likely_an_end(
    open_: str, closed: str, expects: str
) -> None:
    for sound in (None, FINAL, OPEN):
        assert done(open_, expects, sound) < 0.7 * done(closed, expects, sound)


def test_a_phone_number_is_complete_when_its_digits_are() -> None:
    digits = ["five", "five", "five", "two", "one", "four", "eight", "nine", "oh", "two"]
    chances = [done(" ".join(digits[:count]), "phone") for count in range(1, 11)]
    assert max(chances[:6]) < 0.3
    assert chances[9] > 0.7
    assert chances[3] < 0.5 * done("five five five two", "number")  # which may be short
    assert done("5552148902", "phone", speech=3.45) == pytest.approx(chances[9])
    assert done("555-21", "phone", speech=1.8) == pytest.approx(chances[4])


def test_a_yes_is_an_answer_to_a_question_and_a_hello_is_none() -> None:
    assert done("yes", "yes_no", FINAL) > 0.6
    assert done("hello", "", FINAL) < done("yes", "yes_no", FINAL)


def test_melody_decides_when_there_are_no_words() -> None:
    for speech in (0.5, 1.5, 4.0):
        assert done("", sound=OPEN, speech=speech) < done("", sound=FINAL, speech=speech)


@given(
    words=st.text(max_size=3000),
    expects=st.sampled_from(["", "day", "yes_no", "phone", "spelling", "ünknown", "\x00"]),
    pauses=st.lists(st.floats(0, 1e9), max_size=30),
    speech=st.floats(-1, 1e9),
    sound=st.sampled_from([None, FINAL, OPEN, SILENT]),
)
def test_whatever_was_heard_gives_a_probability_and_a_wait_within_bounds(
    words: str, expects: str, pauses: list[float], speech: float, sound: Prosody | None
) -> None:
    evidence = Evidence(
        words=words, expects=expects, prosody=sound, pauses=tuple(pauses), speech=speech
    )
    chance = MODEL.probability(evidence)
    assert 0 <= chance <= 1
    assert MODEL.probability(evidence) == chance
    assert LEAST <= wait(chance, pauses=pauses) <= MOST


@given(
    chances=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    pauses=st.lists(st.floats(0.05, 3), max_size=15),
    price=st.floats(0.01, 1000),
    least=st.floats(0.05, 0.5),
    more=st.floats(0, 2),
)
def test_a_likelier_end_never_waits_longer(
    chances: tuple[float, float], pauses: list[float], price: float, least: float, more: float
) -> None:
    low, high = sorted(chances)
    longer, shorter = (wait(one, least, least + more, pauses, price) for one in (low, high))
    assert least <= shorter <= longer + 1e-9 <= least + more + 2e-9


@given(chance=st.floats(0.01, 0.99), price=st.floats(0.1, 100))
def test_the_wait_is_the_one_that_costs_least(chance: float, price: float) -> None:
    spread = math.hypot(AMONG, WITHIN)

    def cost(seconds: float) -> float:
        outlasted = 0.5 * math.erfc(math.log(seconds / USUAL) / spread / math.sqrt(2))
        return chance * seconds + (1 - chance) * price * outlasted

    best = cost(wait(chance, price=price))
    assert best <= min(cost(one) for one in np.linspace(LEAST, MOST, 200).tolist()) + 1e-9


def test_sure_ends_wait_the_least_and_sure_holds_the_most() -> None:
    assert wait(1.0) == LEAST
    assert wait(0.0) == MOST
    assert wait(1.0, 0.2, 0.9) == 0.2
    assert wait(0.0, 0.2, 0.9) == 0.9


def test_a_dearer_cut_in_waits_longer() -> None:
    waits = [wait(0.6, price=price) for price in (0.5, 2, 8, 32, 128)]
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]


def test_who_pauses_for_long_is_waited_for_longer() -> None:
    short, unknown, long = (wait(0.6, pauses=p) for p in ([0.22] * 6, [], [0.8] * 6))
    assert short < unknown < long
    assert wait(0.6, pauses=[0.8]) < long  # one pause is not believed as much as six


def test_words_are_taken_apart_the_same_however_they_are_written() -> None:
    assert wording.split("I’d like, um: TWO things!") == ["i'd", "like", "um", "two", "things"]
    assert wording.split("call 0-20") == ["call", "zero", "two", "zero"]
    assert wording.split("") == wording.split("¿?…🙂") == []
    assert wording.classes(["b", "a", "k"]) == ["letter"] * 3
    assert wording.classes(["a", "doctor"]) == ["article", "thing"]
    assert len(wording.split("word " * 10_000)) == wording.LONGEST
    assert wording.split("x" * 100_000) == ["x" * 30]


def glide(start: float, end: float, seconds: float = 0.7, fade_db: float = 0.0) -> Pcm:
    """Return a voice-like sound whose pitch glides, in hertz, and whose level falls."""
    hertz = np.geomspace(start, end, round(seconds * RATE))
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    level = 10 ** (np.linspace(0, fade_db, len(phase)) / 20)
    return (0.2 * level * sum(np.sin(n * phase) / n for n in range(1, 12))).astype(np.float32)


@pytest.mark.parametrize("pitch", [90, 140, 230])
def test_prosody_tells_a_fall_from_a_rise(pitch: float) -> None:
    up, down = prosody(glide(pitch, 1.5 * pitch)), prosody(glide(1.5 * pitch, pitch))
    assert up.pitch > 1.5 and up.slope > 1 and up.low > 4
    assert down.pitch < -1.5 and down.slope < -1 and down.low < 1
    level = prosody(glide(pitch, pitch))
    assert abs(level.pitch) < 0.3 and abs(level.slope) < 0.3


def test_prosody_tells_fading_and_length() -> None:
    faded = prosody(glide(120, 120, fade_db=-25))
    assert faded.fade < -15 < prosody(glide(120, 120)).fade
    assert faded.decay > 0.2
    gap = np.zeros(round(0.1 * RATE), np.float32)
    short, long = glide(120, 118, 0.12), glide(120, 118, 0.4)
    drawn = prosody(np.concatenate((short, gap, long)))
    clipped = prosody(np.concatenate((long, gap, short)))
    assert clipped.drawl < 1 < drawn.drawl
    assert clipped.voiced == pytest.approx(0.12, abs=0.05)


def test_prosody_does_not_depend_on_loudness() -> None:
    sound = glide(180, 120, fade_db=-10)
    assert prosody(sound).pitch == pytest.approx(prosody(0.05 * sound).pitch, abs=0.1)
    assert prosody(sound).fade == pytest.approx(prosody(0.05 * sound).fade, abs=0.2)


@pytest.mark.parametrize("samples", [0, 1, 100, 700, 5_000, 100_000])
def test_prosody_of_any_length_of_anything_is_finite(samples: int) -> None:
    noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    for pcm in (np.zeros(samples, np.float32), noise, np.ones(samples, np.float32)):
        sound = prosody(pcm)
        assert all(np.isfinite(getattr(sound, name)) for name in Prosody.__slots__)


def test_weights_for_other_features_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.npz"
    np.savez(file, w0=np.zeros((3, 2)), b0=np.zeros(2), w1=np.zeros((2, 1)), b1=np.zeros(1))
    with pytest.raises(ValueError, match=r"demos\.turnend\.train"):
        TurnEnd(file)


# The corpus.


@pytest.fixture(scope="module")
def turns() -> list[CallerTurn]:
    return list(itertools.chain.from_iterable(calls(5, seed=3)))


def test_pauses_and_ends_are_where_they_are_said_to_be(turns: list[CallerTurn]) -> None:
    for turn in turns:
        loudest = np.abs(turn.pcm).max()
        edges = [turn.begin, *(pause.at for pause in turn.pauses), turn.end]
        assert edges == sorted(edges)
        assert np.abs(turn.pcm[turn.end - 800 : turn.end]).max() > 0.02 * loudest
        for pause in turn.pauses:
            assert SHORTEST <= pause.seconds <= LONGEST
            silent = turn.pcm[pause.at : pause.at + round(pause.seconds * RATE)]
            assert np.abs(silent).mean() < np.abs(turn.pcm[turn.begin : turn.end]).mean()
            assert turn.text.startswith(pause.words)
            assert turn.text != pause.words


def test_nothing_clicks_where_speech_is_cut(turns: list[CallerTurn]) -> None:
    for turn in turns:
        steps = np.abs(np.diff(turn.pcm))
        for pause in turn.pauses:
            assert steps[pause.at - 8 : pause.at + 8].max() < 0.5 * steps.max()


def test_a_cut_fades_in_and_out() -> None:
    loud = np.where(np.arange(3200) // 40 % 2, 0.5, -0.5).astype(np.float32)
    cut = trimmed(np.concatenate((np.zeros(500, np.float32), loud, np.zeros(900, np.float32))), 0.1)
    assert len(cut) == len(loud)
    assert np.abs(cut[[0, -1]]).max() < 0.02
    assert np.abs(np.diff(np.abs(cut))).max() < 0.02  # no step but the wave's own


def test_the_same_seed_says_the_same(turns: list[CallerTurn]) -> None:
    again = list(itertools.chain.from_iterable(calls(2, seed=3)))
    for one, other in zip(again, turns, strict=False):
        assert one.text == other.text
        assert [p.seconds for p in one.pauses] == [p.seconds for p in other.pauses]


def test_at_least_a_third_of_the_pauses_follow_complete_sentences() -> None:
    pauses = [pause for call in calls(16, seed=1) for turn in call for pause in turn.pauses]
    complete = sum(pause.complete for pause in pauses)
    final = sum(pause.kind.value == "final" for pause in pauses)
    assert complete >= len(pauses) / 3
    assert 0.3 * complete < final < 0.7 * complete  # with and without the melody of an end


def some_texts(language: Language, count: int, seed: int) -> set[str]:
    """Return what a language says, without marks."""
    rng = random.Random(seed)
    texts = set()
    for _ in range(count):
        _, pattern = rng.choice([w for group in language.wordings.values() for w in group])
        filled = expand(pattern, rng)
        while "{" in filled:
            slot = filled[filled.index("{") + 1 : filled.index("}")]
            filled = filled.replace("{" + slot + "}", fill(slot, language, rng), 1)
        texts.add(" ".join(word.text for word in read(filled)))
    return texts


def test_nothing_that_is_measured_with_was_trained_on() -> None:
    assert not set(HELD_OUT.voices) & set(TRAINING.voices)
    assert not set(HELD_OUT.firsts) & set(TRAINING.firsts)
    assert not set(HELD_OUT.lasts) & set(TRAINING.lasts)
    assert not set(HELD_OUT.reasons) & set(TRAINING.reasons)
    held_out, training = some_texts(HELD_OUT, 3000, 1), some_texts(TRAINING, 12000, 2)
    digits = {"oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
    same = {text for text in held_out & training if not set(text.split()) <= digits}
    # Nobody can say yes, no, a day or a time in other words than everybody.
    assert {text for text in same if len(text.split()) > 5} == set()
    assert len(same) < 0.05 * len(held_out)


def test_decisions_know_the_pauses_before_them_and_no_others(turns: list[CallerTurn]) -> None:
    found = list(decisions(turns[:8], random.Random(0)))
    expected: tuple[float, ...] = ()
    for one in found:
        assert one.evidence.pauses == expected
        if one.pause is not None:
            expected += (one.pause,)
    assert sum(one.pause is None for one in found) == 8


def test_a_recogniser_s_mistakes_are_mistakes() -> None:
    evidence = Evidence(words="i would like to book an appointment on tuesday", speech=2.0)
    rng, mishearing = random.Random(0), Mishearing(1)
    heard = [mishearing.mishear(evidence, rng).words for _ in range(50)]
    assert 5 < len(set(heard)) <= 50
    assert evidence.words in heard
    assert late(evidence).words == "i would like to book an appointment on"
    assert late(Evidence(words="yes", speech=0.4)).words == ""

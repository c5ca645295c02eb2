import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.topics import Trigrams, sentences, spoken_words, topics

WORDS = st.sampled_from(["yes", "no", "on", "monday", "please"])
SENTENCES = st.lists(WORDS, min_size=1, max_size=5).map(tuple)


def read(arpa: str) -> dict[tuple[str, ...], list[float]]:
    """Return the numbers that a model in ARPA format gives for every gram."""
    numbers: dict[tuple[str, ...], list[float]] = {}
    order = 0
    for line in arpa.splitlines():
        if line.endswith("-grams:"):
            order = int(line[1])
        elif order and line and line[0] != "\\":
            chance, *rest = line.split()
            numbers[tuple(rest[:order])] = [10 ** float(x) for x in (chance, *rest[order:])]
    return numbers


@settings(deadline=None)
@given(st.dictionaries(SENTENCES, st.floats(0.1, 100), min_size=1, max_size=8))
def test_whatever_was_said_before_the_chances_of_the_next_word_add_up_to_one(
    weights: dict[tuple[str, ...], float],
) -> None:
    model = Trigrams(weights)
    for context in [(), ("<s>",), ("on",), ("<s>", "on"), ("no", "monday"), ("yes", "yes")]:
        words = [gram for gram in model.chances[0] if gram != ("<s>",)]
        total = sum(model.chance((*context, *word)) for word in words)
        assert math.isclose(total, 1, rel_tol=0.001), context


def test_what_callers_say_often_is_likelier_than_what_they_say_once() -> None:
    model = Trigrams({("on", "monday"): 9.0, ("on", "friday"): 1.0})
    assert model.chance(("on", "monday")) > 5 * model.chance(("on", "friday"))


def test_a_word_that_always_follows_leaves_little_room_for_others() -> None:
    model = Trigrams({("half", "past", "nine"): 50.0, ("at", "nine"): 50.0})
    assert model.chance(("<s>", "half", "past")) > 0.98
    assert 0 < model.chance(("<s>", "half", "nine")) < 0.02


def test_background_is_possible_in_every_topic_but_unlikely(tmp_path: Path) -> None:
    (tmp_path / "open.txt").write_text("cancel it\n" * 100)
    (tmp_path / "day.txt").write_text("on monday\n" * 100)
    (tmp_path / "background.txt").write_text("the dog barks\n")
    known = {"cancel", "it", "on", "monday", "the", "dog", "barks"}
    learned = topics(tmp_path, known)
    assert set(learned) == {"open", "day"}
    day = learned["day"]
    assert day.model.chance(("<s>", "on")) > 10 * day.model.chance(("<s>", "the")) > 0
    assert ("cancel",) not in day.model.chances[0]
    assert day.words == {"on", "monday"}


def test_words_nobody_can_pronounce_are_left_out(tmp_path: Path) -> None:
    speech = tmp_path / "speech"
    speech.mkdir()
    (speech / "open.txt").write_text("Book me xyzzy now\n\nxyzzy\n")
    (tmp_path / "every").write_text("book B UH K\nbook(2) B UW K\nme M IY\nnow N AW\nno N OW\n")
    known, unknown = spoken_words(speech, tmp_path / "every", tmp_path / "ours")
    assert (known, unknown) == ({"book", "me", "now"}, {"xyzzy"})
    assert "book(2) B UW K" in (tmp_path / "ours").read_text()
    assert "no " not in (tmp_path / "ours").read_text()
    assert topics(speech, known)["open"].words == {"book", "me", "now"}


def test_a_sentence_nobody_says_surprises() -> None:
    model = Trigrams({("on", "monday"): 9.0, ("cancel", "it"): 9.0})
    assert model.surprise(("on", "monday")) < 1 < model.surprise(("monday", "cancel"))
    assert model.surprise(("xyzzy",)) > 5


def test_the_file_says_what_the_model_says() -> None:
    model = Trigrams({("half", "past", "nine"): 5.0, ("at", "nine"): 0.5})
    file = read(model.arpa())
    assert file["half", "past", "nine"] == [
        pytest.approx(model.chance(("half", "past", "nine")), 1e-3)
    ]
    chance, leftover = file["past", "nine"]
    assert chance == pytest.approx(model.chance(("past", "nine")), rel=1e-3)
    assert leftover * model.chance(("nine", "at")) == pytest.approx(
        model.chance(("past", "nine", "at")), rel=1e-3
    )
    assert "ngram 1=6" in model.arpa()


def test_repeated_lines_weigh_more_and_case_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "open.txt").write_text("Yes please\nyes please\n\nno\n")
    assert sentences(tmp_path / "open.txt") == {("yes", "please"): 2, ("no",): 1}

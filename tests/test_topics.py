import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from asr.topics import arpa, language_models, sentences, spoken_words

WORDS = st.sampled_from(["yes", "no", "on", "monday", "please"])
SENTENCES = st.lists(WORDS, min_size=1, max_size=5).map(tuple)


class Trigrams:
    """Reads a model back and tells how likely a word is, as the recogniser does."""

    def __init__(self, text: str) -> None:
        self.chances: dict[tuple[str, ...], float] = {}
        self.leftover: dict[tuple[str, ...], float] = {}
        order = 0
        for line in text.splitlines():
            if line.endswith("-grams:"):
                order = int(line[1])
            elif order and line and line[0] != "\\":
                chance, *words = line.split()
                gram = tuple(words[:order])
                self.chances[gram] = 10 ** float(chance)
                if len(words) > order:
                    self.leftover[gram] = 10 ** float(words[order])

    def chance(self, *gram: str) -> float:
        """Probability of the last word after the others."""
        if gram in self.chances:
            return self.chances[gram]
        return self.leftover.get(gram[:-1], 1.0) * self.chance(*gram[1:])

    @property
    def vocabulary(self) -> list[str]:
        return [gram[0] for gram in self.chances if len(gram) == 1]


@given(st.dictionaries(SENTENCES, st.floats(0.1, 100), min_size=1, max_size=8))
def test_whatever_was_said_before_the_chances_of_the_next_word_add_up_to_one(
    weights: dict[tuple[str, ...], float],
) -> None:
    model = Trigrams(arpa(weights))
    for context in [(), ("<s>",), ("on",), ("<s>", "on"), ("no", "monday"), ("yes", "yes")]:
        total = sum(model.chance(*context, word) for word in model.vocabulary)
        assert math.isclose(total, 1, rel_tol=0.02), context


def test_what_callers_say_often_is_likelier_than_what_they_say_once() -> None:
    model = Trigrams(arpa({("on", "monday"): 9.0, ("on", "friday"): 1.0}))
    assert model.chance("on", "monday") > 5 * model.chance("on", "friday")


def test_a_word_that_always_follows_leaves_little_room_for_others() -> None:
    model = Trigrams(arpa({("half", "past", "nine"): 50.0, ("at", "nine"): 50.0}))
    assert model.chance("<s>", "half", "past") > 0.98
    assert 0 < model.chance("<s>", "half", "nine") < 0.02


def test_background_is_possible_in_every_topic_but_unlikely(tmp_path: Path) -> None:
    (tmp_path / "open.txt").write_text("cancel it\n" * 100)
    (tmp_path / "day.txt").write_text("on monday\n" * 100)
    (tmp_path / "background.txt").write_text("the dog barks\n")
    known = {"cancel", "it", "on", "monday", "the", "dog", "barks"}
    files = language_models(tmp_path, known, tmp_path)
    assert set(files) == {"open", "day"}
    model = Trigrams(files["day"].read_text())
    assert model.chance("<s>", "on") > 10 * model.chance("<s>", "the") > 0
    assert "cancel" not in model.vocabulary


def test_words_nobody_can_pronounce_are_left_out(tmp_path: Path) -> None:
    speech = tmp_path / "speech"
    speech.mkdir()
    (speech / "open.txt").write_text("Book me xyzzy now\n\nxyzzy\n")
    (tmp_path / "every").write_text("book B UH K\nbook(2) B UW K\nme M IY\nnow N AW\nno N OW\n")
    known, unknown = spoken_words(speech, tmp_path / "every", tmp_path / "ours")
    assert (known, unknown) == ({"book", "me", "now"}, {"xyzzy"})
    assert "book(2) B UW K" in (tmp_path / "ours").read_text()
    assert "no " not in (tmp_path / "ours").read_text()
    files = language_models(speech, known, tmp_path)
    assert "xyzzy" not in files["open"].read_text()


def test_repeated_lines_weigh_more_and_case_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "open.txt").write_text("Yes please\nyes please\n\nno\n")
    assert sentences(tmp_path / "open.txt") == {("yes", "please"): 2, ("no",): 1}

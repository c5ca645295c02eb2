from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.engine import Word
from tts.word_times import Paced, Timed, by_durations


def test_a_word_lasts_as_long_as_its_symbols() -> None:
    words = by_durations(["Hi,", "you."], ["hi,", "you."], "hi, you.", [1, 2, 3, 4, 5, 6, 7, 8])
    assert words == [Word("Hi,", 0, 6), Word("you.", 10, 36)]


def test_a_number_is_several_spoken_words_and_a_dash_is_none() -> None:
    words = by_durations(["—", "21", "now"], ["", "twenty one", "now"], "twenty one now", [10] * 14)
    assert words == [Word("—", 0, 0), Word("21", 0, 100), Word("now", 110, 140)]
    assert by_durations(["a", "—"], ["a", ""], "a", [7]) == [Word("a", 0, 7), Word("—", 7, 7)]


@pytest.mark.filterwarnings("error")
def test_the_rest_of_a_long_word_has_no_word_of_its_own() -> None:
    assert by_durations([], [], "aaaa", [10] * 4) == []


def test_words_that_run_together_share_their_time() -> None:
    # "of the" became one group of symbols; the last group lasts far longer.
    words = by_durations(["of", "the", "dog"], ["ov", "ðə", "dɒɡ"], "ovðə dɒɡ", [10] * 5 + [30] * 3)
    assert [word.text for word in words] == ["of", "the", "dog"]
    assert words[0].start == 0
    assert words[-1].end == 140
    assert all(a.end == b.start for a, b in pairwise(words))
    assert words[2].end - words[2].start > 70


@given(
    st.lists(st.sampled_from(["ab", "c.", "—", "d e"]), min_size=1, max_size=8),
    st.booleans(),
    st.data(),
)
def test_times_never_go_back(words: list[str], lost: bool, data: st.DataObject) -> None:
    spoken = ["" if word == "—" else word for word in words]
    symbols = " ".join(filter(None, spoken))
    symbols = symbols.replace(" ", "", 1) if lost else symbols
    durations = [data.draw(st.integers(0, 9)) for _ in symbols]
    times = by_durations(words, spoken, symbols, durations)
    edges = [edge for word in times for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert edges[0] == 0
    assert edges[-1] <= sum(durations)


def test_words_come_with_the_audio_they_begin_in() -> None:
    times = Timed([Word("a", 0, 5), Word("b", 10, 20), Word("c", 30, 40)])
    assert times.until(11, ended=False) == [Word("a", 0, 5), Word("b", 10, 20)]
    assert times.until(30, ended=False) == []
    assert times.until(30, ended=True) == [Word("c", 30, 40)]


def test_guessed_times_follow_the_pace_and_the_end_corrects_them() -> None:
    times = Paced(["one", "two", "six"], 10)  # three letters and a gap each
    assert times.until(45, ended=False) == [Word("one", 0, 40), Word("two", 40, 45)]
    assert times.until(100, ended=True) == [Word("six", 80, 100)]
    assert times.pace == pytest.approx(100 / 12)


def test_when_the_audio_is_longer_than_guessed_no_word_comes_twice() -> None:
    times = Paced(["one", "two"], 10)
    assert len(times.until(1000, ended=False)) == 2
    assert times.until(2000, ended=True) == []


@given(
    st.lists(st.sampled_from(["a", "abc", "—", "longer"]), max_size=9),
    st.lists(st.integers(0, 60), min_size=1, max_size=6),
)
def test_every_word_comes_once_in_order(words: list[str], grows: list[int]) -> None:
    times, at, found = Paced(words, 10), 0, []
    for grow in grows:
        at += grow
        found += times.until(at, ended=False)
    found += times.until(at, ended=True)
    assert [word.text for word in found] == words
    edges = [edge for word in found for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert all(edge <= at for edge in edges)

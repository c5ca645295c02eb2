from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.phrases import Phrases, PhraseSettings


def said(*tokens: str, first: int = 1000, later: int = 220) -> list[str]:
    phrases = Phrases(first, later)
    out = [phrase for token in tokens for phrase in phrases.push(token)]
    return out + phrases.flush()


def letters(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


def test_a_sentence_is_cut_on_its_full_stop_token() -> None:
    phrases = Phrases()
    assert phrases.push("Good") == []
    assert phrases.push(" morning") == []
    assert phrases.push(".") == ["Good morning."]
    assert phrases.push(" How") == []
    assert phrases.push("?") == ["How?"]
    assert phrases.flush() == []


def test_what_is_left_comes_with_flush() -> None:
    phrases = Phrases()
    assert phrases.push("See you") == []
    assert phrases.flush() == ["See you"]
    assert phrases.flush() == []


@pytest.mark.parametrize(
    "text",
    [
        "We have 10.30 free today.",
        "It is open at 8 a.m. on Fridays.",
        "With Dr. Miller on Tuesday.",
        "That is 3,000 people, 3.5 each.",
        "Well... let me see.",
        "Hmm… let me see.",
        "See https://example.com/a?b=c.d for more.",
        "See www.example.com for more.",
        "Write to a.b@example.com today.",
        "Ask J. Smith about it.",
        "1. Call the desk.",
        "Open Mon. to Fri. only.",
        "At 10:30 then.",
    ],
)
def test_a_mark_inside_a_sentence_does_not_cut_however_it_is_split(text: str) -> None:
    assert said(text) == [text]
    if "..." not in text:
        assert said(*text) == [text]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("At ten a.m. Which day?", ["At ten a.m.", "Which day?"]),
        ("It costs 10. Is that fine?", ["It costs 10.", "Is that fine?"]),
        ("Wait... Yes.", ["Wait...", "Yes."]),
        ("Yes! No? Maybe.", ["Yes!", "No?", "Maybe."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("Really?! Yes.", ["Really?!", "Yes."]),
        ("So am I. And you?", ["So am I.", "And you?"]),
        ("No. 5 is free.", ["No.", "5 is free."]),
        ("First\nsecond", ["First", "second"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("Two  spaces\tand a tab. ", ["Two spaces and a tab."]),
        ("— Hello. —", ["— Hello."]),
    ],
)
def test_sentences_are_told_apart(text: str, phrases: list[str]) -> None:
    assert said(text) == phrases


def test_closing_marks_that_come_late_are_left_out() -> None:
    assert said("Really?", "!", '"', " Yes.") == ["Really?", "Yes."]
    assert said("Well", ".", ".", ".", " Yes.") == ["Well.", "Yes."]


def test_an_opening_quote_after_a_sentence_stays() -> None:
    assert said("Yes.", ' "No."') == ["Yes.", '"No."']


def test_the_first_phrase_may_end_at_a_comma_when_it_is_long_enough() -> None:
    tokens = ("Okay,", " Tuesday at ten works", ",", " so I wrote it down", ",", " bye.")
    assert said(*tokens, first=20) == [
        "Okay, Tuesday at ten works,",
        "so I wrote it down, bye.",
    ]


def test_a_comma_cuts_on_its_own_token() -> None:
    phrases = Phrases(first=10)
    assert phrases.push("Tuesday at ten") == []
    assert phrases.push(",") == ["Tuesday at ten,"]


def test_a_comma_after_a_digit_waits_for_what_follows() -> None:
    phrases = Phrases(first=10)
    assert phrases.push("There are about 3,") == []
    assert phrases.push("000 of them") == []
    assert phrases.push(" in the year 2026,") == []
    assert phrases.push(" I think") == ["There are about 3,000 of them in the year 2026,"]


def test_a_first_phrase_may_be_a_few_words_but_not_one() -> None:
    tokens = ("Certainly", ",", " on Tuesday", ",", " at ten", ".")
    assert said(*tokens, first=8) == ["Certainly, on Tuesday,", "at ten."]
    assert said("On Tuesday", ",", " at ten", ".", first=8) == ["On Tuesday,", "at ten."]
    assert said("好的，我帮您看一下。", first=2) == ["好的，", "我帮您看一下。"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": 7}, r"phrases\.first is 7; expected 8 to phrases\.later .220. characters"),
        ({"first": 221}, r"phrases\.first is 221; expected 8 to"),
        ({"first": 8, "later": 39}, r"phrases\.later is 39; expected 40 to 1000 characters"),
        ({"later": 1001}, r"phrases\.later is 1001; expected 40 to 1000"),
    ],
)
def test_lengths_out_of_range_are_named(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhraseSettings(**given)


def test_a_text_without_marks_is_cut_at_a_space() -> None:
    out = said("word " * 100, later=50)
    assert all(len(phrase) <= 50 for phrase in out)
    assert " ".join(out).split() == ["word"] * 100


def test_a_long_sentence_is_rather_cut_at_a_comma() -> None:
    assert said("aaaa bbbb cccc dddd, eeee ffff gggg.", later=25)[0] == "aaaa bbbb cccc dddd,"


def test_a_word_longer_than_the_limit_stays_whole() -> None:
    assert said("x" * 100 + " y.", later=20) == ["x" * 100, "y."]


TEXT = """Yes. No? ten, 10.30 a.m. p.m. Dr. Miller 3,000 3.5 Well... 10. www.a.com 你好。 — -
    day days; "quoted." (so) https://a.com/b.c?d at Mr. J. I. 10:30 etc. one two Three!"""
WORDS = st.sampled_from(TEXT.split())


@st.composite
def split_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    text = " ".join(draw(st.lists(WORDS, max_size=40)))
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=30)) | {0, len(text)})
    return text, [text[start:end] for start, end in pairwise(places)]


@given(split_texts(), st.integers(1, 60), st.integers(10, 120))
def test_no_word_is_lost_or_split_however_the_text_is_split(
    case: tuple[str, list[str]], first: int, later: int
) -> None:
    text, tokens = case

    def words(text: str) -> list[str]:
        bare = (word.rstrip(".!?…\"'") for word in text.split())
        return [word for word in bare if letters(word)]

    out = said(*tokens, first=first, later=later)
    assert words(" ".join(out)) == words(text.replace("。", "。 "))


@given(st.lists(st.text()), st.integers(1, 60), st.integers(5, 120))
def test_no_letter_is_lost_of_any_text_whatever(tokens: list[str], first: int, later: int) -> None:
    out = said(*tokens, first=first, later=later)
    assert letters("".join(out)) == letters("".join(tokens))
    assert all(phrase == " ".join(phrase.split()) and phrase for phrase in out)

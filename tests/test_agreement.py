import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.agreement import (
    LONGEST,
    Agreement,
    Heard,
    Piece,
    agreement,
    believable,
    compression,
    spread,
    unrepeated,
)
from asr.whisper_options import WhisperOptions

OPTIONS = WhisperOptions()


def pieces(text: str) -> list[Piece]:
    return [Piece(word, (hash(word) % 1000,)) for word in text.split()]


def heard(text: str, **about: float) -> Heard:
    return Heard(pieces(text), **about)  # type: ignore[arg-type]


def timed(*words: tuple[str, float, float]) -> Heard:
    return Heard([Piece(text, (1,), start, end) for text, start, end in words], timed=True)


def words(agreed: Agreement) -> str:
    return " ".join(word.text for word in agreed.committed)


def test_the_first_answer_commits_nothing() -> None:
    agreed = Agreement()
    agreed.update(heard("i would like"), 1.0, OPTIONS)
    assert agreed.live(0.9, 16_000).committed == ()
    assert agreed.live(0.9, 16_000).tentative == "i would like"


def test_what_two_answers_in_a_row_agree_on_is_committed() -> None:
    agreed = Agreement()
    agreed.update(heard("i would like two"), 1.0, OPTIONS)
    agreed.update(heard("I would, like to book"), 1.5, OPTIONS)
    assert words(agreed) == "I would, like"
    assert agreed.live(0.9, 24_000).tentative == "to book"


def test_the_last_word_of_an_answer_is_never_committed_for_it_may_go_on() -> None:
    agreed = Agreement()
    for end in (1.0, 1.5):
        agreed.update(heard("on tues"), end, OPTIONS)
    assert words(agreed) == "on"


def test_the_model_is_given_the_committed_words_and_answers_with_the_rest() -> None:
    agreed = Agreement()
    agreed.update(heard("i would like"), 1.0, OPTIONS)
    agreed.update(heard("i would like to"), 1.5, OPTIONS)
    assert [piece.text for piece in agreed.given] == ["i", "would", "like"]
    agreed.update(heard("to book"), 2.0, OPTIONS)
    assert words(agreed) == "i would like to"
    agreed.update(heard("book a"), 2.5, OPTIONS)
    assert agreed.live(1.0, 40_000).text == "i would like to book a"
    assert words(agreed) == "i would like to book"


def test_an_answer_that_disagrees_changes_no_committed_word() -> None:
    agreed = Agreement()
    agreed.update(heard("good morning there"), 1.0, OPTIONS)
    agreed.update(heard("good morning there"), 1.5, OPTIONS)
    agreed.update(heard("something else"), 2.0, OPTIONS)
    assert agreed.live(1.0, 32_000).text == "good morning something else"


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=6), max_size=12))
def test_committed_words_never_change_whatever_is_heard(answers: list[list[str]]) -> None:
    agreed = Agreement()
    before: list[str] = []
    for i, answer in enumerate(answers):
        end = 3.0 * (i + 1)
        agreed.update(heard(" ".join(answer)), end, OPTIONS)
        if end - agreed.offset > OPTIONS.cut:
            agreed.cut(end)
        now = [word.text for word in agreed.committed]
        assert now[: len(before)] == before
        full = agreed.full(1.0, 0)
        assert [word.text for word in full.committed][: len(now)] == now
        assert full.tentative == ""
        times = [time for word in full.committed for time in (word.start, word.end)]
        assert times == sorted(times)
        before = now


def test_a_word_does_not_begin_before_the_one_ahead_of_it_ended() -> None:
    agreed = Agreement()
    for end in (2.0, 2.5):
        agreed.update(
            timed(("one", 0.5, 1.5), ("two", 1.0, 1.2), ("three", 1.4, 1.8)), end, OPTIONS
        )
    words = agreed.full(1.0, 0).committed
    assert [(word.start, word.end) for word in words] == [(0.5, 1.5), (1.5, 1.5), (1.5, 1.8)]


def test_words_without_measured_times_are_spread_by_their_letters() -> None:
    one, other = spread(pieces("a seven"), 1.0, 2.6)
    assert (one.start, one.end, other.start, other.end) == pytest.approx((1.0, 1.4, 1.4, 2.6))


def test_measured_times_are_of_the_utterance_not_of_the_window() -> None:
    agreed = Agreement()
    agreed.offset = 10.0
    agreed.update(timed(("one", 0.5, 0.8), ("two", 0.9, 1.2)), 12.0, OPTIONS)
    full = agreed.full(1.0, 0)
    assert [(word.start, word.end) for word in full.committed] == [(10.5, 10.8), (10.9, 11.2)]


def test_the_window_is_cut_behind_committed_words_of_which_the_last_second_stays() -> None:
    agreed = Agreement()
    answer = timed(*((f"w{i}", i, i + 0.9) for i in range(9)))
    agreed.update(answer, 9.0, OPTIONS)
    agreed.update(answer, 9.5, OPTIONS)
    assert words(agreed).split()[-1] == "w7"
    assert agreed.cut(9.5) == 6.9  # w6 ends a second before w7, the last committed one
    assert [piece.text for piece in agreed.given] == ["w7"]
    agreed.update(Heard([Piece("w8", (1,), 1.2, 2.0)], [(0.1, 1.0)], True), 10.0, OPTIONS)
    assert agreed.full(1.0, 0).text == "w0 w1 w2 w3 w4 w5 w6 w7 w8"
    assert agreed.full(1.0, 0).committed[-1].start == pytest.approx(8.1)


def test_a_window_as_long_as_the_model_sees_commits_without_agreement() -> None:
    agreed = Agreement()
    agreed.update(heard("nothing like it was ever heard"), LONGEST + 1, OPTIONS)
    assert words(agreed) == "nothing like it was ever"
    assert agreed.cut(LONGEST + 1) > 0


def test_a_window_in_which_nothing_was_found_does_not_grow_for_ever() -> None:
    agreed = Agreement()
    agreed.update(heard(""), LONGEST + 1, OPTIONS)
    assert agreed.cut(LONGEST + 1) == pytest.approx(LONGEST + 1 - 5)
    assert agreed.cut(LONGEST + 1) == pytest.approx(LONGEST + 1 - 5)


def test_nothing_heard_has_no_confidence() -> None:
    agreed = Agreement()
    agreed.update(heard(""), 1.0, OPTIONS)
    assert (agreed.live(0.9, 5).confidence, agreed.full(0.9, 5).confidence) == (0.0, 0.0)
    assert agreed.full(0.9, 5).end == 5


def test_unlikely_words_where_nobody_speaks_are_not_believed() -> None:
    assert believable(heard("thank you", no_speech=0.9, logprob=-1.5), 2.0, OPTIONS) == []
    assert believable(heard("thank you", no_speech=0.9, logprob=-0.3), 2.0, OPTIONS)
    assert believable(heard("thank you", no_speech=0.3, logprob=-1.5), 2.0, OPTIONS)


def test_more_words_than_anybody_can_say_are_not_believed() -> None:
    text = " ".join(f"word{i * i}" for i in range(12))
    assert believable(heard(text), 1.0, OPTIONS) == []
    assert len(believable(heard(text), 2.0, OPTIONS)) == 12


def test_loops_are_run_through_once() -> None:
    def once(text: str) -> str:
        return " ".join(piece.text for piece in unrepeated(pieces(text)))

    assert once("so thank you for watching " + "thank you for watching " * 5) == (
        "so thank you for watching"
    )
    assert once("see you see you see you see") == "see you"
    assert once("well no no no no no then") == "well no then"
    assert once("no no no i said two two one") == "no no no i said two two one"
    assert once("bye bye bye") == "bye bye bye"


def test_what_can_be_compressed_like_no_speech_is_not_believed() -> None:
    loop = [Piece(" ".join(f"l{i % 9}x" for i in range(200)))]
    assert compression(loop[0].text) > 2.4
    assert believable(Heard(loop), 60.0, OPTIONS) == []


def test_case_and_punctuation_do_not_disagree() -> None:
    assert agreement(pieces("Yes, Tuesday."), pieces("yes tuesday at")) == 2
    assert agreement(pieces("- a"), pieces("— a")) == 0


def test_confidence_is_that_of_the_words_and_that_they_were_words() -> None:
    assert Heard(logprob=-0.1, no_speech=0.1).confidence == pytest.approx(math.exp(-0.1) * 0.9)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("beam", 0, "whisper.beam is 0; expected 1 to 10"),
        ("window", "long", "whisper.window is 'long'; expected one of full, short"),
        ("interval", 0.01, "whisper.interval is 0.01 s; expected 0.1 to 5.0 s"),
        ("cut", 60.0, "whisper.cut is 60.0 s; expected 2.0 to 25.0 s"),
    ],
)
def test_options_out_of_range_are_named(name: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        WhisperOptions(**{name: value})  # type: ignore[arg-type]


def test_a_beam_and_torch_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"whisper\.beam is 2; expected 1 where"):
        WhisperOptions(backend="torch", beam=2)

from hypothesis import given
from hypothesis import strategies as st

from asr.belief import Segment, belief
from asr.topics import Topic, Trigrams

SAID = {("on", "monday"): 10.0, ("on", "friday"): 10.0, ("the", "dog", "barks"): 0.1}
DAY = Topic(Trigrams(SAID), frozenset({"on", "monday", "friday"}))


def spoken(
    *words: str, posterior: float = -0.1, fit: float = -4.0, noises: int = 0
) -> list[Segment]:
    """Segments of 30 frames each, in silence, with some frames of noise after them."""
    segments = [Segment("<sil>", 0, 20, 0.0, -10.0)]
    for word in words:
        start = segments[-1].end
        segments.append(Segment(word, start, start + 30, posterior, 30 * fit))
    end = segments[-1].end
    return [*segments, Segment("[NOISE]", end, end + noises, 0.0, 0.0)]


def test_clear_expected_words_are_believed() -> None:
    assert belief(spoken("on", "monday"), DAY) > 0.8


def test_no_words_are_not_believed() -> None:
    assert belief(spoken(), DAY) == 0.0
    assert belief([], DAY) == 0.0


def test_doubtful_words_are_not_believed() -> None:
    assert belief(spoken("on", "monday", posterior=-4.0), DAY) < 0.5


def test_words_that_fit_badly_are_not_believed() -> None:
    assert belief(spoken("on", "monday", fit=-20.0), DAY) < 0.5


def test_words_that_fit_suspiciously_well_are_not_believed() -> None:
    assert belief(spoken("on", "monday", fit=-0.5), DAY) < 0.5


def test_what_nobody_says_is_not_believed() -> None:
    assert belief(spoken("monday", "on", "on"), DAY) < belief(spoken("on", "monday"), DAY) - 0.3


def test_words_of_the_background_are_not_believed() -> None:
    assert belief(spoken("the", "dog", "barks"), DAY) < 0.1


def test_words_among_noises_are_believed_less() -> None:
    assert belief(spoken("on", "monday", noises=200), DAY) < belief(spoken("on", "monday"), DAY)


def test_without_a_topic_clear_words_are_believed() -> None:
    assert belief(spoken("good", "morning"), None) > 0.5


@given(
    st.lists(st.sampled_from(["on", "monday", "dog", "xyzzy"]), max_size=6),
    st.floats(-800, 0),
    st.floats(-800, 0),
)
def test_a_belief_is_a_probability(words: list[str], posterior: float, fit: float) -> None:
    assert 0 <= belief(spoken(*words, posterior=posterior, fit=fit), DAY) <= 1

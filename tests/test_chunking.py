from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.chunking import Window, pieces, reach, sizes, upsampling, window


def test_a_short_phrase_is_one_piece() -> None:
    (piece,) = pieces("  You are  booked. ", 40)
    assert (piece.text, piece.words) == ("You are booked.", ("You", "are", "booked."))


def test_a_long_one_is_cut_after_a_sentence_else_a_comma_else_a_word() -> None:
    assert [p.text for p in pieces("One two. Three four five six", 20)] == [
        "One two. Three four",
        "five six",
    ]
    assert [p.text for p in pieces("One two three. Four five six", 20)] == [
        "One two three.",
        "Four five six",
    ]
    assert [p.text for p in pieces("One two three, four five six", 20)] == [
        "One two three,",
        "four five six",
    ]


@pytest.mark.parametrize("text", ["", "  \n "])
def test_nothing_is_no_piece(text: str) -> None:
    assert pieces(text, 40) == []


@given(st.text(alphabet="ab .,!\n", max_size=300), st.integers(5, 60))
def test_no_word_is_lost_and_no_piece_too_long(phrase: str, longest: int) -> None:
    found = pieces(phrase, longest)
    assert [word for piece in found for word in piece.words] == phrase.split()
    assert "".join(p.text for p in found).replace(" ", "") == "".join(phrase.split())
    assert all(0 < len(piece.text) <= longest for piece in found)


def test_a_word_longer_than_a_piece_is_announced_once() -> None:
    found = pieces("a " + "x" * 100 + " b", 40)
    assert [p.text for p in found] == ["x" * 40, "x" * 40, "x" * 20, "a b"] or [
        len(p.text) for p in found
    ] == [1, 40, 40, 20, 1]
    assert [w for p in found for w in p.words] == ["a", "x" * 100, "b"]


def test_windows_overlap_and_wait_for_what_their_end_looks_at() -> None:
    assert window(0, 20, 33, 14, ended=False) is None
    assert window(0, 20, 34, 14, ended=False) == Window(0, 20, 0, 34)
    assert window(20, 30, 200, 14, ended=False) == Window(20, 50, 6, 64)
    assert window(20, 30, 70, 14, ended=True) == Window(20, 50, 6, 64)
    assert window(20, 30, 60, 14, ended=True) == Window(20, 60, 6, 60)
    assert window(20, 30, 30, 14, ended=True) == Window(20, 30, 6, 30)
    assert window(30, 30, 30, 14, ended=True) is None


@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 20))
def test_windows_cover_everything_once(total: int, size: int, far: int) -> None:
    done = 0
    while found := window(done, size, total, far, ended=True):
        assert found.start == done < found.end
        assert found.left == max(0, found.start - far)
        assert found.right == min(total, found.end + far)
        done = found.end
    assert done == total


def test_chunks_grow_to_the_longest() -> None:
    assert sizes(0.2, 1.0, 100) == (20, 25, 31, 39, 49, 61, 76, 95, 100)
    assert sizes(0.5, 0.5, 100) == (50,)


def layer(kernel: int, dilation: int = 1, stride: int = 1, padding: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        kernel_size=(kernel,), dilation=(dilation,), stride=(stride,), padding=(padding,)
    )


def test_the_reach_of_a_decoder_follows_from_its_layers() -> None:
    alone = SimpleNamespace(
        conv_pre=layer(7), conv_post=layer(1), ups=[], resblocks=[], num_kernels=0
    )
    assert (reach(alone), upsampling(alone)) == (3, 1)
    block = SimpleNamespace(convs=[layer(3), layer(3, dilation=3)])  # looks 4 samples
    up = SimpleNamespace(
        conv_pre=layer(1),
        conv_post=layer(7),  # 3 samples
        ups=[layer(4, stride=2, padding=1)],
        resblocks=[block],
        num_kernels=1,
    )
    # Samples -7 to 8 come of inputs (-7 + 1 - 4) // 2 + 1 = -4 to (8 + 1) // 2 = 4.
    assert (reach(up), upsampling(up)) == (4, 2)

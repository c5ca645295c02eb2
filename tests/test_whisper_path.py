from itertools import pairwise

import numpy as np

from asr.whisper_path import path


def test_the_way_follows_what_each_token_attends_to() -> None:
    attention = np.full((2, 6, 60), 1e-3, np.float32)
    for row in range(6):  # two of the beginning, four of the text: the last is for none
        attention[:, row, max(0, row - 2) * 20 : max(0, row - 2) * 20 + 20] = 1.0
    attention /= attention.sum(-1, keepdims=True)
    starts = {}
    for token, position in path(attention, 2):
        starts.setdefault(token, position)
    assert starts == {0: 0, 1: 20, 2: 40}


def test_the_way_goes_only_forward_whatever_the_attention_is() -> None:
    attention = np.random.default_rng(0).random((3, 9, 40), np.float32)
    way = path(attention, 3)
    assert (way[0], way[-1]) == ((0, 0), (4, 39))
    steps = {(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(way)}
    assert steps <= {(0, 1), (1, 0), (1, 1)}


def test_a_window_of_a_few_positions_has_a_way_too() -> None:
    attention = np.ones((1, 5, 2), np.float32)
    assert path(attention, 2)[-1] == (1, 1)

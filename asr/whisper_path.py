"""When the words of a transcript were said, from what the decoder attended to.

As OpenAI's Whisper and CTranslate2 do it: attention is compared between tokens, smoothed,
averaged over the heads that are known to follow the sound, and the best way through it
is found that only goes forward (dynamic time warping).
"""

import numpy as np
from numpy.typing import NDArray

MEDIAN = 7
"""Positions over which attention is smoothed (OpenAI's)."""


def path(attention: NDArray[np.float32], first: int) -> list[tuple[int, int]]:
    """Return the (token, position) pairs of the best monotonic way through a window.

    Args:
        attention: What each token attends to, shape (heads, tokens, positions); rows sum to 1.
        first: The token whose attention is for the first of the text; the last is for none.
    """
    deviation = attention.std(1, keepdims=True)
    normal = (attention - attention.mean(1, keepdims=True)) / np.maximum(deviation, 1e-9)
    edge = MEDIAN // 2
    if normal.shape[-1] > edge:
        padded = np.pad(normal, ((0, 0), (0, 0), (edge, edge)), mode="reflect")
        spans = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN, axis=-1)
        normal = np.median(spans, axis=-1)
    cost = -normal[:, first:-1].mean(0)
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    back = np.zeros((rows + 1, columns + 1), np.int8)
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            ways = (total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
            back[i, j] = best = min(range(3), key=ways.__getitem__)
            total[i, j] = cost[i - 1, j - 1] + ways[best]
    steps, i, j = list[tuple[int, int]](), rows, columns
    while i > 0 and j > 0:
        steps.append((i - 1, j - 1))
        way = int(back[i, j])
        i, j = i - (way != 2), j - (way != 1)
    return steps[::-1]

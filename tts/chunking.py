"""Where a long text and a long sound are cut.

Pure. A text is cut between sentences or words, because models are bounded in what they
take. A decoder's input is cut into windows that overlap by as far as one output sample
looks, so that the pieces joined are what the whole would have been.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

_STRONG = re.compile(r"[.!?…。！？][\"'”’»)\]]*$")
_WEAK = re.compile(r"[,;:，；：、—–][\"'”’»)\]]*$")

GROWTH = 1.25
"""Each chunk is this much longer than the one before: the overlap costs less of it. One that
is made at 0.44 of real time, overlap apart, is there before the one before it is over."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text for the model at once, and the words that are announced with it."""

    text: str
    words: tuple[str, ...]


def pieces(phrase: str, longest: int) -> list[Piece]:
    """Cut a phrase into pieces of at most `longest` characters.

    At the last end of a sentence in the second half if there is one, else at a comma
    there, else between words. A word that is longer by itself is cut too, and announced with
    its first piece.
    """
    found: list[Piece] = []
    line: list[str] = []
    for word in phrase.split():
        while line and len(" ".join((*line, word))) > longest:
            at = _border(line, longest)
            found.append(Piece(" ".join(line[:at]), tuple(line[:at])))
            line = line[at:]
        if len(word) > longest:
            parts = [word[i : i + longest] for i in range(0, len(word), longest)]
            found += [Piece(part, () if i else (word,)) for i, part in enumerate(parts)]
        else:
            line.append(word)
    if line:
        found.append(Piece(" ".join(line), tuple(line)))
    return found


def _border(words: Sequence[str], longest: int) -> int:
    """Return after how many of `words` to cut."""
    for mark in (_STRONG, _WEAK):
        for at in range(len(words), 0, -1):
            if len(" ".join(words[:at])) < longest / 2:
                break
            if mark.search(words[at - 1]):
                return at
    return len(words)


@dataclass(frozen=True, slots=True)
class Window:
    """Frames `start` to `end` are given out; `left` to `right` are decoded to get them."""

    start: int
    end: int
    left: int
    right: int

    @property
    def size(self) -> int:
        """Frames to decode."""
        return self.right - self.left


def window(done: int, size: int, known: int, reach: int, *, ended: bool) -> Window | None:
    """Return the next window after `done` frames, `None` if more must be known first.

    `known` frames of input exist, no more will if it `ended`. A rest shorter than half
    a chunk goes along with it, as decoding it alone would be mostly overlap.
    """
    end = done + size
    if ended:
        if known - end < size // 2:
            end = known
    elif end + reach > known:
        return None
    if end <= done:
        return None
    return Window(done, end, max(0, done - reach), min(known, end + reach))


def sizes(first: float, longest: float, frames: float) -> tuple[int, ...]:
    """Return the frames of the first chunk, the second and so on; the last one stays.

    `first` and `longest` are seconds, `frames` is per second. All speech uses the same
    few sizes, so that chunks of several calls can be decoded together.
    """
    found, seconds = [], first
    while seconds < longest:
        found.append(max(1, round(seconds * frames)))
        seconds *= GROWTH
    return (*found, max(1, round(longest * frames)))


def reach(decoder: Any) -> int:
    """Return how many input frames to either side the samples of a frame depend on.

    For a HiFi-GAN, from its own layers: the samples that one frame becomes are followed
    back from the output, through each convolution's kernel and each upsampling, to the
    first and last input frame that has a part in them.
    """
    first, last = 0, upsampling(decoder) - 1
    half = _half(decoder.conv_post)
    first, last = first - half, last + half
    for number in reversed(range(len(decoder.ups))):
        at = number * decoder.num_kernels
        half = max(map(_block, decoder.resblocks[at : at + decoder.num_kernels]))
        first, last = first - half, last + half
        up = decoder.ups[number]
        kernel, stride, padding = up.kernel_size[0], up.stride[0], up.padding[0]
        # Sample j is made of the inputs from (j + padding - kernel) / stride, exclusive.
        first = (first + padding - kernel) // stride + 1
        last = (last + padding) // stride
    half = _half(decoder.conv_pre)
    return max(half - first, last + half)


def upsampling(decoder: Any) -> int:
    """Return the samples that a HiFi-GAN makes of one frame."""
    return prod(up.stride[0] for up in decoder.ups)


def _block(block: Any) -> int:
    """Return how far one residual block looks, in its own samples."""
    layers = [*block.convs1, *block.convs2] if hasattr(block, "convs1") else block.convs
    return sum(map(_half, layers))


def _half(convolution: Any) -> int:
    return int(convolution.dilation[0] * (convolution.kernel_size[0] - 1) // 2)

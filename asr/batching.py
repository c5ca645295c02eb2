"""Which of the utterances that wait are decoded together next.

Whoever asked comes first, the most urgent of them at the head; nobody asked for
partial words. Nothing is waited for: what is there goes. Everything in a batch
is padded to its longest, so on a device that works through a batch one by one
(a CPU) only windows of about the same length go together.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

ALIKE = 2.0
"""How many times longer the longest window of a batch may be where length costs; and seconds
below which all windows are alike."""


class Waiting(Protocol):
    """An utterance that waits.

    Attributes:
        deadline: When it is due, in seconds; the earliest first.
        asked: Whether somebody waits for it: a final, or words to answer before the final.
        seconds: How long its window is.
    """

    deadline: float
    asked: bool

    @property
    def seconds(self) -> float: ...


W = TypeVar("W", bound=Waiting)


class Pace:
    """How long decodings take, learned from those that were made."""

    def __init__(self) -> None:
        self._each = 0.0

    def learn(self, count: int, seconds: float, took: float) -> None:
        """Take that `count` windows, the longest of `seconds`, took `took` seconds."""
        each = took / max(0.1, count * seconds)
        self._each = each if self._each == 0 else 0.8 * self._each + 0.2 * each

    def estimate(self, count: int, seconds: float) -> float:
        """Return how long `count` windows of up to `seconds` will take; 0 if nothing is known."""
        return self._each * count * seconds


def choose(
    waiting: Sequence[W], limit: int, together: bool, pace: Pace, longest_partial: float
) -> list[W]:
    """Return what is to be decoded next, the most urgent first.

    Args:
        waiting: At least one.
        limit: Windows in a batch, at most.
        together: Whether the device does a batch in about the time of its longest window.
        pace: How long decodings take.
        longest_partial: Seconds that a batch of partial words alone may take.
    """
    first, *others = sorted(waiting, key=lambda job: (not job.asked, job.deadline))
    batch, shortest, longest = [first], first.seconds, first.seconds
    for job in others:
        low, high = min(shortest, job.seconds), max(longest, job.seconds)
        if len(batch) == limit:
            break
        if first.asked and not job.asked and (not together or high > longest):
            continue  # it would delay those that are waited for
        if not together and high > max(ALIKE, ALIKE * low):
            continue
        if not first.asked and pace.estimate(len(batch) + 1, high) > longest_partial:
            continue
        batch.append(job)
        shortest, longest = low, high
    return batch

"""Answers that are made before it is decided that the caller is done, and what they cost."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal, TypeVar

from asr.engine import Hypothesis
from voice.context import Entry
from voice.hearing import Words

Item = TypeVar("Item")
Stage = Literal["asr", "llm", "tts"]


@dataclass(slots=True)
class Spent:
    """Seconds for which one answer had each engine at work: somebody waited for its next result.

    Attributes:
        wasted: Whether the answer was dropped before it was let go.
    """

    wasted: bool = False
    asr: float = 0.0
    llm: float = 0.0
    tts: float = 0.0

    @property
    def total(self) -> float:
        """All of it, in seconds."""
        return max(0.0, self.asr) + max(0.0, self.llm) + max(0.0, self.tts)

    def rounded(self) -> dict[str, float]:
        """Return the seconds by stage, for a log."""
        return {stage: round(max(0.0, getattr(self, stage)), 4) for stage in ("asr", "llm", "tts")}

    def add(self, stage: Stage, seconds: float) -> None:
        """Add engine time; negative to take back what was counted for another stage.

        A mouth in another process asks for its next phrase while nobody waits for its sound:
        so more may be taken back than was counted, and no stage is told as less than nothing.
        """
        setattr(self, stage, getattr(self, stage) + seconds)


@dataclass(slots=True)
class Tally:
    """What the answers of one call cost.

    Attributes:
        starts: Answers begun before the decision.
        kept: Those that were let go.
        engine_seconds: Time that all answers had engines at work.
        wasted_seconds: That of answers which were dropped before the decision.
    """

    starts: int = 0
    kept: int = 0
    engine_seconds: float = 0.0
    wasted_seconds: float = 0.0

    def add(self, spent: Spent) -> None:
        """Add what one answer cost."""
        self.engine_seconds += spent.total
        if spent.wasted:
            self.wasted_seconds += spent.total


@dataclass(frozen=True, slots=True)
class Before:
    """What was true before an answer that may be dropped, to be restored then."""

    context: tuple[Entry, ...]
    words: Words
    misses: int
    expects: str
    interrupted: str


@dataclass(slots=True)
class Attempt:
    """An answer held back until it is decided that the caller is done.

    Attributes:
        turn: Its number.
        began: When its making began, in seconds.
        before: What to restore if it is dropped.
        text: The words that it answers; None while the recogniser has not said.
        spent: What it costs.
        effects: What is to happen once it is let go: events, counters.
        decided: Whether the caller is done.
        checking: The words that it is looked at again for, because the caller made more sound;
            None while it is not.
        failed: Whether it could not be made.
    """

    turn: int
    began: float
    before: Before
    text: str | None = None
    spent: Spent = field(default_factory=Spent)
    effects: list[Callable[[], None]] = field(default_factory=list)
    decided: bool = False
    checking: asyncio.Task[Hypothesis] | None = None
    failed: bool = False

    def answers(self, text: str) -> bool:
        """Tell whether this is the answer to `text`, too."""
        return self.text is not None and same_words(self.text) == same_words(text)


def same_words(text: str) -> str:
    """Return `text` as it is compared: letters and digits, lower case, single spaces."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold().replace("'", "")))


async def timed(
    stream: AsyncGenerator[Item, None], add: Callable[[float], None]
) -> AsyncGenerator[Item, None]:
    """Yield what `stream` does; add the seconds spent waiting for it, also when cut off."""
    async with aclosing(stream):
        began: float | None = monotonic()
        try:
            async for item in stream:
                assert began is not None
                add(monotonic() - began)
                began = None
                yield item
                began = monotonic()
        finally:
            if began is not None:
                add(monotonic() - began)

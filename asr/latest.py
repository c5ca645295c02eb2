"""The latest hypothesis of an utterance, for whoever follows it."""

import asyncio
from collections.abc import AsyncIterator

from asr.engine import Hypothesis


class Latest:
    """What is believed so far, told to those who iterate over `each`.

    Attributes:
        hypothesis: The latest.
        over: Whether none follows.
    """

    def __init__(self, hypothesis: Hypothesis) -> None:
        self._first = self.hypothesis = hypothesis
        self.over = self._dropped = False
        self._changed = asyncio.Event()

    def tell(self, hypothesis: Hypothesis) -> None:
        """Take a newer one; who is slow is told only the latest."""
        self.hypothesis = hypothesis
        self._changed.set()

    def end(self, *, dropped: bool = False) -> None:
        """Note that none follows; the last is still told, unless what was not is `dropped`."""
        self.over, self._dropped = True, dropped
        self._changed.set()

    async def each(self) -> AsyncIterator[Hypothesis]:
        """Yield each hypothesis that was told, of several at once the latest; end after `end`."""
        shown = self._first
        while True:
            if self.hypothesis is not shown and not self._dropped:
                shown = self.hypothesis
                yield shown
            elif self.over:
                return
            else:
                self._changed.clear()
                await self._changed.wait()

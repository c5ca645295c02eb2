"""The model reads the caller's words while they are still speaking."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llm.engine import Engine, EngineError, Item, Message, Thread, ToolSpec
from llm.prompt import add_words


@dataclass(slots=True)
class Prefill:
    """The thread in which the answer to the caller's turn is begun before its end, one at most.

    It is used only where what it has read is the very beginning of what is asked in the end,
    letter by letter; anything else (other words, a conversation that was cut or went on, an engine
    that died since) closes it, and a new thread is opened. So the model never sees what the
    conversation does not hold.

    Attributes:
        mind: The language model.
    """

    mind: Engine
    _thread: Thread | None = field(default=None, init=False)
    _read: Sequence[Item] = field(default=(), init=False)
    """What the thread was opened with, and the words since."""
    _tools: Sequence[ToolSpec] = field(default=(), init=False)

    @property
    def useful(self) -> bool:
        """Whether this model gains by reading early: its attribute `prefills` is true."""
        return bool(getattr(self.mind, "prefills", False))

    def read(self, items: Sequence[Item], tools: Sequence[ToolSpec], words: str) -> None:
        """Let the model read `items` and then all `words` of the turn that will not change.

        Call it with more words as they come; nothing is read twice. Never blocks.
        """
        if not words or not self.useful:
            return
        wanted = add_words(items, words)
        if (rest := self._rest(wanted, tools)) is None:
            self.close()
            try:
                self._thread = self.mind.open(items, tools)
            except EngineError:
                return  # whoever asks for the answer hears of it
            rest = words
        if rest:
            assert self._thread is not None
            self._thread.append(rest)
        self._read, self._tools = wanted, tools

    def take(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> Thread:
        """Return a thread for the answer to `items`, which is the receiver's to close."""
        rest = self._rest(items, tools)
        if rest is None:
            self.close()
            return self.mind.open(items, tools)
        thread, self._thread = self._thread, None
        assert thread is not None
        if rest:
            thread.append(rest)
        return thread

    def close(self) -> None:
        """Forget what was read; the model's memory of it is freed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def _rest(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> str | None:
        """Return the words that are still to be read of `items`; None if others were read."""
        if self._thread is None or tuple(tools) != tuple(self._tools):
            return None
        if getattr(self._thread, "failed", ""):
            return None  # its engine died; the one that was started anew has read nothing
        return words_between(self._read, items)


def words_between(before: Sequence[Item], after: Sequence[Item]) -> str | None:
    """Return the words that `Thread.append` must add to `before` for `after`; None if none do."""
    if not before or len(before) != len(after) or list(before[:-1]) != list(after[:-1]):
        return None
    begun, whole = before[-1], after[-1]
    if begun == whole:
        return ""
    if not (isinstance(begun, Message) and isinstance(whole, Message)):
        return None
    words = whole.text[len(begun.text) + 1 :]
    return words if add_words(before, words) == list(after) else None

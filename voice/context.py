"""What the model is told was said: the caller's words, and of the agent's only those heard.

An interrupted agent that believes it said everything will not repeat what the
caller missed. So each thing the agent says is an entry with a number of its
own, and ends up holding just the words whose sound had reached the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm.engine import Item, Message, ToolCall, ToolResult

LONGEST = 4000
"""Characters of the caller's words that wait for one answer; older ones are forgotten."""

MOST = 200
"""Entries of a conversation, half an hour of talk; with more the oldest are forgotten.

At thirty tokens an entry that is a prompt of 6,000, inside the window of small models."""

FORGETFUL = 150
"""Entries that are kept then, so that what a model has cached of them lasts for a while."""


@dataclass(slots=True)
class Entry:
    """One item of the conversation.

    Attributes:
        id: Its number, from 1.
        turn: The turn it belongs to.
        item: What the model is told.
    """

    id: int
    turn: int
    item: Item


class Context:
    """The conversation of one call so far."""

    def __init__(self, instructions: str) -> None:
        self.entries: list[Entry] = []
        self._ids = 0
        self._add(0, Message("system", instructions))

    def items(self) -> Sequence[Item]:
        """Return the conversation as the model is told it, oldest first."""
        return [entry.item for entry in self.entries]

    def snapshot(self) -> Sequence[Entry]:
        """Return what `restore` takes back, should what is added now turn out not to be said."""
        return [*self.entries[:-1], replace(self.entries[-1])]  # only the last is ever added to

    def restore(self, snapshot: Sequence[Entry]) -> None:
        """Forget all that was added since `snapshot`."""
        self.entries = list(snapshot)

    @property
    def unanswered(self) -> bool:
        """Whether the agent has yet to react to the latest words or tool result."""
        item = self.entries[-1].item
        return isinstance(item, ToolResult) or (isinstance(item, Message) and item.role == "user")

    def caller_said(self, turn: int, text: str) -> None:
        """Add the caller's words; they join words of theirs that got no answer yet."""
        last = self.entries[-1]
        if isinstance(last.item, Message) and last.item.role == "user":
            last.item = Message("user", f"{last.item.text} {text}"[-LONGEST:])
            last.turn = turn
        else:
            self._add(turn, Message("user", text))

    def tool_called(self, turn: int, call: ToolCall, result: ToolResult) -> None:
        """Add a tool call with its result, so that neither ever stands alone."""
        self._add(turn, call)
        self._add(turn, result)

    def agent_says(self, turn: int, text: str) -> None:
        """Add words the agent is about to say; words of one turn without a tool between join."""
        last = self.entries[-1]
        if last.turn == turn and isinstance(last.item, Message) and last.item.role == "assistant":
            last.item = replace(last.item, text=f"{last.item.text} {text}".strip())
        else:
            self._add(turn, Message("assistant", text.strip()))

    def agent_heard(self, turn: int, words: int) -> str:
        """Cut what the agent says in `turn` to its first `words` words; return what was cut."""
        cut: list[str] = []
        kept: list[Entry] = []
        for entry in self.entries:
            item = entry.item
            if entry.turn == turn and isinstance(item, Message) and item.role == "assistant":
                spoken = item.text.split()
                cut += spoken[words:]
                if not spoken[:words]:
                    continue
                entry.item = replace(item, text=" ".join(spoken[:words]))
                words -= min(words, len(spoken))
            kept.append(entry)
        self.entries = kept
        return " ".join(cut)

    def _add(self, turn: int, item: Item) -> None:
        self._ids += 1
        self.entries.append(Entry(self._ids, turn, item))
        if len(self.entries) > MOST:
            # The instructions stay; a tool's result does not stay without its call.
            kept = self.entries[-FORGETFUL:]
            while kept and isinstance(kept[0].item, ToolResult):
                kept.pop(0)
            self.entries = [self.entries[0], *kept]

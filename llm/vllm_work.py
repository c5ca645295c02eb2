"""One request that vLLM is at work on, and what has come of it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from llm.engine import EngineError


@dataclass(eq=False, slots=True)
class Work:
    """One request in vLLM.

    Attributes:
        adapter: The LoRA adapter it uses.
        chunks: Pieces of its prompt to come, None if it was given all of it.
        sent: The prompt tokens given in pieces so far.
        unread: Tokens still to come that answer nothing: vLLM samples one after every piece
            of the prompt, and forgets it when the next piece comes.
        cached: Prompt tokens that were read before the answer was asked for.
        outputs: The ids of the answer as they come, then None.
    """

    adapter: Any = None
    chunks: asyncio.Queue[Any] | None = None
    sent: list[int] = field(default_factory=list)
    unread: int = 0
    cached: int = 0
    outputs: asyncio.Queue[list[int] | EngineError | None] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether vLLM still works on it."""
        return self.task is not None and not self.task.done()

    async def stream(self) -> AsyncGenerator[Any, None]:
        """Yield the pieces of the prompt to vLLM."""
        assert self.chunks is not None
        while (chunk := await self.chunks.get()) is not None:
            yield chunk

    def take(self, output: Any) -> None:
        """Take what vLLM has written; it may join the output of several steps."""
        ids = list(output.outputs[0].token_ids)
        skipped = min(self.unread, len(ids))
        self.unread -= skipped
        if self.chunks is None:
            self.cached = output.num_cached_tokens or 0
        if len(ids) > skipped:
            self.outputs.put_nowait(ids[skipped:])
        if output.outputs[0].finish_reason == "error":
            self.outputs.put_nowait(EngineError("vLLM gave the answer up; its log says why"))

    def drop(self) -> None:
        """Let vLLM forget the request; what the prefix cache has of its prompt stays there."""
        if self.task:
            self.task.cancel()

    async def cancel(self) -> None:
        """Do so, and wait until vLLM has been told."""
        if self.task:
            self.task.cancel()
            await asyncio.wait([self.task])

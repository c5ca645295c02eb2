"""What an agent offers the model: tools, and what a tool answers.

A tool may answer with words to be spoken exactly as they are (`Outcome.say`).
Read-backs and confirmations of what is written to a database go that way: a
model that paraphrases "Tuesday at ten" can say "Thursday at ten", and the
caller's yes would then be to something else than what is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llm.engine import Json, ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a tool answered.

    Attributes:
        output: What the model is told.
        say: Words to speak as they are, instead of asking the model for an answer;
            "" lets the model answer from `output`.
        end: Why the call ends once these words were spoken ("goodbye",
            "transfer"); "" if it goes on.
    """

    output: Mapping[str, Json] = field(default_factory=dict)
    say: str = ""
    end: str = ""


class Toolbox(Protocol):
    """The tools of one call, with what they remember of it."""

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """The tools, as the model is told."""

    @property
    def expects(self) -> str:
        """Topic of the question now open to the caller, for the recogniser; "" if none."""

    @property
    def choices(self) -> Sequence[str]:
        """Answers to offer a caller who is not understood, as spoken; may be empty."""

    async def call(self, name: str, arguments: Mapping[str, Json], turn: int) -> Outcome:
        """Run one tool, in the caller's turn number `turn`.

        What the model got wrong (an unknown tool, a bad argument) is an `Outcome`
        that says so, not an exception.

        Raises:
            ToolError: If the tool could not do its work (database locked, disk full).
        """

    def close(self) -> None:
        """Free what the call held; nothing half-done stays behind."""


class ToolError(RuntimeError):
    """A tool could not do its work; the message is for the log, not for the caller."""

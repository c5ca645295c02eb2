"""Who answers the phone: what an agent says, what it may do, which model and words it knows.

An agent is a folder with an `agent.py` that defines `load(data: Path) -> Agent`;
`data` is a directory where it may keep files (a database, say).
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voice.settings import BUDGETS, within
from voice.tools import Toolbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What the agent says by itself, without asking the model.

    Attributes:
        greeting: The first words of a call.
        again: Asks again when the caller was not understood, by the topic that
            was expected; "" is the line for every other topic.
        person: Said after two misses in a row, with the offer of a person.
        still_there: Asks a caller who has been silent.
        goodbye: The last words to a caller who stays silent.
        wait: Bridges a tool that is slow.
        tool_failed: A tool could not do its work; nothing was changed.
        tool_slow: A tool has not answered in time; what it will still do is not known.
        failed: The agent itself failed to answer (a model or voice went wrong).
    """

    greeting: str
    again: Mapping[str, str]
    person: str
    still_there: str = "Are you still there?"
    goodbye: str = "I can't hear you any more, so I will hang up now. Goodbye."
    wait: str = "One moment, please."
    tool_failed: str = "I'm sorry, I could not do that just now. Nothing was changed."
    tool_slow: str = "I'm sorry, that is taking too long. Please ask me again in a moment."
    failed: str = "I'm sorry, something went wrong here. Could you say that again?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One agent, shared by all its calls.

    Attributes:
        name: For people, for example "Lakeside Clinic front desk".
        instructions: The system message.
        lines: What it says by itself.
        open: Makes the tools of one call.
        model: Directory of its own language model (Hugging Face layout), if it has one.
        speech: Directory of the sentences its callers say, one file a topic
            (`TOPIC.txt`), for recognisers that need them.
        voice: The synthesiser's voice, "" for the default.
        adapter: The adapter (LoRA) that the language model answers with, of those it serves
            (`vllm.lora`); "" for its usual one.
    """

    name: str
    instructions: str
    lines: Lines
    open: Callable[[], Toolbox]
    model: Path | None = None
    speech: Path | None = None
    voice: str = ""
    adapter: str = ""
    suggestions: tuple[str, ...] = field(default=())
    """Things a caller could say first, for the page."""
    budget: float | None = None
    """What its callers may have to wait for an answer, in seconds; None for the server's budget."""

    def __post_init__(self) -> None:
        if self.budget is not None:
            within(f"the budget of agent {self.name}", self.budget, *BUDGETS, "s")


def load(folder: Path, data: Path) -> Agent:
    """Import `folder/agent.py` and let it make its agent.

    Raises:
        ValueError: If the folder holds no agent.
    """
    file = folder / "agent.py"
    if not file.is_file():
        raise ValueError(f"no agent in {folder}: expected {file} with load(data) -> Agent")
    name = f"agent_{folder.resolve().name}"
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    agent = module.load(data)
    if not isinstance(agent, Agent):
        raise ValueError(f"{file}: load() returned {type(agent).__name__}, expected Agent")
    return agent

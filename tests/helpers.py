"""A live server for tests: real sockets on loopback, any engines."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import asr.engine
import llm.engine
import tts.engine
from asr.fake import Fake as FakeEars
from llm.fake import Fake as FakeMind
from transport.line import Pcm
from tts.fake import Fake as FakeMouth
from voice.agent import Agent, Lines
from voice.serve import Web, listen
from voice.server import Server
from voice.settings import Settings, TurnSettings
from voice.tools import Outcome

from speech import say

QUICK = TurnSettings(shortest_wait=0.3, longest_wait=0.3, idle=30.0, longest_stall=8.0)

LINES = Lines(
    greeting="Hello there.",
    again={"": "Please say that again.", "day": "Which day, please?"},
    person="Would you like a person?",
    failed="Something went wrong.",
    tool_failed="That did not work.",
)


class NoTools:
    """The toolbox of an agent without tools; tests change what it expects and offers."""

    specs: tuple[llm.engine.ToolSpec, ...] = ()
    expects = ""
    choices: tuple[str, ...] = ()

    async def call(self, name: str, arguments: Any, turn: int) -> Outcome:
        """There is no tool."""
        return Outcome(output={"error": f"no tool {name}"})

    def close(self) -> None:
        """Nothing to free."""


def plain_agent(toolbox: Any = None, lines: Lines = LINES) -> Agent:
    """Return an agent with `toolbox` for every call."""
    return Agent(
        name="test desk",
        instructions="Be brief.",
        lines=lines,
        open=lambda: toolbox or NoTools(),
    )


@dataclass
class Running:
    """A server that takes calls."""

    server: Server
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def running(
    data: Path,
    *,
    ears: asr.engine.Engine | None = None,
    mind: llm.engine.Engine | None = None,
    mouth: tts.engine.Engine | None = None,
    agent: Agent | None = None,
    port: int = 0,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Serve on a free port of loopback, or on `port`; what is not given is a fake.

    Nobody is refused by prediction, however busy the machine of the tests is.
    """
    chosen = (
        {"admission": False}
        | {"turn": QUICK, "asr": "fake", "llm": "fake", "tts": "fake"}
        | settings
    )
    server = Server(Settings(data=str(data), port=0, **chosen), agent or plain_agent())
    if ears is not None or chosen["asr"] == "fake":
        server.ears = ears or FakeEars(["hello"] * 100)
    if mind is not None or chosen["llm"] == "fake":
        server.mind = mind or FakeMind("Good morning to you.")
    if mouth is not None or chosen["tts"] == "fake":
        server.mouth = mouth or FakeMouth(character=0.03)
    web = Web(server)
    opened = listen("127.0.0.1", port)
    serving = asyncio.create_task(web.serve(sockets=[opened]))
    try:
        await server.start()
        while not web.started:
            await asyncio.sleep(0.01)
        yield Running(server, opened.getsockname()[1])
    finally:
        web.should_exit = True
        await serving
        opened.close()


def voiced(seconds: float = 0.8, rate: int = 16_000) -> Pcm:
    """Return something Silero takes for speech: espeak's "la la la", cut to length."""
    speech = say("la la la la la la la la")
    speech = speech[np.flatnonzero(np.abs(speech) > 0.02)[0] :]
    return speech[: round(seconds * rate)]

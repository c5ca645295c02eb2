"""The profile "bench": engines that take a fixed time each, and an agent with nothing to say first.

Engine names and delays are those of the comparison with other servers: the final words
50 ms after they are asked for; the first token after 50 ms, then one every 10 ms, the
first sentence ending at the tenth of 30; the first 20 ms of audio 50 ms after a phrase,
then 100 ms every 10 ms. One after the other they take 240 ms.
"""

from collections.abc import Mapping, Sequence

import asr.fake
import llm.fake
import tts.fake
from llm.engine import Json, ToolSpec
from voice.agent import Agent, Lines
from voice.settings import BenchSettings
from voice.tools import Outcome

TRANSCRIPT = "Could you please tell me the time in London?"
REPLY = (
    "Sure, it is half past nine tomorrow morning. "
    "And if you want I can also look up the weather for the rest of the week in London."
)
ASR = 0.05
FIRST_TOKEN = 0.05
TOKEN = 0.01
FIRST_AUDIO = 0.05
AUDIO = 0.01


class NoTools:
    """A toolbox without tools."""

    specs: Sequence[ToolSpec] = ()
    choices: Sequence[str] = ()

    def __init__(self) -> None:
        self.expects = ""

    async def call(self, name: str, arguments: Mapping[str, Json], turn: int) -> Outcome:
        """There is nothing to call."""
        return Outcome(output={"error": f"no tool {name}"})

    def close(self) -> None:
        """There is nothing to free."""


def agent() -> Agent:
    """Return an agent that waits for the caller to begin."""
    lines = Lines(greeting="", again={"": "Sorry?"}, person="Sorry?")
    return Agent(name="bench", instructions="Be brief.", lines=lines, open=NoTools)


def ears(settings: BenchSettings) -> asr.fake.Fake:
    """Return ears that hear the same words in every utterance, and tell none before its end."""
    return asr.fake.Fake(always=TRANSCRIPT, delay=ASR * settings.delays, partial=False)


def mind(settings: BenchSettings) -> llm.fake.Fake:
    """Return a mind that answers `REPLY`."""
    return llm.fake.Fake(REPLY, FIRST_TOKEN * settings.delays, TOKEN * settings.delays)


def mouth(settings: BenchSettings) -> tts.fake.Steady:
    """Return a mouth that hums each of the reply's two sentences for half its length."""
    return tts.fake.Steady(
        settings.reply / 2, first=FIRST_AUDIO * settings.delays, interval=AUDIO * settings.delays
    )

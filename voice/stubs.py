"""The profile "bench": engines that take a fixed time each, and an agent with nothing to say first.

Engine names and delays are those of the comparison with other servers: the final words
50 ms after they are asked for; the first token after 50 ms, then one every 10 ms, the
first sentence ending at the tenth of 30; the first 20 ms of audio 50 ms after a phrase,
then 100 ms every 10 ms. One after the other they take 240 ms.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import asr.fake
import llm.fake
import tts.fake
from llm.engine import Json, ToolSpec
from voice.agent import Agent, Lines
from voice.settings import BenchSettings, within
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


LONGEST_DELAY = 30.0
"""Seconds that an engine may be told to take."""

LONGEST_ANSWER = 1000
"""Characters that the mind may be told to answer."""


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
    first, interval = FIRST_TOKEN * settings.delays, TOKEN * settings.delays
    return llm.fake.Fake(REPLY, first, interval, settings.crowding)


def mouth(settings: BenchSettings) -> tts.fake.Steady:
    """Return a mouth that hums each of the reply's two sentences for half its length."""
    return tts.fake.Steady(
        settings.reply / 2, first=FIRST_AUDIO * settings.delays, interval=AUDIO * settings.delays
    )


def in_force(ears: Any, mind: Any, mouth: Any) -> dict[str, Any]:
    """Return what `change` can change of these engines, in seconds, and the answer's words.

    Engines that compute take their own time, and are left out.
    """
    found: dict[str, Any] = {}
    if isinstance(ears, asr.fake.Fake):
        found["asr"] = ears.delay
    if isinstance(mind, llm.fake.Fake):
        found |= {"llm": mind.first, "answer": mind.otherwise}
    if isinstance(mouth, tts.fake.Steady):
        found["tts"] = mouth.first
    return found


def change(ears: Any, mind: Any, mouth: Any, given: Mapping[str, Any]) -> None:
    """Change what engines take from now on: {"asr": 0.25, "llm": 0.3, "tts": 0.25}, in seconds.

    That is until the final words, the first token and the first audio. "answer" is what the
    mind says.

    Raises:
        ValueError: If something else is given, or nothing that these engines have; nothing
            has changed then.
    """
    known = in_force(ears, mind, mouth)
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"there is no {name[:40]!r} here; there is {', '.join(known)}")
        if name == "answer":
            if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ANSWER:
                raise ValueError(f"answer is {value!r:.40}; expected 1 to {LONGEST_ANSWER} letters")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is {value!r:.40}; expected seconds")
        else:
            within(name, value, 0.0, LONGEST_DELAY, "s")
    for name, value in given.items():
        match name:
            case "asr":
                ears.delay = float(value)
            case "llm":
                mind.first = float(value)
            case "tts":
                mouth.first = float(value)
            case "answer":
                mind.otherwise = value

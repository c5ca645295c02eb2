"""Whole calls, held with the real tools on a real book by a caller who says what comes to mind.

They show that what the model is trained on (`examples.prompt`) is what it is asked in a call:
tool results and lines come from `DeskCall`, nothing is made up.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llm.engine import Item, Message, ToolCall, ToolResult

from . import language
from .call import DeskCall
from .desk import Desk
from .language import Meaning, Moment, Said

TURNS = 12
"""The longest call, in turns of the caller."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a caller, and what should be done about it.

    Attributes:
        items: The conversation up to and including the caller's words.
    """

    items: tuple[Item, ...]
    moment: Moment
    said: Said
    meaning: Meaning


async def simulate(desk: Desk, rng: random.Random, held_out: bool = False) -> Sequence[Turn]:
    """Hold one call in which everything is understood; return its turns."""
    call = DeskCall(desk)
    items: list[Item] = [Message("assistant", "Lakeside Clinic front desk, hello. How can I help?")]
    turns: list[Turn] = []
    moment = Moment()
    while len(turns) < TURNS:
        said = language.draw(moment.ask, rng, held_out)
        meaning = language.meaning(said, moment)
        items.append(Message("user", said.text))
        turns.append(Turn(tuple(items), moment, said, meaning))
        if meaning.tool:
            tool = ToolCall(f"call_{len(turns)}", meaning.tool, meaning.arguments)
            outcome = await call.call(tool.name, tool.arguments, len(turns))
            items += [tool, ToolResult(tool.id, tool.name, outcome.output)]
            items.append(Message("assistant", outcome.say))
            if outcome.end:
                break
            moment = Moment(outcome.output["doing"], outcome.output["ask"])
        else:
            line = language.reply(meaning.reply, moment)
            items.append(Message("assistant", line))
            moment = Moment(moment.doing, language.asked(line) or call.expects)
    return turns

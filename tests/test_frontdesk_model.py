"""The shipped model, as it runs in a call: CTranslate2 on the processor."""

import random
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from demos.frontdesk import clinic, elsewhere, evaluate, examples, language
from demos.frontdesk.call import DeskCall
from demos.frontdesk.desk import Desk
from demos.frontdesk.evaluate import ask, before
from demos.frontdesk.language import Moment
from llm.ctranslate import CTranslate
from llm.engine import Item, Message, ToolCall, ToolResult

NOW = datetime(2026, 11, 23, 8, 0)


@pytest.fixture
async def mind(tmp_path: Path) -> AsyncIterator[CTranslate]:
    engine = CTranslate(evaluate.MODEL, cache=tmp_path)
    await engine.start()
    yield engine
    await engine.stop()


async def hold(mind: CTranslate, desk: Desk, *said: str) -> list[str]:
    """Say one thing after the other; return what the desk answered."""
    call, items, lines = DeskCall(desk), list[Item](), list[str]()
    for turn, words in enumerate(said, 1):
        items.append(Message("user", words))
        found = await ask(mind, items)
        line = found.text
        if found.tool:
            outcome = await call.call(found.tool, found.arguments, turn)
            tool = ToolCall(f"call_{turn}", found.tool, found.arguments)
            items += [tool, ToolResult(tool.id, tool.name, outcome.output)]
            line = outcome.say
        items.append(Message("assistant", line))
        lines.append(line)
    return lines


async def test_an_appointment_is_booked_moved_and_cancelled_in_words(
    mind: CTranslate, tmp_path: Path
) -> None:
    desk = Desk(tmp_path / "desk.sqlite", lambda: NOW)
    calendar = await desk.read()
    name = next(name for name in ("anna miller", "nathan quinn") if name not in calendar.upcoming)
    day = next(day for day in calendar.days()[1:] if {"10:30", "15:00"} <= set(calendar.free(day)))
    said = await hold(
        mind,
        desk,
        "Hello, I'd like to book an appointment, please.",
        f"{day:%A} at ten thirty",
        f"my name is {name}",
        "yes please",
        "I need to move my appointment",
        f"on {day:%A}",
        "at three",
        "yes",
        "cancel my appointment",
        "yes",
        "no thank you",
    )
    slots = f"{day:%A} at ten thirty", f"{day:%A} at three"
    assert said[2] == f"{name.title()}, {slots[0]}. Shall I book that?"
    assert said[3].startswith(f"It is booked: {name.title()}, {slots[0]}.")
    assert said[7].startswith(f"It is moved: {name.title()}, {slots[1]}.")
    assert said[9].startswith(f"It is cancelled: {name.title()}, {slots[1]}.")
    assert said[10] == "Thank you for calling. Goodbye."
    assert (await desk.read()).upcoming == calendar.upcoming


async def test_a_correction_changes_what_is_read_back(mind: CTranslate, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk.sqlite", lambda: NOW)
    calendar = await desk.read()
    days = calendar.days()[1:]
    time, first, second = next(
        (time, free[0], free[1])
        for time in clinic.SLOTS
        if len(free := [day for day in days if time in calendar.free(day)]) > 1
    )
    name = next(name for name in ("anna miller", "nathan quinn") if name not in calendar.upcoming)
    said = await hold(
        mind,
        desk,
        f"I'd like an appointment on {first:%A} at {clinic.clock(time)}",
        f"this is {name}",
        f"no, {second:%A}",
    )
    assert said[2] == f"{name.title()}, {second:%A} at {clinic.clock(time)}. Shall I book that?"


async def test_a_yes_to_the_offer_of_a_person_hands_the_call_over(mind: CTranslate) -> None:
    offer = await ask(mind, [*before(Moment()), Message("user", "my back hurts a lot")])
    assert offer.text.endswith("Would you like to speak to a person?")
    items = [*before(Moment()), Message("user", "my back hurts a lot")]
    found = await ask(
        mind, [*items, Message("assistant", offer.text), Message("user", "yes please")]
    )
    assert found.tool == "transfer"


async def test_talk_of_other_things_hardly_ever_becomes_a_tool_call(mind: CTranslate) -> None:
    rng = random.Random(3)
    called = 0
    for text in elsewhere.HELD_OUT:
        items = [*before(examples.some_moment(rng)), Message("user", text)]
        called += bool((await ask(mind, items)).tool)
    assert called <= len(elsewhere.HELD_OUT) // 25


async def test_the_model_claims_nothing_that_no_tool_did(mind: CTranslate) -> None:
    rng = random.Random(4)
    for _ in range(200):
        moment = examples.some_moment(rng)
        said = language.draw(moment.ask, rng, held_out=True)
        await ask(mind, [*before(moment), Message("user", said.text)])  # raises on a claim


def test_the_model_is_small_enough_to_ship() -> None:
    assert (evaluate.MODEL / "model.safetensors").stat().st_size < 14e6

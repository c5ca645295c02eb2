"""Measure the front desk on what its model never saw: other wordings, other voices.

    python -m demos.frontdesk.evaluate

prints one JSON line per measurement. The model runs as it ships (CTranslate2, 8 bits), the
recogniser and the book are the real ones, the callers are synthetic voices in rooms and on
telephones.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from asr.engine import RATE
from asr.engine import Engine as Ears
from llm.ctranslate import CTranslate
from llm.engine import Engine as Mind
from llm.engine import EngineError, Item, Message, Params, Text, ToolCall, ToolResult
from voice.understanding import acted_on

from . import clinic, elsewhere, examples, hearing, language
from .call import SPECS, DeskCall
from .desk import Desk, start_of
from .language import Moment, Said

MODEL = Path(__file__).parent / "model"
NOW = datetime(2026, 11, 23, 8, 0)
"""A Monday morning before the clinic opens."""

CLAIM = re.compile(r"\b(booked|moved|cancell?ed|confirmed|scheduled|done)\b", re.IGNORECASE)
"""Words that only a tool may say."""

LONGEST = 16
"""Turns after which a caller gives up."""

NOTES = False
"""Whether to print every mistake."""


@dataclass(slots=True)
class Answered:
    """What the model did: one call, or words. A call that makes no sense is "malformed"."""

    tool: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


async def ask(mind: Mind, items: Sequence[Item]) -> Answered:
    """Let the model answer."""
    thread, text = mind.open(items, SPECS), ""
    try:
        async for piece in thread.generate(Params(max_tokens=96), 0.0):
            if isinstance(piece, ToolCall):
                return Answered(piece.name, piece.arguments)
            if isinstance(piece, Text):
                text += piece.text
    except EngineError as error:
        note(error)
        return Answered("malformed")
    finally:
        thread.close()
    if CLAIM.search(text):
        raise AssertionError(f"the model claimed what no tool did: {text!r}")
    return Answered(text=text)


def note(*what: object) -> None:
    """Print one thing that went wrong, for those who asked for it."""
    if NOTES:
        print(" ", *what, file=sys.stderr)


def before(moment: Moment) -> list[Item]:
    """Return a conversation that has come to `moment`."""
    state = {"doing": moment.doing, "ask": moment.ask if moment.ask != "person" else ""}
    line = language.QUESTIONS[moment.ask] if moment.ask in ("person", "kind") else "And now?"
    return [
        Message("user", "hello"),
        ToolCall("call_1", "say_again", {}),
        ToolResult("call_1", "say_again", state),
        Message("assistant", line),
    ]


def held_out(count: int, seed: int, trained: frozenset[str]) -> list[tuple[Moment, Said]]:
    """Draw sentences in moments of a call, none of which was trained on."""
    rng = random.Random(seed)
    drawn: list[tuple[Moment, Said]] = []
    while len(drawn) < count:
        moment = examples.some_moment(rng)
        said = language.draw(moment.ask, rng, held_out=True)
        if said.text not in trained:
            drawn.append((moment, said))
    assert not trained & {said.text for _, said in drawn}
    return drawn


async def understood(mind: Mind, moment: Moment, said: Said, words: str) -> tuple[bool, bool]:
    """Let the model answer `words`, which were meant as `said`.

    Returns whether it does the right thing, and whether it takes them for a yes that they are not.
    """
    wanted = language.meaning(said, moment)
    found = await ask(mind, [*before(moment), Message("user", words)])
    right = (found.tool, dict(found.arguments)) == (wanted.tool, dict(wanted.arguments))
    return right, not right and found.tool == "confirm" and found.arguments.get("answer") == "yes"


async def clean_text(mind: Mind, turns: Sequence[tuple[Moment, Said]]) -> dict[str, Any]:
    """Exact tool calls on what was said, word for word."""
    asked = false_yes = 0
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for moment, said in turns:
        kind = "tool" if language.meaning(said, moment).tool else "text"
        good, false = await understood(mind, moment, said, said.text)
        asked += moment.ask == "yes_no" and said.family != "yes"
        false_yes += false and moment.ask == "yes_no"
        for key in (kind, f"family {said.family}"):
            total[key] += 1
            right[key] += good
        if not good:
            found = await ask(mind, [*before(moment), Message("user", said.text)])
            note("clean", moment, said, "->", found)
    rates: dict[str, Any] = {key: round(right[key] / total[key], 3) for key in sorted(total)}
    rates["taken for a yes to a read-back"] = f"{false_yes} of {asked}"
    return {"measured": "clean text, right answers", "turns": len(turns)} | rates


async def recognised(
    ears: Ears, mind: Mind, turns: Sequence[tuple[Moment, Said]], line: str
) -> dict[str, Any]:
    """Exact tool calls on what the recogniser heard; what it is unsure of is not acted on.

    Who is not understood says it once more, plainly where there is a plain way.
    """
    rng = random.Random(11)
    total = right = wrong = readable = in_two = unsure = words = 0
    for moment, said in turns:
        if not language.meaning(said, moment).tool:
            continue
        if total % hearing.SENTENCES == 0:
            speaker = hearing.some_speaker(language.TEST_VOICES, rng, line)
            call = f"sentences {total}"
        total += 1
        pcm = hearing.called(said.text, speaker, rng)
        heard = await hearing.hear(ears, pcm, moment.ask, call)
        words += heard.text == said.text
        sure = acted_on(heard.text, heard.confidence, moment.ask)
        unsure += not sure
        good = bool(heard.text) and (await understood(mind, moment, said, heard.text))[0]
        readable += good
        wrong += sure and not good
        good = good and sure
        right += good
        if not good:
            found = await ask(mind, [*before(moment), Message("user", heard.text)])
            note("heard", moment, said, "as", heard.text, heard.confidence, "->", found)
            pcm = hearing.called(plainly(said.family, said.slots) or said.text, speaker, rng)
            heard = await hearing.hear(ears, pcm, moment.ask, call)
            sure = acted_on(heard.text, heard.confidence, moment.ask)
            good = sure and (await understood(mind, moment, said, heard.text))[0]
        in_two += good
    return {
        "measured": f"recognised sentences, {line}",
        "turns": total,
        "word for word": round(words / total, 3),
        "right at first": round(right / total, 3),
        "right when said once more": round(in_two / total, 3),
        "acted on wrongly": round(wrong / total, 3),
        "unsure, asks again": round(unsure / total, 3),
        "right whatever the confidence": round(readable / total, 3),
    }


async def outside(ears: Ears, mind: Mind, count: int, line: str) -> dict[str, Any]:
    """Tool calls that come of sentences and noises which were not for a clinic."""
    rng, calls, spoken, noise, written = random.Random(12), Counter[str](), 0, 0, 0
    moments = [examples.some_moment(rng) for _ in range(count)]
    for index, moment in enumerate(moments):
        text = elsewhere.HELD_OUT[index % len(elsewhere.HELD_OUT)]
        found = await ask(mind, [*before(moment), Message("user", text)])
        written += bool(found.tool)
        if found.tool:
            note("outside, written", moment, text, "->", found)
        for kind in ("speech", "noise"):
            if kind == "speech":
                speaker = hearing.some_speaker(language.TEST_VOICES, rng, line)
                pcm = hearing.called(text, speaker, rng)
                spoken += 1
            else:
                hiss = np.random.default_rng(index).standard_normal(rng.randint(1, 4) * RATE // 2)
                pcm = (hiss * rng.uniform(0.005, 0.1)).astype(np.float32)
                noise += 1
            heard = await hearing.hear(ears, pcm, moment.ask, "")
            if acted_on(heard.text, heard.confidence, moment.ask):
                found = await ask(mind, [*before(moment), Message("user", heard.text)])
                calls[kind] += bool(found.tool)
                if found.tool:
                    note("outside", kind, moment, text, "as", heard.text, "->", found)
    return {
        "measured": f"out of domain, ends in a tool call, {line}",
        "written sentences": round(written / count, 3),
        "spoken sentences": round(calls["speech"] / spoken, 3),
        "noises": round(calls["noise"] / noise, 3),
        "of each": count,
    }


def plainly(family: str, slots: Mapping[str, str]) -> str:
    """Return how people answer who were not understood, "" if they just say it again."""
    no = "no " if family in language.CORRECTIONS else ""
    match family.removeprefix("not_"):
        case "day" | "name" as slot:
            return no + slots[slot]
        case "time":
            return no + clinic.clock(slots["time"])
        case "day_time":
            return f"{no}{slots['day']} at {clinic.clock(slots['time'])}"
        case "yes":
            return "yes please"
        case "no":
            return "no"
    return ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants: `kind` as in `Draft`; the slot is free, or theirs to cancel."""

    kind: str
    name: str
    day: str
    time: str


class Caller:
    """A caller who wants one thing, answers truthfully, and corrects what is read back wrong.

    They speak in held-out wordings, and plainly ("thursday") when they were not understood.
    """

    def __init__(self, wish: Wish, rng: random.Random) -> None:
        self.wish = wish
        self._plainly = False
        self._rng = rng

    def answer(self, ask: str, line: str, plainly: bool) -> str:
        """Say the next thing to a `line` that leaves `ask` open."""
        wish = self.wish
        self._plainly = plainly
        match ask:
            case "day":
                return self._speak("day")
            case "time":
                return self._speak("time")
            case "day_time":
                return self._speak("day_time")
            case "name":
                return self._speak("name")
            case "yes_no":
                wrong = self._wrong(line)
                if not wrong:
                    return self._speak("yes")
                return self._speak(wrong) if self._rng.random() < 0.6 else self._speak("no")
        return self._speak(wish.kind)

    def _wrong(self, line: str) -> str:
        """Return how to correct what `line` reads back, "" if it is as wished."""
        wish = self.wish
        asks = {"book": "book that?", "move": "move it?", "cancel": "cancel it?"}
        slot = f"{wish.day.title()} at {clinic.clock(wish.time)}"
        if not line.endswith(asks[wish.kind]):
            return "no"
        if wish.name.title() not in line:
            return "not_name"
        new = line.rpartition(" to ")[2] if wish.kind == "move" else line
        if wish.kind == "cancel" or re.search(rf"{slot}[.?]", new):
            return ""
        day, time = wish.day.title() in new, f"at {clinic.clock(wish.time)}." in new
        return "not_time" if day else "not_day" if time else "not_day_time"

    def _speak(self, family: str) -> str:
        """Put what is wished into words, and nothing else."""
        wish = self.wish
        if self._plainly:
            slots = {"name": wish.name, "day": wish.day, "time": wish.time}
            return plainly(family, slots) or f"{family} an appointment"
        while True:
            said = language.speak(family, self._rng, held_out=True)
            wished = {"name": wish.name, "day": wish.day, "time": wish.time}
            if family in ("book", "move", "cancel"):
                if not said.slots:
                    return said.text
            elif all(wished[key] == value for key, value in said.slots.items()):
                return said.text


@dataclass(slots=True)
class Ended:
    """How one call ended: "right", "wrong" (a row that was not wished) or "nothing"."""

    how: str
    turns: int
    corrections: int


async def one_call(ears: Ears | None, mind: Mind, desk: Desk, seed: int, on: str) -> Ended:
    """Hold one call; without `ears` the words are passed on as they are."""
    rng = random.Random(seed)
    calendar = await desk.read()
    kind = rng.choice(("book", "book", "move", "cancel"))
    has = [name for name in clinic.PATIENTS if (name in calendar.upcoming) == (kind != "book")]
    name = rng.choice(has)
    free = [(day, slot) for day in calendar.days() for slot in calendar.free(day)]
    day, slot = rng.choice(free)
    wish = Wish(kind, name, clinic.DAYS[day.weekday()], slot)
    expected = dict(calendar.upcoming)
    if kind == "cancel":
        del expected[name]
    else:
        expected[name] = start_of(day, slot)
    caller, call = Caller(wish, rng), DeskCall(desk)
    speaker = hearing.some_speaker(language.TEST_VOICES, rng, on or "quiet room")
    items: list[Item] = [Message("assistant", "Hello. How can I help?")]
    topic, line, ended, corrections, missed = "", "Hello. How can I help?", "", 0, False
    for turn in range(1, LONGEST + 1):
        words = caller.answer(topic, line, plainly=missed)
        corrections += words.startswith(("no", "that's wrong", "not"))
        if ears:
            pcm = hearing.called(words, speaker, rng)
            heard = await hearing.hear(ears, pcm, topic, f"call {seed}")
            missed = not acted_on(heard.text, heard.confidence, topic)
            if missed:
                continue  # the desk asks again; nothing else changes
            words = heard.text
        items.append(Message("user", words))
        found = await ask(mind, items)
        if found.tool == "malformed":
            continue
        if not found.tool:
            missed = True
            items.append(Message("assistant", found.text))
            line, topic = found.text, language.asked(found.text) or call.expects
            continue
        outcome = await call.call(found.tool, found.arguments, turn)
        tool = ToolCall(f"call_{turn}", found.tool, found.arguments)
        items += [tool, ToolResult(tool.id, tool.name, outcome.output)]
        items.append(Message("assistant", outcome.say))
        line, topic, ended = outcome.say, call.expects, outcome.end
        if ended or line.startswith("It is "):
            break
    after = dict((await desk.read()).upcoming)
    if after == expected:
        return Ended("right", turn, corrections)
    return Ended("nothing" if after == calendar.upcoming else "wrong", turn, corrections)


async def whole_calls(ears: Ears | None, mind: Mind, count: int, line: str = "") -> dict[str, Any]:
    """Whole calls of callers who want one thing; what was written is compared with it."""
    ends: list[Ended] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(count):
            desk = Desk(Path(folder) / f"{seed}.sqlite", lambda: NOW)
            ends.append(await one_call(ears, mind, desk, seed, line))
            if ends[-1].how != "right":
                note("call", seed, ends[-1])
    how = Counter(end.how for end in ends)
    return {
        "measured": f"whole calls, {line or 'clean text'}",
        "calls": count,
        "as wished": round(how["right"] / count, 3),
        "nothing written": round(how["nothing"] / count, 3),
        "wrong rows": round(how["wrong"] / count, 3),
        "turns": round(sum(end.turns for end in ends) / count, 1),
    }


async def main(model: Path, turns: int, calls: int, speech: bool) -> None:
    """Print one JSON line per measurement."""
    from asr.sphinx import Sphinx

    trained = examples.texts(model)
    sentences = held_out(turns, 1, trained)
    mind, ears = CTranslate(model), Sphinx(language.SPEECH, 1, 1)
    await mind.start()
    try:
        print(json.dumps(await clean_text(mind, sentences)), flush=True)
        print(json.dumps(await whole_calls(None, mind, calls)), flush=True)
        if speech:
            await ears.start()
            for line in hearing.LINES:
                heard = await recognised(ears, mind, sentences[: turns // 4], line)
                print(json.dumps(heard), flush=True)
                heard = await outside(ears, mind, turns // 8, line)
                print(json.dumps(heard), flush=True)
                heard = await whole_calls(ears, mind, calls, line)
                print(json.dumps(heard), flush=True)
    finally:
        await ears.stop()
        await mind.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--turns", type=int, default=2000, help="held-out sentences")
    parser.add_argument("--calls", type=int, default=200, help="whole calls")
    parser.add_argument("--no-speech", action="store_true", help="measure on clean text only")
    parser.add_argument("--notes", action="store_true", help="print every mistake")
    given = parser.parse_args()
    NOTES = given.notes
    asyncio.run(main(given.model, given.turns, given.calls, not given.no_speech))

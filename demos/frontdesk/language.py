"""What callers say to a front desk and what they mean, to train a recogniser and a model with.

A sentence is drawn from `wordings.py`, its slots are filled, and a caller's hesitations are
put around it. What it means depends on the moment it is said in (`Moment`): "ten thirty" answers
"Which time?" of a booking or of a move. The language is in two halves that share no wording;
tests use the held-out half only.

`python -m demos.frontdesk.language --write` writes the recogniser's sentences, a file a topic.
"""

import argparse
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import clinic, elsewhere
from .wordings import DAY, ENDINGS, FAMILIES, HESITATIONS, IN_PART, LOOSE, OPENINGS

TEST_VOICES = ("en-us+f3", "en-us+m3", "en-us+john", "en-gb-x-rp")
"""espeak voices that no training recording uses."""

TOPICS: Mapping[str, Mapping[str, float]] = {
    "": {
        "book": 20,
        "move": 12,
        "cancel": 9,
        "find": 9,
        "hours": 8,
        "person": 5,
        "new_patient": 2,
        "day_time": 3,
        "day": 3,
        "time": 2,
        "name": 2,
        "yes": 2,
        "no": 2,
        "bye": 3,
        "again": 2,
        "who": 2,
        "hello": 2,
        "thanks": 2,
        "urgent": 3,
        "colleague": 5,
        "kind": 3,
        "unclear": 1.5,
        "elsewhere": 5,
    },
    "day": {
        "day": 55,
        "day_time": 10,
        "not_day": 7,
        "find": 6,
        "time": 2,
        "first": 1,
        "book": 1,
        "move": 1,
        "cancel": 1,
        "hours": 2,
        "person": 2,
        "bye": 1,
        "again": 2,
        "yes": 1.5,
        "no": 1.5,
        "never_mind": 1,
        "urgent": 0.5,
        "colleague": 0.5,
        "unclear": 2,
        "thanks": 0.3,
        "who": 0.3,
        "elsewhere": 2,
    },
    "time": {
        "time": 52,
        "first": 4,
        "last": 3,
        "not_time": 6,
        "day_time": 5,
        "day": 3,
        "not_day": 2,
        "none": 3,
        "change_day": 2,
        "change_time": 1.5,
        "find": 5,
        "cancel": 1,
        "book": 0.5,
        "move": 0.5,
        "hours": 1,
        "person": 2,
        "bye": 1,
        "again": 2,
        "yes": 1.5,
        "no": 1.5,
        "never_mind": 1,
        "urgent": 0.5,
        "colleague": 0.5,
        "unclear": 2,
        "thanks": 0.3,
        "who": 0.3,
        "elsewhere": 2,
    },
    "day_time": {
        "day_time": 34,
        "day": 16,
        "time": 12,
        "not_day": 4,
        "not_time": 4,
        "not_day_time": 3,
        "find": 7,
        "name": 3,
        "not_name": 1,
        "change_day": 2,
        "change_time": 2,
        "change_name": 1.5,
        "first": 1,
        "none": 1,
        "book": 1,
        "move": 1,
        "cancel": 1,
        "hours": 2,
        "person": 2,
        "bye": 1,
        "again": 2,
        "yes": 1.5,
        "no": 1.5,
        "never_mind": 1.5,
        "urgent": 0.5,
        "colleague": 0.5,
        "unclear": 2,
        "thanks": 0.3,
        "who": 0.3,
        "elsewhere": 2,
    },
    "name": {
        "name": 72,
        "not_name": 7,
        "new_patient": 1.5,
        "person": 2,
        "bye": 1,
        "again": 2,
        "yes": 1.5,
        "no": 1.5,
        "never_mind": 1,
        "not_day": 1,
        "not_time": 1,
        "book": 0.5,
        "move": 0.5,
        "cancel": 0.5,
        "unclear": 2,
        "hours": 0.5,
        "urgent": 0.5,
        "who": 0.5,
        "thanks": 0.3,
        "elsewhere": 2,
    },
    "yes_no": {
        "yes": 36,
        "no": 20,
        "not_day": 6,
        "not_time": 7,
        "not_day_time": 3,
        "not_name": 5,
        "day": 1,
        "time": 1,
        "name": 0.7,
        "change_day": 2,
        "change_time": 2,
        "change_name": 1.5,
        "never_mind": 2,
        "find": 1,
        "move": 0.7,
        "cancel": 0.7,
        "book": 0.5,
        "hours": 0.5,
        "person": 2,
        "bye": 1,
        "again": 3,
        "unclear": 2,
        "urgent": 0.3,
        "colleague": 0.3,
        "thanks": 0.5,
        "who": 0.3,
        "elsewhere": 2,
    },
    "kind": {
        "bye": 22,
        "no": 16,
        "yes": 6,
        "thanks": 8,
        "book": 9,
        "move": 6,
        "cancel": 6,
        "hours": 6,
        "find": 5,
        "person": 3,
        "again": 2,
        "kind": 3,
        "colleague": 2,
        "urgent": 1,
        "hello": 0.5,
        "who": 1,
        "unclear": 2,
        "name": 1,
        "elsewhere": 2,
    },
    "person": {
        "yes": 40,
        "no": 30,
        "person": 8,
        "book": 6,
        "cancel": 3,
        "move": 3,
        "hours": 2,
        "bye": 4,
        "again": 2,
        "urgent": 2,
        "colleague": 2,
        "thanks": 1,
        "unclear": 2,
        "elsewhere": 2,
    },
}
"""How often a caller says a sentence of a family, by the topic of the open question."""

SPEECH = Path(__file__).parent / "speech"
SENTENCES = 6000
"""Sentences written for each topic; repetition is weight."""

CORRECTIONS = frozenset({"not_day", "not_time", "not_day_time", "not_name"})
ANSWERS = frozenset({"day", "time", "day_time", "name", "first", "last"}) | CORRECTIONS


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a call is when the caller speaks.

    Attributes:
        doing: "book", "move", "cancel", or "" when nothing has been begun.
        ask: Topic of the question now open, "" if none; "person" if the last
            line offered one.
    """

    doing: str = ""
    ask: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """One sentence of a caller.

    Attributes:
        text: As spoken, lower case, digits as words.
        family: Which of the `FAMILIES` it is, or "elsewhere".
        slots: What was said of "day", "time", "name" and "part", normalised.
    """

    text: str
    family: str
    slots: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the desk does about a sentence: one tool call, or words of its own."""

    tool: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    reply: str = ""


def expand(pattern: str, rng: random.Random) -> str:
    """Choose among the `(a|b)` and `[a]` of a wording; slots stay."""
    while match := re.search(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]", pattern):
        if match[1] is not None:
            chosen = rng.choice(match[1].split("|"))
        else:
            chosen = rng.choice(match[2].split("|")) if rng.random() < 0.5 else ""
        pattern = pattern[: match.start()] + chosen + pattern[match.end() :]
    return " ".join(pattern.split())


def time_said(time: str, rng: random.Random) -> str:
    """Say a time of day in one of the usual ways."""
    hour, minute = (int(part) for part in time.split(":"))
    twelve = (hour - 1) % 12 + 1
    spoken = clinic.number(twelve)
    following = clinic.number(twelve % 12 + 1)
    half = "in the morning" if hour < 12 else "in the afternoon"
    letters = "a m" if hour < 12 else "p m"
    plain = {
        0: [spoken, spoken, f"{spoken} o'clock"],
        15: [f"quarter past {spoken}", f"{spoken} fifteen"],
        30: [f"{spoken} thirty", f"{spoken} thirty", f"half past {spoken}"],
        45: [f"quarter to {following}", f"{spoken} forty five"],
    }[minute]
    if hour == 12 and not minute:
        return rng.choice(["noon", "twelve", "twelve o'clock", "midday"])
    said = rng.choice(plain)
    if hour < 8 or hour > 18:  # outside what a bare hour can mean here
        return f"{said.removesuffix(chr(32) + 'o' + chr(39) + 'clock')} {letters}"
    if rng.random() < 0.25:
        return f"{said} {half}" if "o'clock" in said or rng.random() < 0.4 else f"{said} {letters}"
    return said


def time_typed(time: str, rng: random.Random) -> str:
    """Write a time of day as people type it, without marks other than the colon."""
    hour, minute = time.split(":")
    twelve, half = (int(hour) - 1) % 12 + 1, "am" if int(hour) < 12 else "pm"
    if minute == "00":
        return rng.choice(
            [f"{twelve} {half}", f"{twelve}{half}", f"{twelve}:00", time, str(twelve)]
        )
    return rng.choice(
        [time, f"{twelve}:{minute}", f"{twelve}:{minute} {half}", f"{twelve} {minute}"]
    )


def _some_time(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.82:
        return rng.choice(clinic.SLOTS)
    if roll < 0.84:
        return "12:00"
    if roll < 0.95:
        return f"{rng.choice((9, 10, 11, 12, 13, 14, 15, 16)):02}:{rng.choice((15, 45, 0)):02}"
    return rng.choice(
        ("08:00", "08:30", "17:00", "17:30", "18:00", "12:00", "12:30", "07:00", "20:00")
    )


class _Filling:
    """The slots of one sentence, chosen when first used."""

    def __init__(self, rng: random.Random, typed: bool) -> None:
        self.rng = rng
        self.tell_time = time_typed if typed else time_said
        self.slots: dict[str, str] = {}
        self.day = rng.choice(DAY).format(week_day=rng.choice(clinic.OPEN_DAYS))
        if rng.random() < 0.03:
            self.day = rng.choice(clinic.DAYS[5:])
        self.time = _some_time(rng)
        self.name = rng.choice(clinic.PATIENTS)
        self.part = rng.choice(tuple(IN_PART))
        self.not_day = rng.choice([day for day in clinic.OPEN_DAYS if day != self.day])
        self.not_time = rng.choice([time for time in clinic.SLOTS if time != self.time])
        self.not_name = rng.choice([name for name in clinic.PATIENTS if name != self.name])

    def fill(self, slot: str) -> str:
        first, last = self.name.split()
        match slot:
            case "day" | "week_day" | "on_day":
                if slot == "week_day" and self.day in ("today", "tomorrow"):
                    self.day = self.rng.choice(clinic.OPEN_DAYS)
                self.slots["day"] = self.day
                return f"on {self.day}" if slot == "on_day" else self.day
            case "time":
                self.slots["time"] = self.time
                return self.tell_time(self.time, self.rng)
            case "name":
                self.slots["name"] = self.name
                return self.name
            case "first":
                return first
            case "last":
                self.slots.setdefault("name", last)
                return last
            case "last_same":
                self.slots["name"] = self.name
                return last
            case "day_same":
                return self.day
            case "time_same":
                return self.tell_time(self.time, self.rng)
            case "in_part":
                self.slots["part"] = self.part
                return self.rng.choice(IN_PART[self.part])
            case "not_day":
                return self.not_day
            case "not_day_on":
                return f"on {self.not_day}"
            case "not_time":
                return self.tell_time(self.not_time, self.rng)
            case "not_name":
                return self.not_name
            case "when":
                forms = [
                    "{on_day}",
                    "{on_day}",
                    "{on_day} at {time}",
                    "{on_day} at {time}",
                    "at {time}",
                ]
                return self.sentence(
                    self.rng.choice([*forms, "{day} {time}", "at {time} {on_day}"])
                )
            case "when_both":
                return self.sentence(self.rng.choice(["{on_day} at {time}", "at {time} {on_day}"]))
        raise ValueError(f"unknown slot {{{slot}}} in a wording")

    def sentence(self, pattern: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: self.fill(match[1]), pattern)


def _tidy(text: str) -> str:
    text = re.sub(r"\b(on|for|this|next) (today|tomorrow)\b", r"\2", text)
    text = re.sub(r"\bto (on|at) ", "to ", text)
    text = re.sub(r"\b(\w+) in \1\b", r"\1", text)
    return " ".join(text.split())


def speak(family: str, rng: random.Random, held_out: bool = False, typed: bool = False) -> Said:
    """Draw a sentence of `family`, from the training or the held-out wordings.

    `typed` writes times with digits, as callers of a chat do.
    """
    if family == "elsewhere":
        patterns = elsewhere.HELD_OUT if held_out else elsewhere.TRAIN
        return Said(expand(rng.choice(patterns), rng), family)
    filling = _Filling(rng, typed)
    pattern = rng.choice(FAMILIES[family].held_out if held_out else FAMILIES[family].train)
    text = filling.sentence(expand(pattern, rng))
    talkative = family in (
        "book",
        "move",
        "cancel",
        "find",
        "hours",
        "person",
        "new_patient",
        "kind",
    )
    roll = rng.random()
    if talkative and roll < 0.2:
        text = f"{rng.choice(OPENINGS)} {text}"
    elif roll > 0.82 and family not in ("unclear", "hello", "bye"):
        text = f"{rng.choice(HESITATIONS)} {text}"
    if rng.random() < 0.15 and (talkative or family in ANSWERS) and "please" not in text:
        text = f"{text} {rng.choice(ENDINGS)}"
    return Said(_tidy(text), family, filling.slots)


def draw(ask: str, rng: random.Random, held_out: bool = False, typed: bool = False) -> Said:
    """Draw a sentence that a caller may say when the question `ask` is open; see `speak`."""
    weights = TOPICS[ask]
    family = rng.choices(tuple(weights), tuple(weights.values()))[0]
    return speak(family, rng, held_out, typed)


def meaning(said: Said, moment: Moment) -> Meaning:
    """Return what the desk does about a sentence said in that moment."""
    doing, ask = moment.doing, moment.ask
    slots = {key: value for key, value in said.slots.items() if key != "part"}
    match said.family:
        case "book" | "move":
            return Meaning(said.family, slots)
        case "cancel":
            return Meaning("cancel", {key: slots[key] for key in slots if key == "name"})
        case "find":
            return Meaning(
                "find_times", {key: said.slots[key] for key in ("day", "part") if key in said.slots}
            )
        case "none":
            return Meaning("find_times")
        case "hours":
            return Meaning("opening_hours", {key: slots[key] for key in slots if key == "day"})
        case "person":
            return Meaning("transfer")
        case "new_patient":
            return Meaning("transfer", {"reason": "new patient"})
        case "bye":
            return Meaning("hang_up")
        case "again":
            return Meaning("say_again")
        case "yes":
            match ask:
                case "yes_no":
                    return Meaning("confirm", {"answer": "yes"})
                case "person":
                    return Meaning("transfer")
                case "kind":
                    return Meaning(reply="kind")
            return Meaning(reply="unclear")
        case "no":
            match ask:
                case "yes_no":
                    return Meaning("confirm", {"answer": "no"})
                case "person":
                    return Meaning(reply="go_on")
                case "kind":
                    return Meaning("hang_up")
            return Meaning(reply="unclear")
        case "never_mind":
            return Meaning("confirm", {"answer": "no"}) if doing else Meaning(reply="go_on")
        case "first" | "last":
            return _answer(doing, {"time": said.family})
        case "change_day" | "change_time" | "change_name":
            return _answer(doing, {said.family.removeprefix("change_"): ""})
        case family if family in ANSWERS:
            if not doing and set(slots) == {"name"}:
                return Meaning(reply="kind")
            return _answer(doing, slots)
        case "elsewhere" | "thanks" | "hello" | "who" | "kind" | "urgent" | "colleague" | "unclear":
            return Meaning(reply=said.family)
    raise ValueError(f"unknown family {said.family!r}")


def _answer(doing: str, arguments: Mapping[str, str]) -> Meaning:
    """Answer a question of what is being done; without any, a booking is meant."""
    if doing == "cancel" and set(arguments) != {"name"}:
        return Meaning(reply="unclear")
    return Meaning(doing or "book", arguments)


QUESTIONS: Mapping[str, str] = {
    "": "Would you like to book, move or cancel an appointment?",
    "day": "Which day would you like?",
    "time": "Which time would you like?",
    "day_time": "Which day and time would you like?",
    "name": "What is your name?",
    "yes_no": "Please say yes or no.",
    "kind": "Is there anything else I can do?",
    "person": "Would you like to speak to a person?",
}
"""How the model asks the open question again in its own words."""

LEADS: Mapping[str, str] = {
    "unclear": "Sorry, I did not get that.",
    "thanks": "You're welcome.",
    "hello": "Hello.",
    "who": "I'm the clinic's automatic front desk. I can book, move or cancel an appointment.",
    "go_on": "All right.",
    "kind": "",
    "elsewhere": "I can only help with appointments and opening hours.",
    "colleague": "That is something for my colleagues.",
    "urgent": "If this is an emergency, please hang up and call the emergency number.",
}
"""How the model begins what it says in its own words, by the kind of reply."""


def reply(kind: str, moment: Moment) -> str:
    """Return what the model says in its own words; it never mentions what is booked."""
    if kind in ("elsewhere", "colleague", "urgent"):
        ask = "person"
    elif kind == "kind" or (kind == "go_on" and moment.ask == "person"):
        ask = ""
    else:
        ask = "kind" if kind == "thanks" and not moment.ask else moment.ask
    return f"{LEADS[kind]} {QUESTIONS[ask]}".strip()


def asked(line: str) -> str:
    """Return the topic that a line of the desk opens whatever the tools wait for, or ""."""
    if "speak to a person?" in line:
        return "person"
    return "kind" if "anything else" in line else ""


def sentences(
    topic: str, rng: random.Random, count: int = SENTENCES, loose: float = 0.35
) -> Sequence[str]:
    """Return what the recogniser shall expect on a topic, repeated as often as it is said.

    Training wordings only, a share of them `loose`. What belongs to no clinic is left out: it is
    `background`'s.
    """
    weights = {key: value for key, value in TOPICS[topic].items() if key != "elsewhere"}
    families = rng.choices(tuple(weights), tuple(weights.values()), k=count)
    lines = []
    for family in families:
        said = speak(family, rng).text
        if loose and family in LOOSE and rng.random() < loose:
            said = _tidy(_Filling(rng, False).sentence(expand(rng.choice(LOOSE[family]), rng)))
        lines.append(said)
    return sorted(lines)


def background(rng: random.Random) -> Sequence[str]:
    """Return sentences of ordinary English that are no business of the clinic, each once."""
    return sorted({expand(pattern, rng) for pattern in elsewhere.TRAIN for _ in range(12)})


def write(folder: Path = SPEECH) -> None:
    """Write a file for each topic (`open.txt` where nothing was asked) and `background.txt`."""
    folder.mkdir(exist_ok=True)
    for topic in TOPICS:
        if topic != "person":  # the toolbox never waits for it: the open question stays open
            lines = sentences(topic, random.Random(f"speech {topic}"))
            (folder / f"{topic or 'open'}.txt").write_text("\n".join(lines) + "\n")
    lines = background(random.Random("speech background"))
    (folder / "background.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True, help="write speech/*.txt")
    parser.parse_args()
    write()

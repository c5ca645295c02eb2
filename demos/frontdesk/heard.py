"""What a recogniser made of sentences, and what the model shall make of that.

A misheard sentence has to be answered by what was heard: whoever is heard to say "tuesday at ten"
gets "tuesday at ten" read back, and can correct it. So the label follows the transcript, and a
transcript from which nobody could tell what was meant is not learnt from at all.
"""

import gzip
import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import clinic, language
from .language import Meaning, Moment, Said

TRANSCRIPTS = Path(__file__).with_name("transcripts.jsonl.gz")

CUES = frozenset(
    [
        *("book", "booking", "move", "change", "reschedule", "shift", "postpone", "cancel"),
        *("cancellation", "morning", "afternoon", "open", "close", "closed", "hours", "person"),
        *("human", "yes", "no", "not", "yeah", "yep", "nope", "first", "last", "earliest"),
        *("latest", "goodbye", "bye", "again", "repeat", "free", "available", "times", "else"),
        *("wrong", "mean", "meant", "instead", "actually", "rather", "never", "forget"),
        *("doctor", "patient", "right", "correct", "who", "thanks", "emergency", "hurts"),
    ]
)
"""Words that tell what a sentence is for; if they differ, so may what was meant."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One sentence and what the recogniser made of it.

    Attributes:
        ask: Topic of the question that was open.
        transcript: What was recognised, "" for nothing.
        confidence: The recogniser's, 0 to 1.
    """

    ask: str
    said: Said
    transcript: str
    confidence: float


def write(heard: Sequence[Heard], file: Path = TRANSCRIPTS) -> None:
    """Store what was heard, one JSON object a line."""
    lines = [json.dumps(asdict(one)) for one in heard]
    with file.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
        stream.write(("\n".join(lines) + "\n").encode())


def read(file: Path = TRANSCRIPTS) -> list[Heard]:
    """Return what `write` stored."""
    with gzip.open(file, "rt") as stream:
        found: list[dict[str, Any]] = [json.loads(line) for line in stream]
    return [Heard(**{**one, "said": Said(**one["said"])}) for one in found]


@cache
def _phrases() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """Return a pattern of everything that fills a slot, and what each phrase fills it with."""
    rng = random.Random("phrases")
    meant: dict[str, tuple[str, str]] = {}
    times = [f"{hour:02}:{minute:02}" for hour in range(7, 21) for minute in (0, 15, 30, 45)]
    for time in times:
        for _ in range(60):
            meant.setdefault(language.time_said(time, rng), ("time", time))
    meant |= {day: ("day", day) for day in (*clinic.DAYS, "today", "tomorrow")}
    words = [word for patient in clinic.PATIENTS for word in patient.split()]
    meant |= {word: ("name", word) for word in words}
    longest = sorted(meant, key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(map(re.escape, longest)) + r")\b"), meant


def slots_in(text: str) -> list[tuple[str, str]]:
    """Return the days, times and names in a text, as ("day", "monday") and so on, in order."""
    pattern, meant = _phrases()
    found: list[tuple[str, str]] = []
    end = -1
    for match in pattern.finditer(text):
        slot, value = meant[match[0]]
        if slot == "name" and found and found[-1][0] == "name" and match.start() == end + 1:
            found[-1] = ("name", f"{found[-1][1]} {value}")
        else:
            found.append((slot, value))
        end = match.end()
    return found


def learn(heard: Heard, moment: Moment) -> Meaning | None:
    """Return what the model shall make of a transcript, None if nobody could tell."""
    said, text = heard.said, heard.transcript
    said_slots, slots = slots_in(said.text), slots_in(text)
    said_cues, cues = (CUES & set(words.split()) for words in (said.text, text))
    if said.family == "elsewhere":
        return None if slots or cues else Meaning(reply="unclear")
    if slots == said_slots and cues == said_cues:
        return language.meaning(said, moment)
    single = len({slot for slot, _ in slots}) == len(slots)
    meant = len(said_slots) == len([slot for slot in said.slots if slot != "part"])
    if cues == said_cues and single and meant and slots:
        part = {key: value for key, value in said.slots.items() if key == "part"}
        return language.meaning(Said(text, said.family, dict(slots) | part), moment)
    return None if slots or cues else Meaning(reply="unclear")

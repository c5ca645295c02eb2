"""What one call has agreed so far: the front desk's tools.

The model only tells what the caller has just said; here it is put together, checked against the
book, and turned into the words to speak, so that no fact ever passes through the model. Nothing
is written before a "yes" in a later turn of the caller than the read-back of exactly that.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from llm.engine import Json, ToolSpec
from voice.tools import Outcome

from . import clinic
from .desk import AppointmentChangedError, Calendar, Desk, SlotTakenError, start_of

OFFERED = 3
"""How many times are read out at once; more are not remembered."""

_DAY = {"type": "string", "description": "monday to friday, today or tomorrow; empty to ask again"}
_TIME = {"type": "string", "description": "24 h, such as 10:30, or first or last of those offered"}
_NAME = {"type": "string", "description": "the caller's first and last name, lower case"}
_SLOT = {"name": _NAME, "day": _DAY, "time": _TIME}


def _spec(name: str, description: str, /, **properties: Mapping[str, Json]) -> ToolSpec:
    parameters = {"type": "object", "properties": properties, "additionalProperties": False}
    return ToolSpec(name, description, parameters)


SPECS = (
    _spec(
        "find_times",
        "Tell free times.",
        day=_DAY,
        part={"type": "string", "enum": ["morning", "afternoon"]},
    ),
    _spec("book", "Book an appointment, with what the caller just said of it.", **_SLOT),
    _spec("move", "Move the caller's appointment, with what was just said of the new.", **_SLOT),
    _spec("cancel", "Cancel the caller's appointment.", name=_NAME),
    _spec(
        "confirm",
        "Pass on the caller's answer to the question asked last.",
        answer={"type": "string", "enum": ["yes", "no"]},
    ),
    _spec("opening_hours", "Tell when the clinic is open.", day=_DAY),
    _spec("say_again", "Repeat what was said last."),
    _spec("transfer", "Hand the call over to a person.", reason={"type": "string"}),
    _spec("hang_up", "End the call."),
)
"""The tools; every argument is optional, and only what the caller just said is passed."""

ARGUMENTS = {spec.name: frozenset(spec.parameters["properties"]) for spec in SPECS}

DONE = {"book": "It is booked", "move": "It is moved", "cancel": "It is cancelled"}
ELSE = "Is there anything else?"


@dataclass(slots=True)
class Draft:
    """An appointment in the making; "" and None are not known yet.

    Attributes:
        kind: "book", "move" or "cancel".
        old: The appointment to be moved, as it was read back.
        read_back: Caller's turn in which the whole was read back, None if it was not.
    """

    kind: str
    name: str = ""
    day: date | None = None
    time: str = ""
    old: datetime | None = None
    read_back: int | None = None


class DeskCall:
    """The tools of one call; see `voice.tools.Toolbox`."""

    specs: Sequence[ToolSpec] = SPECS

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._draft: Draft | None = None
        self._offer = ""
        """What a yes accepts besides a read-back: "person", "move" or "book"."""
        self._asked_in = 0
        self._ask = ""
        self._choices: tuple[str, ...] = ()
        self._line = "I can book, move or cancel an appointment. What can I do for you?"
        self._offered: tuple[str, ...] = ()
        self._part = ""
        self._name = ""
        self._unknown_names = 0

    @property
    def expects(self) -> str:
        """Topic of the open question: day, time, day_time, name, yes_no, kind or ""."""
        return self._ask

    @property
    def choices(self) -> Sequence[str]:
        """Answers to offer a caller who is not understood, as spoken."""
        return self._choices

    def close(self) -> None:
        """Forget the draft; nothing else is held."""
        self._draft = None

    async def call(self, name: str, arguments: Mapping[str, Json], turn: int) -> Outcome:
        """Run one tool; see `voice.tools.Toolbox.call`."""
        if name not in ARGUMENTS:
            return self._ask_again(f"no tool {name!r}, there are {', '.join(ARGUMENTS)}")
        given: dict[str, str] = {}
        for key, value in arguments.items():
            if key not in ARGUMENTS[name] or not isinstance(value, str):
                return self._ask_again(
                    f"{name} takes {sorted(ARGUMENTS[name])} as text, got {key}={value!r}"
                )
            given[key] = value.strip().lower()
        match name:
            case "transfer":
                self._draft, self._offer = None, ""
                line = "I'll put you through to a person. One moment, please."
                return Outcome(output={"reason": given.get("reason", "")}, say=line, end="transfer")
            case "hang_up":
                self._draft, self._offer = None, ""
                return Outcome(say="Thank you for calling. Goodbye.", end="goodbye")
            case "say_again":
                if self._draft and self._draft.read_back is not None:
                    self._draft.read_back = turn
                return self._outcome()
        calendar = await self._desk.read()
        match name:
            case "opening_hours":
                return self._hours(given.get("day", ""), calendar, turn)
            case "confirm":
                return await self._confirm(given.get("answer", ""), calendar, turn)
            case "find_times":
                return self._find(given, calendar, turn)
        return self._take(name, given, calendar, turn)

    def _say(
        self, line: str, ask: str, choices: Sequence[str] = (), offer: str = "", turn: int = 0
    ) -> Outcome:
        """Speak `line` and leave the question `ask` open."""
        self._line, self._ask, self._choices = line, ask, tuple(choices)
        self._offer, self._asked_in = offer, turn
        return self._outcome()

    def _outcome(self, **facts: Json) -> Outcome:
        draft = self._draft
        state: dict[str, Json] = {"doing": draft.kind if draft else "", "ask": self._ask}
        if draft:
            known = {"name": draft.name, "day": str(draft.day or ""), "time": draft.time}
            state["draft"] = {key: value for key, value in known.items() if value}
        return Outcome(output=state | facts, say=self._line)

    def _ask_again(self, error: str) -> Outcome:
        return self._outcome(error=error)

    def _finish(self, line: str) -> Outcome:
        """Close the draft and ask what else there is."""
        self._draft, self._offered, self._part = None, (), ""
        return self._say(f"{line} {ELSE}", "kind", ("book", "move", "cancel", "no"))

    def _hours(self, day: str, calendar: Calendar, turn: int) -> Outcome:
        on = _date(day, calendar)
        if on is None:
            line = f"We are open Monday to Friday {clinic.HOURS}."
        elif _open(on):
            line = f"On {_weekday(on)} we are open {clinic.HOURS}."
        else:
            line = f"We are closed on {_weekday(on)}. We are open Monday to Friday {clinic.HOURS}."
        if not self._draft:
            return self._finish(line)
        question = self._line.rsplit(". ", 1)[-1]
        if self._draft.read_back is not None:
            question, self._draft.read_back = self._line, turn  # a yes is to all of it
        return replace(self._outcome(), say=f"{line} {question}")

    def _begin(self, kind: str) -> Draft:
        """Return the open draft of that kind, or a new one for the same caller."""
        if self._draft is None or self._draft.kind != kind:
            name = self._draft.name if self._draft else self._name
            self._draft = Draft(kind, name)
            self._offered, self._part = (), ""
        self._draft.read_back, self._offer = None, ""
        return self._draft

    def _take(self, kind: str, given: Mapping[str, str], calendar: Calendar, turn: int) -> Outcome:
        """Merge what was just said into the draft, and go on from there."""
        draft = self._begin(kind)
        if "name" in given:
            draft.name = _patient(given["name"])
            if not draft.name and given["name"]:
                return self._unknown_name(turn)
            self._unknown_names = 0
        if "day" in given:
            day = _date(given["day"], calendar)
            if day is None or not _open(day):
                draft.day = None
                days = _days(calendar)
                if day is None:
                    return self._say("Which day would you like?", "day", days)
                closed = f"We are closed on {_weekday(day)}."
                return self._say(f"{closed} Which other day would you like?", "day", days)
            if draft.day != day:
                draft.day, self._offered, self._part = day, (), ""
        if "time" in given:
            if given["time"] in ("first", "last"):
                self._take_offered(draft, given["time"], calendar)
            else:
                draft.time = _time(given["time"])
            if not draft.time and draft.day:
                return self._offer_times(draft, calendar)
        return self._go_on(draft, calendar, turn)

    def _take_offered(self, draft: Draft, which: str, calendar: Calendar) -> None:
        """Set the first or last of the times offered, or of all that are free."""
        days = [draft.day] if draft.day else [day for day in calendar.days() if calendar.free(day)]
        if days:
            draft.day = days[0]
            times = self._offered or calendar.free(draft.day) or ("",)
            draft.time = times[0] if which == "first" else times[-1]

    def _go_on(self, draft: Draft, calendar: Calendar, turn: int) -> Outcome:
        """Ask for what is missing, or read the whole draft back."""
        if draft.kind == "cancel":
            return self._read_back_cancel(draft, calendar, turn)
        if draft.day is None:
            if draft.time:
                at = f"At {clinic.clock(draft.time)}."
                return self._say(f"{at} Which day would you like?", "day", _days(calendar))
            if draft.kind == "move" and not draft.name:
                return self._say("What is your name, please?", "name")
            if draft.kind == "move" and draft.name not in calendar.upcoming:
                return self._no_appointment(draft, turn)
            # One thing at a time: a recogniser hears a lone day better than a day and a time.
            return self._say("Which day would you like?", "day", _days(calendar))
        if not draft.time:
            return self._offer_times(draft, calendar)
        if draft.time not in calendar.free(draft.day):
            return self._offer_nearest(draft, calendar)
        if not draft.name:
            slot = _slot(draft.day, draft.time)
            return self._say(f"{slot} is free. What is your name, please?", "name")
        current = calendar.upcoming.get(draft.name)
        if draft.kind == "move" and not current:
            return self._no_appointment(draft, turn)
        if draft.kind == "book" and current:
            has = f"{draft.name.title()} already has an appointment, {_spoken(current)}."
            line = f"{has} Shall I move it to {_slot(draft.day, draft.time)}?"
            return self._say(line, "yes_no", ("yes", "no"), "move", turn)
        draft.old, draft.read_back = current, turn
        name, slot = draft.name.title(), _slot(draft.day, draft.time)
        if current:
            line = f"{name}, from {_spoken(current)} to {slot}. Shall I move it?"
        else:
            line = f"{name}, {slot}. Shall I book that?"
        return self._say(line, "yes_no", ("yes", "no"))

    def _read_back_cancel(self, draft: Draft, calendar: Calendar, turn: int) -> Outcome:
        if not draft.name:
            return self._say("What is your name, please?", "name")
        current = calendar.upcoming.get(draft.name)
        if not current:
            return self._finish(f"I find no appointment for {draft.name.title()}.")
        draft.day, draft.time, draft.read_back = current.date(), f"{current:%H:%M}", turn
        line = f"{draft.name.title()}, {_spoken(current)}. Shall I cancel it?"
        return self._say(line, "yes_no", ("yes", "no"))

    def _no_appointment(self, draft: Draft, turn: int) -> Outcome:
        line = f"I find no appointment for {draft.name.title()}. Shall I book a new one?"
        return self._say(line, "yes_no", ("yes", "no"), "book", turn)

    def _unknown_name(self, turn: int) -> Outcome:
        self._unknown_names += 1
        if self._unknown_names == 1:
            line = "I can't find that name. Please say your first and last name."
            return self._say(line, "name")
        line = "I can't find that name among our patients. Shall I put you through to a person?"
        return self._say(line, "yes_no", ("yes", "no"), "person", turn)

    def _offer_times(self, draft: Draft, calendar: Calendar) -> Outcome:
        """Read out times of the draft's day that were not offered before."""
        assert draft.day is not None
        draft.time = ""
        day = _weekday(draft.day)
        free = [time for time in calendar.free(draft.day) if _in_part(time, self._part)]
        part = f" {self._part}" if self._part else ""
        if not free:
            self._part = ""
            line = f"{day}{part} is full. Which other day would you like?"
            return self._say(line, "day", _days(calendar))
        later = [time for time in free if not self._offered or time > self._offered[-1]]
        if not later:
            self._offered = ()
            line = f"I have nothing else on {day}{part}. Which other day would you like?"
            return self._say(line, "day", _days(calendar))
        # Whoever has said nothing of the time hears some spread over the day.
        step = 1 if self._offered or self._part else max(1, len(later) // OFFERED)
        self._offered = tuple(later[::step][:OFFERED])
        line = f"On {day}{part} I have {_list(self._offered)}. Which time would you like?"
        return self._say(line, "time", [clinic.clock(time) for time in self._offered])

    def _offer_nearest(self, draft: Draft, calendar: Calendar) -> Outcome:
        """Say that the draft's time cannot be had, and which ones nearby can."""
        assert draft.day is not None
        asked, draft.time = draft.time, ""
        free = calendar.free(draft.day)
        if not free:
            return self._offer_times(draft, calendar)
        nearest = sorted(free, key=lambda time: abs(_minutes(time) - _minutes(asked)))
        self._offered = tuple(sorted(nearest[:OFFERED]))
        if asked in clinic.SLOTS:
            why = f"{_slot(draft.day, asked)} is not free."
        elif "09:00" < asked < "17:00" and asked[:2] != "12":
            why = "Appointments begin on the hour and at half past."
        else:
            why = f"We are closed at {clinic.clock(asked)}."
        line = f"{why} On {_weekday(draft.day)} I have {_list(self._offered)}."
        times = [clinic.clock(time) for time in self._offered]
        return self._say(f"{line} Which time would you like?", "time", times)

    def _find(self, given: Mapping[str, str], calendar: Calendar, turn: int) -> Outcome:
        kind = self._draft.kind if self._draft and self._draft.kind != "cancel" else "book"
        draft = self._begin(kind)
        day = _date(given.get("day", ""), calendar)
        if day is not None and not _open(day):
            return self._take(kind, {"day": given["day"]}, calendar, turn)
        if day is not None and day != draft.day:
            draft.day, self._offered, self._part = day, (), ""
        if given.get("part", "") not in ("", self._part):
            self._part, self._offered = given["part"], ()
        if draft.day is None:
            parts = {
                day: [time for time in calendar.free(day) if _in_part(time, self._part)]
                for day in calendar.days()
            }
            draft.day = next((day for day, times in parts.items() if times), calendar.days()[0])
        return self._offer_times(draft, calendar)

    async def _confirm(self, answer: str, calendar: Calendar, turn: int) -> Outcome:
        if answer not in ("yes", "no"):
            return self._ask_again(f"confirm takes the answer yes or no, got {answer!r}")
        draft, offer = self._draft, self._offer
        if offer and turn > self._asked_in:
            self._offer = ""
            return self._answer_offer(offer, answer, calendar, turn)
        if answer == "no":
            if draft is None:
                return self._finish("All right.")
            if draft.kind == "cancel" or draft.read_back is None:
                return self._finish("All right, I changed nothing.")
            draft.read_back = None
            line = "What shall I change, the day, the time or the name?"
            return self._say(line, "day_time", ("the day", "the time", "the name"))
        if draft is None or draft.read_back is None or turn <= draft.read_back:
            return self._ask_again("nothing was read back that this turn could confirm")
        return await self._write(draft, turn)

    def _answer_offer(self, offer: str, answer: str, calendar: Calendar, turn: int) -> Outcome:
        """Act on the answer to what was offered, which is nothing that writes."""
        draft = self._draft
        if offer == "person":
            if answer == "yes":
                line = "I'll put you through to a person. One moment, please."
                return Outcome(output={"reason": "unknown name"}, say=line, end="transfer")
            return self._say("All right. Please say your first and last name.", "name")
        if answer == "no" or draft is None:
            return self._finish("All right, I changed nothing.")
        self._draft = Draft(offer, draft.name, draft.day, draft.time)
        return self._go_on(self._draft, calendar, turn)

    async def _write(self, draft: Draft, turn: int) -> Outcome:
        """Write exactly what was read back."""
        assert draft.day is not None
        start = start_of(draft.day, draft.time)
        try:
            match draft.kind:
                case "book":
                    await self._desk.book(draft.name, start)
                case "move":
                    assert draft.old is not None
                    await self._desk.move(draft.name, draft.old, start)
                case "cancel":
                    await self._desk.cancel(draft.name, start)
        except SlotTakenError:
            draft.read_back = None
            return self._go_on(draft, await self._desk.read(), turn)
        except AppointmentChangedError:
            return self._finish("That appointment has just been changed by somebody else.")
        self._name = draft.name
        slot = _slot(draft.day, draft.time)
        return self._finish(f"{DONE[draft.kind]}: {draft.name.title()}, {slot}.")


def _patient(name: str) -> str:
    """Return the one patient whose first and last name include every word, or ""."""
    words = set(name.split())
    found = [patient for patient in clinic.PATIENTS if words and words <= set(patient.split())]
    return found[0] if len(found) == 1 else ""


def _date(day: str, calendar: Calendar) -> date | None:
    """Return the day meant by "tuesday", "today", "tomorrow" or an ISO date, None for any other."""
    days = calendar.days()
    named = {clinic.DAYS[day.weekday()]: day for day in days}
    named |= {day.isoformat(): day for day in days} | {"today": days[0], "tomorrow": days[1]}
    return named.get(day)


def _time(time: str) -> str:
    """Return "10:30" as it is, "2" and "2:00" as "14:00": we are closed at night. Else ""."""
    match = re.fullmatch(r"(\d{1,2})(?::([0-5]\d))?", time)
    if not match or int(match[1]) > 23:
        return ""
    hour = int(match[1])
    if hour < 7 and not match[1].startswith("0"):
        hour += 12
    return f"{hour:02}:{match[2] or '00'}"


def _open(day: date) -> bool:
    return clinic.DAYS[day.weekday()] in clinic.OPEN_DAYS


def _minutes(time: str) -> int:
    hour, minute = time.split(":")
    return int(hour) * 60 + int(minute)


def _in_part(time: str, part: str) -> bool:
    return not part or (time < "12:00") == (part == "morning")


def _days(calendar: Calendar) -> list[str]:
    """Return the days with free times, as spoken."""
    return [_weekday(day) for day in calendar.days() if calendar.free(day)]


def _weekday(day: date) -> str:
    return clinic.DAYS[day.weekday()].title()


def _slot(day: date, time: str) -> str:
    return f"{_weekday(day)} at {clinic.clock(time)}"


def _spoken(start: datetime) -> str:
    return _slot(start.date(), f"{start:%H:%M}")


def _list(times: Sequence[str]) -> str:
    spoken = [clinic.clock(time) for time in times]
    return " and ".join([", ".join(spoken[:-1]), spoken[-1]] if len(spoken) > 1 else spoken)

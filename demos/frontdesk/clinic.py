"""What is fixed about the clinic: its patients, its hours and the grid of its appointments.

The patients are a closed list of names that a small recogniser can tell apart:
no two share a first or a last name, so that either alone finds a person.
"""

from collections.abc import Mapping

NAME = "Lakeside Clinic"

PATIENTS = (
    "anna miller",
    "robert baker",
    "susan clark",
    "george hamilton",
    "emily watson",
    "peter jackson",
    "maria gonzalez",
    "thomas schmidt",
    "laura bennett",
    "victor novak",
    "karen fisher",
    "david kowalski",
    "julia romano",
    "henry walsh",
    "sophie dubois",
    "oliver grant",
    "hannah becker",
    "frank moretti",
    "olivia jensen",
    "samuel ortiz",
    "claire donovan",
    "edward pritchard",
    "rachel green",
    "martin vogel",
    "isabel santos",
    "philip crawford",
    "nina castillo",
    "walter hughes",
    "teresa lombardi",
    "jacob lindberg",
    "monica chapman",
    "leonard fitzgerald",
    "patrick murphy",
    "amelia foster",
    "simon yamamoto",
    "gloria whitfield",
    "charlotte osborne",
    "nathan quinn",
    "helen zimmerman",
    "oscar delgado",
    "irene mckenzie",
    "vanessa patel",
    "raymond sullivan",
    "alice thornton",
    "douglas rivera",
    "felix kaufman",
    "trevor espinoza",
    "lucy blackwell",
)
"""Everybody who can have an appointment, first and last name, lower case."""

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""In the order of `datetime.date.weekday`."""

OPEN_DAYS = DAYS[:5]

SLOTS = (
    *("09:00", "09:30", "10:00", "10:30", "11:00", "11:30"),
    *("13:00", "13:30", "14:00", "14:30", "15:00", "15:30", "16:00", "16:30"),
)
"""When appointments begin, 24 h; each takes half an hour. Noon to one is lunch."""

HORIZON = 7
"""How many days ahead appointments are made, today included."""

HOURS = "from nine to five, closed for lunch from noon to one"

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS: Mapping[int, str] = {2: "twenty", 3: "thirty", 4: "forty", 5: "fifty"}


def number(value: int) -> str:
    """Return 0 to 59 in words."""
    if value < 20:
        return _SMALL[value]
    tens, ones = divmod(value, 10)
    return _TENS[tens] + (f" {_SMALL[ones]}" if ones else "")


def clock(time: str) -> str:
    """Return a time of day ("14:30") as it is spoken ("two thirty")."""
    hour, minute = (int(part) for part in time.split(":"))
    spoken = number((hour - 1) % 12 + 1)
    if not minute:
        return "noon" if hour == 12 else spoken
    return f"{spoken} {'oh ' if minute < 10 else ''}{number(minute)}"

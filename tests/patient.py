"""A caller of the front desk who knows what they want and answers what they are asked."""

import re
from collections import Counter
from dataclasses import dataclass, field

from demos.frontdesk import clinic

MISSED = (
    "I did not get that",
    "keep missing you",
    "Could you say that again",
    "can't find that name",
)
"""What the desk says when it did not understand."""


@dataclass
class Patient:
    """What a caller wants.

    Attributes:
        kind: "book", "move" or "cancel".
        name: Theirs, lower case.
        day: Weekday wanted.
        time: Time wanted, 24 h ("10:30").
        opening: How they begin.
    """

    kind: str
    name: str
    day: str
    time: str
    opening: str
    done: bool = False
    missed: int = 0
    wrong_read_backs: int = 0
    last: str = ""
    asked: Counter[str] = field(default_factory=Counter)

    def answer(self, line: str) -> str:
        """Return what to say to the agent's `line`, "" once all is done."""
        self.missed += any(miss in line for miss in MISSED)
        self.last = self._answer(line)
        return self.last

    def _vary(self, *ways: str) -> str:
        """Return the next of several ways to say a thing: whoever is missed rephrases."""
        self.asked[ways[0]] += 1
        return ways[(self.asked[ways[0]] - 1) % len(ways)]

    def _answer(self, line: str) -> str:
        clock = clinic.clock(self.time)
        slot = f"{self.day.title()} at {clock}"
        when = f"{self.day} at {clock}"
        if re.search(r"It is (booked|moved|cancelled)", line):
            self.done = True
            return ""
        if "yes or a no" in line:
            return self.last
        if found := re.search(r"Shall I (book that|move it|cancel it)\?", line):
            wanted = {"book": "book that", "move": "move it", "cancel": "cancel it"}[self.kind]
            right = found[1] == wanted and self.name.title() in line and slot in line
            self.wrong_read_backs += not right
            return "yes" if right else "no"
        if "person?" in line or "Shall I book a new one" in line:
            return "no"
        if "your name" in line or "last name" in line:
            return self.name
        if "What shall I change" in line:
            return when
        if "day and time" in line:
            return when
        if re.search(r"[Ww]hich (other )?day", line):
            return self._vary(self.day, f"on {self.day} please", when)
        if "Which time" in line:
            return self._vary(clock, f"at {clock} please", when)
        return self.opening

"""Values of a metric's label: from a set that cannot grow without bound. Pure.

Every new value of a label is a new time series for as long as the server runs, here and in
Prometheus. What a peer can choose, and what somebody may one day configure in a hundred variants,
is therefore looked at here before it becomes one.
"""

import re

OTHER = "other"
"""What every value counts as that is not let in."""

LONGEST = 120
"""Characters of a value that is learned."""

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+,| -]+")


class Label:
    """The values that one label may have.

    Attributes:
        values: Those it has had, or is sure to.
    """

    def __init__(self, *known: str, room: int = 0) -> None:
        """Let in `known`, and of all others the first `room` that look like names."""
        self.values = set(known)
        self._most = len(self.values) + room

    def __call__(self, value: object) -> str:
        """Return the value to use for `value`, whatever that is."""
        if not isinstance(value, str):
            return OTHER
        if value in self.values:
            return value
        if len(self.values) >= self._most or not _PLAIN.fullmatch(value[: LONGEST + 1]):
            return OTHER
        if len(value) > LONGEST or value == OTHER:
            return OTHER
        self.values.add(value)
        return value

"""Whether this machine keeps up: how late its event loop was lately. Pure."""

HALF_LIFE = 1.0
"""Seconds in which a delay counts half."""

LATE = 0.06
"""Seconds of delay from which the machine is over its budget: the lead that callers have."""

EVERY = 0.05
"""Seconds between two looks."""


class Load:
    """The latest delays of a loop, the longest first, fading."""

    def __init__(self) -> None:
        self.late = 0.0
        """Seconds by which the loop is late."""
        self._at = 0.0

    def note(self, late: float, now: float) -> None:
        """Note that at `now` something was done `late` seconds after it was due."""
        faded = self.late * 0.5 ** ((now - self._at) / HALF_LIFE)
        self.late, self._at = max(late, faded, 0.0), now

    @property
    def over(self) -> bool:
        """Whether there is no time for work that may be in vain."""
        return self.late > LATE

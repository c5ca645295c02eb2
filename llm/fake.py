"""A mind for tests that always answers the same."""

from llm.script import Script


class Fake(Script):
    """Answer `reply` to everything, token by token.

    `first` passes before the first token, `interval` before each other, in seconds, longer by the
    share `crowding` for each other answer that is being written.
    """

    name = "fake"

    def __init__(
        self,
        reply: str = "All right.",
        first: float = 0.0,
        interval: float = 0.0,
        crowding: float = 0.0,
    ) -> None:
        super().__init__([], reply, first, interval, crowding)
        self.about = "Always answers the same; for tests."

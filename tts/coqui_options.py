"""Settings of Coqui's voices."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CoquiOptions:
    """How Coqui's models speak.

    Attributes:
        batch: Most calls that one step serves.
        trim: Whether the silence before a phrase's first sound is cut.
        first: Audio in the first chunk of a phrase, in seconds.
    """

    batch: int = 16
    trim: bool = True
    first: float = 0.25

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 256:
            raise ValueError(f"coqui.batch is {self.batch}; expected 1 to 256")

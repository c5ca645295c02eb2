"""What can be set of Whisper."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperOptions:
    """How Whisper listens.

    Attributes:
        beam: Hypotheses kept in the search; 1 takes the likeliest token each time.
        align: Whether every answer measures the times of its words.
        vocabulary: Names and words that callers will say, as text.
    """

    beam: int = 1
    align: bool = False
    vocabulary: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= 10:
            raise ValueError(f"whisper.beam is {self.beam}; expected 1 to 10")

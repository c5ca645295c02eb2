"""Settings of Coqui's voices."""

import re
from dataclasses import dataclass, replace

ADJUSTABLE = ("coqui.first", "coqui.longest", "coqui.batch")
"""What may change while calls go on, each from the next phrase on."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class CoquiOptions:
    """How `tts.coqui.Coqui` loads a model and speaks with it.

    Attributes:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".
        half: Run the decoder (and XTTS's transformer) in half precision; a GPU only.
        threads: CPU threads of one step, 0 for as many as torch likes, to 64.
        language: Of the text, for a model that speaks several: "en", "de", ...
        batch: Most calls that one step serves, 1 to 256. On a CPU, where a step shared by two
            takes twice as long, only XTTS's transformer shares steps.
        first: Audio in the first chunk of a phrase, in seconds, 0.05 to 2. Shorter
            is heard sooner; too short and the second chunk comes too late.
        longest: Audio in the longest chunk, in seconds, `first` to 10. A step cannot be
            interrupted: it bounds what a more urgent call waits, and what barge-in wastes.
        normalise: Bring every voice to the same loudness.
        loudness: Which, in dBFS (RMS of the parts where it speaks), -40 to -6.
        trim: Cut the silence before a phrase's first sound.
        characters: Longest text given to the model at once, 40 to 1000; a longer phrase
            is cut between sentences or words. XTTS's own limits hold as well.
        seed: Noise of every phrase; the same seed gives the same audio. 0 lets every
            phrase sound a little different, as the models are meant to.
    """

    device: str = "auto"
    half: bool = True
    threads: int = 0
    language: str = "en"
    batch: int = 16
    first: float = 0.3
    longest: float = 1.0
    normalise: bool = True
    loudness: float = -20.0
    trim: bool = True
    characters: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `ValueError` with the name, the value and what was expected."""
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(
                f"coqui.device is {self.device!r}; expected auto, cpu, cuda or cuda:NUMBER"
            )
        if not re.fullmatch(r"[a-z]{2,3}(-[a-z]{2,4})?", self.language):
            raise ValueError(f'coqui.language is {self.language!r}; expected a code such as "en"')
        self._expect("threads", 0, 64)
        self._expect("batch", 1, 256)
        self._expect("first", 0.05, 2)
        self._expect("longest", self.first, 10)
        self._expect("loudness", -40, -6)
        self._expect("characters", 40, 1000)
        self._expect("seed", 0, 2**31 - 1)

    def adjusted(self, name: str, value: float) -> "CoquiOptions":
        """Return these with one of `ADJUSTABLE` changed.

        Raises:
            ValueError: If that cannot be changed, or not to this.
        """
        match name:
            case "coqui.first":
                return replace(self, first=float(value))
            case "coqui.longest":
                return replace(self, longest=float(value))
            case "coqui.batch":
                if not float(value).is_integer():
                    raise ValueError(f"coqui.batch is {value}; expected a whole number")
                return replace(self, batch=int(value))
        raise ValueError(
            f"{name} cannot change while calls go on; of Coqui, {', '.join(ADJUSTABLE)} can"
        )

    def _expect(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if not least <= value <= most:
            raise ValueError(f"coqui.{name} is {value}; expected {least:g} to {most:g}")

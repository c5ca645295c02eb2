"""What can be set of Whisper, with what each setting costs or saves."""

from dataclasses import dataclass, replace

BACKENDS = ("auto", "ctranslate2", "torch")
DEVICES = ("auto", "cpu", "cuda")
WINDOWS = ("full", "short")

ADJUSTABLE = ("whisper.interval", "whisper.beam", "whisper.window", "whisper.batch")
"""What may change while calls go on, each from the next utterance on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperOptions:
    """How Whisper listens.

    Attributes:
        backend: What runs the model: "ctranslate2", "torch", or "auto" for what its files and
            this machine allow.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.
        compute: Type of the numbers, for example "int8", "float16", "float32"; "auto" is int8
            on a CPU and float16 on a GPU.
        threads: CPU threads of one decoding; 0 leaves it to the library (at most 4).
        window: "short" gives the model as much sound as there is; "full" always pads to the
            30 s it was trained on, which costs 10 to 50 times as much to encode.
        padding: Silence after a short window, in seconds.
        interval: New sound, in seconds, after which partial words are looked for; 0 for never.
        cut: Seconds of sound from which the window is cut behind words that are committed.
        align: Whether every answer measures the times of its words. If not, they are spread
            over the sound by length, and measured only where the window is cut.
        language: Code of the language of all callers, for example "de"; "auto" finds it out
            in each call; "" leaves it to what each call says.
        vocabulary: Names and words that callers will say, as text; the model reads it first.
        beam: Hypotheses kept in the search; 1 takes the likeliest token each time. The torch
            backend knows no other.
        batch: Utterances decoded together, at most.
        longest_partial: Seconds that a batch of partial words may take, so that no final
            waits for longer; the most urgent one is decoded however long it takes.
        tokens_per_second: Tokens written for each second of sound, at most. Speech has 3 to 8;
            a model that has lost its way would go on to its limit.
        max_tokens: Tokens of one answer, at most.
        quiet_db: Level below which sound is silence, in dB of full scale.
        no_speech: Probability of no speech above which unlikely words are not believed.
        unlikely: Mean ln of a token's probability below which words are unlikely.
        repetitive: Compression ratio above which words are not believed.
        words_per_second: Words in each second of sound, at most; more were invented.
        failures: Decodings that fail in a row until the engine gives up.
    """

    backend: str = "auto"
    device: str = "auto"
    compute: str = "auto"
    threads: int = 0
    window: str = "short"
    padding: float = 0.5
    interval: float = 0.5
    cut: float = 8.0
    align: bool = False
    language: str = ""
    vocabulary: str = ""
    beam: int = 1
    batch: int = 16
    longest_partial: float = 0.15
    tokens_per_second: float = 12.0
    max_tokens: int = 200
    quiet_db: float = -60.0
    no_speech: float = 0.6
    unlikely: float = -1.0
    repetitive: float = 2.4
    words_per_second: float = 8.0
    failures: int = 5

    def __post_init__(self) -> None:
        _one_of("backend", self.backend, BACKENDS)
        _one_of("device", self.device, DEVICES)
        _one_of("window", self.window, WINDOWS)
        _within("threads", self.threads, 0, 256)
        _within("padding", self.padding, 0.0, 4.0, "s")  # with more, less than `LONGEST` is seen
        if self.interval != 0:
            _within("interval", self.interval, 0.1, 5.0, "s")
        _within("cut", self.cut, 2.0, 25.0, "s")
        _within("beam", self.beam, 1, 10)
        _within("batch", self.batch, 1, 256)
        _within("longest_partial", self.longest_partial, 0.0, 10.0, "s")
        _within("tokens_per_second", self.tokens_per_second, 1.0, 50.0)
        _within("max_tokens", self.max_tokens, 1, 200)
        _within("quiet_db", self.quiet_db, -120.0, -20.0, "dB")
        _within("no_speech", self.no_speech, 0.0, 1.0)
        _within("unlikely", self.unlikely, -10.0, 0.0)
        _within("repetitive", self.repetitive, 1.0, 100.0)
        _within("words_per_second", self.words_per_second, 1.0, 50.0)
        _within("failures", self.failures, 1, 1000)
        if self.backend == "torch" and self.beam != 1:
            raise ValueError(
                f"whisper.beam is {self.beam}; expected 1 where whisper.backend is torch, "
                "which takes the likeliest token each time"
            )

    def adjusted(self, name: str, value: float) -> "WhisperOptions":
        """Return these with one of `ADJUSTABLE` changed; a window is its place in `WINDOWS`.

        Raises:
            ValueError: If that cannot be changed, or not to this.
        """
        match name:
            case "whisper.interval":
                return replace(self, interval=float(value))
            case "whisper.beam":
                return replace(self, beam=_whole("beam", value))
            case "whisper.batch":
                return replace(self, batch=_whole("batch", value))
            case "whisper.window":
                if value not in range(len(WINDOWS)):
                    raise ValueError(f"whisper.window is {value}; expected 0 (full) or 1 (short)")
                return replace(self, window=WINDOWS[int(value)])
        raise ValueError(
            f"{name} cannot change while calls go on; of Whisper, {', '.join(ADJUSTABLE)} can"
        )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"whisper.{name} is {value!r}; expected one of {', '.join(known)}")


def _within(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not low <= value <= high:
        given, span = f"{value} {unit}".strip(), f"{low} to {high} {unit}".strip()
        raise ValueError(f"whisper.{name} is {given}; expected {span}")


def _whole(name: str, value: float) -> int:
    if not float(value).is_integer():
        raise ValueError(f"whisper.{name} is {value}; expected a whole number")
    return int(value)

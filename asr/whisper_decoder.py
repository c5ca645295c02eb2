"""A batch of windows in, their words out, whatever runs the model.

Every window of a batch is padded with silence to the longest, encoded once, and
written out in one go; the words that are known already are given as the
beginning. With `window` = "short" the picture is as long as the sound: the
encoder's cost grows with it, and Whisper's usual 30 s are nearly all padding in
a conversation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr.agreement import Heard
from asr.engine import RATE, EngineError, Pcm
from asr.mel import log_mel, mel_filters
from asr.whisper_options import WhisperOptions
from asr.whisper_tokens import Tokens

FULL = 30.0
"""Seconds that Whisper was trained on, and the most that it can see."""

STEP = 0.02
"""Seconds of one position of the encoder."""

SPARE_TOKENS = 8
"""Tokens over the bound on their rate that may be written."""


@dataclass(slots=True)
class Window:
    """Sound to be written out.

    Attributes:
        pcm: Samples at 16 kHz, up to 30 s.
        given: Tokens of the words it begins with.
        language: Code of its language, "" to find it out.
        align: Whether the times of its words are to be measured.
    """

    pcm: Pcm
    given: Sequence[int] = ()
    language: str = "en"
    align: bool = False


@dataclass(slots=True)
class Written:
    """What a model wrote for one window.

    Attributes:
        tokens: Those after what it was given, without the end.
        logprob: Mean ln of their probabilities.
        no_speech: Probability that nobody speaks.
    """

    tokens: list[int]
    logprob: float
    no_speech: float


@dataclass(slots=True)
class Aligned:
    """When each token of a transcript was said.

    Attributes:
        starts: Where each begins, in seconds of the window, and where the last one ends.
        probabilities: How likely each was, 0 to 1.
    """

    starts: list[float]
    probabilities: list[float]


class Model(Protocol):
    """Runs a Whisper network. `encoded` is its own affair; one thread at a time uses it.

    Attributes:
        about: What it is and where it runs, for example "int8 on cpu by CTranslate2".
        bands: Bands of the mel picture.
        together: Whether a batch takes about as long as its longest window.
        grain: Windows are made multiples of this long, in seconds.
        sizes: Windows in a batch, and seconds, of all that costs something the first time.
        fixed: Names of those settings which it cannot change once it is loaded.
        tokens: Its tokenizer.
    """

    about: str
    bands: int
    together: bool
    grain: float
    sizes: list[tuple[int, float]]
    fixed: tuple[str, ...]
    tokens: Tokens

    def encode(self, mel: NDArray[np.float32]) -> Any:
        """Return the encoder's output for pictures of shape (batch, bands, columns)."""

    def detect(self, encoded: Any) -> list[tuple[str, float]]:
        """Return for each window the code of its likeliest language, and how likely it is."""

    def generate(
        self,
        encoded: Any,
        prompt: Sequence[Sequence[int]],
        given: Sequence[Sequence[int]],
        limit: int,
        beam: int,
    ) -> list[Written]:
        """Write all windows out.

        Args:
            encoded: What `encode` returned.
            prompt: For each window, what its transcript begins with; all of one length.
            given: For each window, the tokens after that; of any length.
            limit: Tokens to write for each, at most.
            beam: Hypotheses kept in the search.
        """

    def align(
        self, encoded: Any, index: int, start: Sequence[int], text: Sequence[int], seconds: float
    ) -> Aligned:
        """Return when the tokens of window `index`, of `seconds`, were said."""


class Decoder:
    """Hears batches of windows with one model.

    Attributes:
        options: How; may be replaced between two batches.
    """

    def __init__(self, model: Model, options: WhisperOptions) -> None:
        """Take a model that is loaded.

        Raises:
            EngineError: If it does not know `options.language`.
        """
        self.model = model
        self.options = options
        self._filters = mel_filters(model.bands)
        self._vocabulary = model.tokens.vocabulary(options.vocabulary)
        if options.language not in ("", "auto") and not self.known_language(options.language):
            raise EngineError(
                f"whisper.language is {options.language!r}; the model knows "
                f"{', '.join(model.tokens.languages)}, and auto finds it out"
            )

    def known_language(self, code: str) -> str:
        """Return the code of the language to write for a BCP 47 tag; "" to find it out."""
        languages = self.model.tokens.languages
        if not languages:
            return "en"
        code = code.split("-")[0].lower()
        return code if code in languages else ""

    def decode(self, windows: Sequence[Window]) -> list[Heard]:
        """Return the words of every window, after those it was given."""
        tokens, model = self.model.tokens, self.model
        samples = round(self.seconds(windows) * RATE)
        pictures = [log_mel(_fit(window.pcm, samples), self._filters) for window in windows]
        encoded = model.encode(np.stack(pictures))
        languages = self._languages(encoded, windows)
        starts = [tokens.beginning(language) for language, _ in languages]
        written = model.generate(
            encoded,
            [[*self._vocabulary, *start, tokens.no_timestamps] for start in starts],
            [window.given for window in windows],
            self._limit(windows),
            self.options.beam,
        )
        heard = []
        for index, (window, one, (language, likely)) in enumerate(
            zip(windows, written, languages, strict=True)
        ):
            pieces = tokens.words(one.tokens, language)
            found = Heard(pieces, [], False, one.logprob, one.no_speech, language, likely)
            for piece in pieces:
                piece.confidence = min(1.0, math.exp(one.logprob))
            if window.align:
                text = [*window.given, *(token for piece in pieces for token in piece.tokens)]
                if text:
                    seconds = len(window.pcm) / RATE
                    aligned = model.align(encoded, index, starts[index], text, seconds)
                    self._time(found, window, aligned, language)
            heard.append(found)
        return heard

    def seconds(self, windows: Sequence[Window]) -> float:
        """Return how long all windows of a batch are made, in seconds."""
        if self.options.window == "full":
            return FULL
        wanted = max(len(window.pcm) for window in windows) / RATE + self.options.padding
        grain = self.model.grain
        return min(FULL, math.ceil(wanted / grain - 1e-6) * grain)

    def _limit(self, windows: Sequence[Window]) -> int:
        """Return how many tokens may be written for each window."""
        bounds = [
            round(len(window.pcm) / RATE * self.options.tokens_per_second) - len(window.given)
            for window in windows
        ]
        return min(self.options.max_tokens, max(SPARE_TOKENS, SPARE_TOKENS + max(bounds)))

    def _languages(self, encoded: Any, windows: Sequence[Window]) -> list[tuple[str, float]]:
        """Return the language of each window, and how likely it is."""
        if self.model.tokens.languages and not all(window.language for window in windows):
            found = self.model.detect(encoded)
        else:
            found = [("en", 1.0)] * len(windows)
        return [
            (window.language, 1.0) if window.language else one
            for window, one in zip(windows, found, strict=True)
        ]

    def _time(self, heard: Heard, window: Window, aligned: Aligned, language: str) -> None:
        """Put measured times and probabilities into what was heard."""
        given = self.model.tokens.words(window.given, language)
        at = 0
        for piece in (*given, *heard.pieces):
            until = at + len(piece.tokens)
            piece.start, piece.end = aligned.starts[at], aligned.starts[until]
            piece.confidence = float(np.mean(aligned.probabilities[at:until]))
            at = until
        heard.given = [(piece.start, piece.end) for piece in given]
        heard.timed = True


def _fit(pcm: Pcm, samples: int) -> Pcm:
    """Return `pcm` with silence behind it, or its last `samples`."""
    if len(pcm) >= samples:
        return pcm[len(pcm) - samples :]
    return np.pad(pcm, (0, samples - len(pcm)))

"""One pocketsphinx decoder: samples of one utterance at a time in, words with confidence out.

What makes it usable for strangers on a telephone, all measured on recorded and
synthetic speech (docs/hearing.md):

- It is told what can be said: a language model for each topic.
- The spectrum of this voice and line is measured on the beginning of the
  utterance before anything is decoded (cepstral mean normalisation otherwise
  starts from somebody else's).
- Speech is brought to one level and a little steady noise is added, because
  the acoustic model knows neither digital silence nor the empty upper half of
  telephone speech.
"""

import contextlib
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pocketsphinx
from numpy.typing import NDArray

from asr.belief import Segment, belief
from asr.engine import RATE, Hypothesis, Word
from asr.topics import Topic, spoken_words, topics

OPENING = int(0.8 * RATE)
"""Samples of an utterance that are looked at before the first of them is decoded."""

SHORTEST = RATE // 10
"""Samples under which an utterance holds no word."""

LEVEL = 0.1
"""RMS of the loud parts of speech that the decoder gets, of full scale 1."""

LOUDER = 8.0
"""Most that quiet speech is amplified."""

NOISE = 0.003
"""RMS of the noise added to it: 30 dB below the speech."""

GAUSSIANS = 8
"""Gaussians of each codebook that are looked at in a frame; 4, the default, costs a fifth
less work and hears fewer sentences right (held-out wordings: 15 instead of 32 %)."""

FRAME = 0.01
"""Seconds from one frame of the decoder to the next."""

CMN_FRAMES = 500
"""Frames that the mean before weighs in pocketsphinx's running mean (its CMN_WIN)."""

USUAL = np.array([58.0, -1, -1, 9, -6, -3, -4, -6, 0, -1, -1, 0, -1])
"""Cepstral mean of prepared speech, averaged over voices and lines."""

USUAL_FRAMES = 100
"""Frames that `USUAL` weighs against those of a call's first opening."""

KNOWN_FRAMES = 400
"""Frames that what is known of a call's voice and line weighs at most."""

Samples = NDArray[np.int16]


class Models:
    """What all decoders of a process share: dictionary and language models.

    Attributes:
        warnings: What the operator should know, a sentence each.
        topics: What was learned of each topic; empty without a directory of topics.

    Raises:
        ValueError: If no word of the open topic can be pronounced.
    """

    def __init__(self, speech: Path | None) -> None:
        self.warnings: list[str] = []
        self.topics: dict[str, Topic] = {}
        self._shared: dict[str, pocketsphinx.NGramModel] = {}
        self._files: dict[str, Path] = {}
        english = Path(pocketsphinx.get_model_path("en-us"))
        self._acoustic = english / "en-us"
        if speech is None:
            self._dictionary = english / "cmudict-en-us.dict"
            self._files["open"] = english / "en-us.lm.bin"
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="sidetone-")
            folder = Path(self._folder.name)
            known, unknown = spoken_words(speech, english / "cmudict-en-us.dict", folder / "dict")
            if unknown:
                self.warnings.append(
                    f"words of {speech} that the recogniser cannot pronounce, and so never "
                    f"hears: {', '.join(sorted(unknown))}"
                )
            self._dictionary = folder / "dict"
            self.topics = topics(speech, known)
            if "open" not in self.topics:
                raise ValueError(f"{speech}/open.txt has no word that can be pronounced")
            for name, topic in self.topics.items():
                self._files[name] = folder / f"{name}.arpa"
                self._files[name].write_text(topic.model.arpa())

    def decoder(self) -> pocketsphinx.Decoder:
        """Return a new decoder with a search for every topic."""
        decoder = pocketsphinx.Decoder(
            hmm=str(self._acoustic),
            dict=str(self._dictionary),
            lm=None,
            loglevel="FATAL",
            cmn="live",
            topn=GAUSSIANS,
            fwdflat=False,
            bestpath=True,
        )
        for topic, file in self._files.items():
            if topic not in self._shared:
                self._shared[topic] = pocketsphinx.NGramModel(
                    decoder.config, decoder.logmath, str(file)
                )
            decoder.add_lm(topic, self._shared[topic])
        with self._dictionary.open() as lines:
            word = next(lines).split()[0]
        decoder.add_jsgf_string(_MEASURE, f"#JSGF V1.0; grammar m; public <m> = {word};")
        return decoder


_MEASURE = "measure"
"""The search that is only there to let the front end look at audio."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is known of the voice and the line of a call.

    Attributes:
        mean: Mean of its cepstra, shape (13,).
        frames: Frames this is known from.
    """

    mean: NDArray[np.float64]
    frames: float

    def learn(self, mean: NDArray[np.float64], frames: float) -> "Line":
        """Return what is known after `frames` more with another mean."""
        if not frames:
            return self
        total = self.frames + frames
        known = (self.mean * self.frames + mean * frames) / total
        return Line(known, min(total, KNOWN_FRAMES))


class Decoder:
    """A decoder lent to one utterance after the other.

    Attributes:
        heard: Samples of this utterance that were given to it.
        line: What is known of this call's voice and line.
    """

    def __init__(self, models: Models) -> None:
        self._topics = models.topics
        self._decoder = models.decoder()
        self._noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
        self._noise *= NOISE * 32768
        self.heard = 0
        self.line = Line(USUAL, USUAL_FRAMES)
        self._topic = "open"
        self._from = USUAL
        self._begun = False
        self._opening: list[Samples] = []
        self._gain = 1.0
        self._fed = 0

    def begin(self, topic: str, line: Line | None = None) -> None:
        """Start an utterance; `line` is what this call's last one left in `line`."""
        self._topic = topic if topic in self._topics else "open"
        self.line = line or Line(USUAL, USUAL_FRAMES)
        self.heard = self._fed = 0
        self._opening = []

    def hear(self, samples: Samples) -> None:
        """Take its next samples, 16 bit at 16 kHz."""
        self.heard += len(samples)
        if self._begun:
            self._feed(samples)
            return
        self._opening.append(samples)
        if self.heard >= OPENING:
            self._open()

    def text(self) -> str:
        """Return the words so far; they may change."""
        if not self._begun:
            return ""
        best = self._decoder.hyp()
        return best.hypstr if best else ""

    def end(self) -> Hypothesis:
        """Return what was said."""
        if self.heard < SHORTEST:
            return Hypothesis(confidence=0.0, end=self.heard)
        if not self._begun:
            self._open()
        self.line = self.line.learn(*self._measured(self._from))
        self._decoder.end_utt()
        self._begun = False
        segments = [_segment(segment) for segment in self._decoder.seg() or ()]
        words = tuple(
            Word(
                segment.word,
                round(segment.start * FRAME, 2),
                round(segment.end * FRAME, 2),
                math.exp(segment.posterior),
            )
            for segment in segments
            if segment.is_word
        )
        confidence = belief(segments, self._topics.get(self._topic))
        return Hypothesis(words, "", confidence, self.heard)

    def abandon(self) -> None:
        """Forget the utterance, if one is going on."""
        if self._begun:
            with contextlib.suppress(RuntimeError):  # it failed between two utterances
                self._decoder.end_utt()
        self._begun = False

    def warm_up(self) -> None:
        """Hear a second of noise, so that the first caller does not pay for first-time work."""
        self.begin("open")
        self.hear((self._noise * 10).astype(np.int16))
        self.end()

    def _open(self) -> None:
        """Measure the beginning of the utterance, then decode it."""
        opening = np.concatenate([*self._opening, np.zeros(0, np.int16)])
        self._opening = []
        self._gain = _gain(opening)
        self._decoder.activate_search(_MEASURE)
        self._decoder.set_cmn("0")
        self._decoder.start_utt()
        self._begun = True
        self._decoder.process_raw(self._prepare(opening, 0))
        self._from = self.line.learn(*self._measured(np.zeros(13))).mean
        self._decoder.end_utt()
        self._decoder.set_cmn(",".join(f"{value:.3f}" for value in self._from))
        self._decoder.activate_search(self._topic)
        self._decoder.start_utt()
        self._feed(opening)

    def _measured(self, start: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        """Return the cepstral mean of this utterance so far, and its frames.

        pocketsphinx only tells the mean it began with (`start`), moved; as the
        former weighs `CMN_FRAMES`, that can be undone.
        """
        frames = self._decoder.n_frames()
        moved = np.array([float(value) for value in self._decoder.get_cmn(True).split(",")])
        return start + (moved - start) * (CMN_FRAMES + frames) / max(frames, 1), frames

    def _feed(self, samples: Samples) -> None:
        self._decoder.process_raw(self._prepare(samples, self._fed))
        self._fed += len(samples)

    def _prepare(self, samples: Samples, position: int) -> bytes:
        """Return samples at the level the model likes, in a little noise."""
        noise = np.take(self._noise, range(position, position + len(samples)), mode="wrap")
        louder = samples * self._gain + noise
        return bytes(np.clip(louder, -32768, 32767).astype("<i2").data)


def _segment(segment: pocketsphinx.Segment) -> Segment:
    """Translate one segment of the best path; pocketsphinx rounds what is tiny to zero."""
    return Segment(
        segment.word.split("(")[0],
        segment.start_frame,
        segment.end_frame + 1,
        math.log(min(max(segment.prob, 1e-300), 1.0)),
        math.log(max(segment.ascore, 1e-300)),
    )


def _gain(samples: Samples) -> float:
    """Return the factor that brings the loud parts of speech to `LEVEL`."""
    blocks = samples[: len(samples) // 320 * 320].reshape(-1, 320).astype(np.float32)
    if not len(blocks):
        return 1.0
    loud = float(np.percentile(np.sqrt(np.mean(blocks**2, axis=1)), 90)) / 32768
    if loud < LEVEL / LOUDER / 4:
        return 1.0  # nobody has spoken yet
    return min(LEVEL / loud, LOUDER)

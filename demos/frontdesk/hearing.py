"""What the real recogniser makes of the callers' sentences, spoken by synthetic voices.

    python -m demos.frontdesk.hearing --count 6000

writes `transcripts.jsonl.gz`, from which the model learns what it will really be told. The voices
are espeak's, in rooms and on telephones: no recording of a person is used.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.engine import RATE, Engine, Hypothesis, Listening, Pcm
from tts import speak_lib

from . import examples, language
from .heard import TRANSCRIPTS, Heard, write

VOICES = (
    *("en-us", "en-us+f1", "en-us+f2", "en-us+f4", "en-us+f5", "en-us+m1", "en-us+m2", "en-us+m4"),
    *("en-us+m5", "en-us+m6", "en-us+m7", "en-us+Annie", "en-us+Michael", "en-us+steph"),
    *("en-us-nyc", "en-us+linda", "en-us+belinda", "en-us+adam", "en-us+ian"),
)
"""For training; none of `language.TEST_VOICES`."""

SENTENCES = 5
"""How many a caller says before the next one calls."""

_PITCH = 3  # espeakPITCH


def say(text: str, voice: str, speed: int = 160, pitch: int = 50) -> Pcm:
    """Speak `text` at `speed` words a minute and `pitch` 0 to 99; return it at `RATE`."""
    pieces: list[Pcm] = []

    def receive(pcm: Pcm, _begins: Sequence[tuple[int, int]]) -> bool:
        pieces.append(pcm)
        return True

    speak_lib.load().espeak_SetParameter(_PITCH, pitch, 0)
    # Alone, "a" and "o" would be read as words.
    speak_lib.synthesise(
        text.replace(" a m", " A M").replace(" p m", " P M"), voice, speed, receive
    )
    pcm = np.concatenate(pieces) if pieces else np.zeros(RATE, np.float32)
    spectrum = np.fft.rfft(pcm)
    length = int(len(pcm) * RATE / speak_lib.RATE)
    return np.asarray(
        np.fft.irfft(spectrum[: length // 2 + 1], length) * RATE / speak_lib.RATE, np.float32
    )


def narrow(pcm: Pcm) -> Pcm:
    """Keep the band of a telephone."""
    spectrum, hertz = np.fft.rfft(pcm), np.fft.rfftfreq(len(pcm), 1 / RATE)
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    return np.asarray(np.fft.irfft(spectrum, len(pcm)), np.float32)


@dataclass(frozen=True, slots=True)
class Speaker:
    """One caller: a voice and a line, the same for a whole call.

    Attributes:
        voice: espeak's name of it.
        speed: Words a minute.
        pitch: 0 to 99.
        telephone: Whether the line cuts off what is below 300 and above 3400 Hz.
        snr_db: How far noise is below speech.
        peak: Loudest sample, of full scale 1.
    """

    voice: str
    speed: int
    pitch: int
    telephone: bool
    snr_db: float
    peak: float


LINES = {
    "quiet room": (False, 30.0, 40.0),
    "noisy room": (False, 15.0, 30.0),
    "telephone": (True, 10.0, 25.0),
}
"""Where callers are: whether the line is narrow, and how far noise is below speech, in dB."""


def some_speaker(voices: Sequence[str], rng: random.Random, line: str) -> Speaker:
    """Draw a caller who is on one of the `LINES`."""
    telephone, loudest, softest = LINES[line]
    return Speaker(
        voice=rng.choice(voices),
        speed=rng.randint(130, 185),
        pitch=rng.randint(30, 70),
        telephone=telephone,
        snr_db=rng.uniform(loudest, softest),
        peak=rng.uniform(0.2, 0.7),
    )


def called(text: str, speaker: Speaker, rng: random.Random) -> Pcm:
    """Return `text` as the speaker's line brings it, a quarter of a second of quiet around it."""
    quiet = np.zeros(int(0.25 * RATE), np.float32)
    pcm = say(text, speaker.voice, speaker.speed, speaker.pitch)
    pcm = np.concatenate((quiet, pcm, quiet))
    hiss = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(pcm)).astype(np.float32)
    if speaker.telephone:
        pcm, hiss = narrow(pcm), narrow(hiss)
    pcm = pcm * np.float32(speaker.peak) / max(1e-3, float(np.abs(pcm).max()))
    loud = pcm[np.abs(pcm) > 0.01]
    level = float(np.sqrt(np.mean(np.square(loud)))) if loud.size else 0.01
    return np.asarray(pcm + hiss * level / 10 ** (speaker.snr_db / 20), np.float32)


async def hear(ears: Engine, pcm: Pcm, ask: str, call: str) -> Hypothesis:
    """Recognise one utterance of a call while the question `ask` is open."""
    # Of the two questions that the desk asks in its own words the recogniser knows nothing.
    stream = ears.open(Listening(expects="" if ask == "person" else ask, call=call))
    try:
        for start in range(0, len(pcm), 512):
            stream.push(pcm[start : start + 512])
        return await stream.finish(asyncio.get_running_loop().time() + 5)
    finally:
        stream.close()


async def gather(ears: Engine, count: int, seed: int) -> list[Heard]:
    """Let the recogniser hear `count` training sentences, at the moments of calls."""
    rng = random.Random(seed)
    heard = []
    for number in range(count):
        if number % SENTENCES == 0:
            speaker = some_speaker(VOICES, rng, rng.choice(tuple(LINES)))
        ask = examples.some_moment(rng).ask
        said = language.draw(ask, rng)
        call = f"call {number // SENTENCES}"
        found = await hear(ears, called(said.text, speaker, rng), ask, call)
        heard.append(Heard(ask, said, found.text, round(found.confidence, 2)))
    return heard


async def main(count: int, seed: int, output: Path) -> None:
    """Hear and store; prints how fast and how often what was said was heard."""
    from asr.sphinx import Sphinx

    ears = Sphinx(language.SPEECH, 1, 1)
    await ears.start()
    began = time.monotonic()
    try:
        heard = await gather(ears, count, seed)
    finally:
        await ears.stop()
    write(heard, output)
    right = sum(one.transcript == one.said.text for one in heard) / count
    print(f"{count} sentences in {time.monotonic() - began:.0f} s, {right:.1%} word for word")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=6000, help="sentences to hear")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, default=TRANSCRIPTS)
    given = parser.parse_args()
    asyncio.run(main(given.count, given.seed, given.output))

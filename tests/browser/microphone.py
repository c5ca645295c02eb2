"""What the user of a browser says into its microphone."""

import wave
from pathlib import Path

from speech import RATE, Pcm


def microphone(file: Path, speech: Pcm) -> str:
    """Save what the user says, once, and return the flag that lets Chromium hear it."""
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((speech * 32767).astype("<i2").tobytes())
    return f"--use-file-for-fake-audio-capture={file}%noloop"

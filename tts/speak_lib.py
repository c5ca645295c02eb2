"""espeak-ng's C library (speak_lib.h) through ctypes.

The library and its data come with `espeakng_loader`. It is not thread-safe: four
threads on one instance end in SIGABRT, so a lock lets one in at a time.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np

from tts.engine import EngineError, Pcm

RATE = 22_050
"""Of espeak-ng's audio, in hertz."""

VOICES = (
    *("en-us", "en-us+f1", "en-us+f2", "en-us+f3", "en-us+f4", "en-us+f5"),
    *("en-us+m1", "en-us+m2", "en-us+m3", "en-us+m4", "en-us+m5", "en-us+m6", "en-us+m7"),
    *("en-us+Annie", "en-us+Michael", "en-us+steph", "en-us+whisper"),
    *("en-gb-x-rp", "en-gb-scotland", "de", "es", "fr", "it", "nl", "pl", "pt-br"),
)
"""What this build has; "en-gb" is refused by it (measured 2026-11-23, espeakng-loader 0.2.4)."""

BUFFER = 200
"""Audio per callback, in milliseconds. Each callback must win the interpreter's lock
from the event loop, so few are better; shorter ones would bring the first 0.3 ms earlier."""

Receive = Callable[[Pcm, Sequence[tuple[int, int]]], bool]
"""Takes samples, and for each word that begins its place in the text (characters)
and its first sample, both counted from 0; answers whether to go on."""

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: audio goes to the callback
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE_PARAMETER = 1
_WORD = 1

lock = threading.Lock()


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT; `text_position` counts characters from 1."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


@cache
def load() -> ctypes.CDLL:
    """Load and initialise the library, once for the process; it stays loaded.

    Raises:
        EngineError: If it is missing, does not fit this machine or lacks a voice.
    """
    again = "run `pip install --force-reinstall espeakng-loader==0.2.4`"
    try:
        import espeakng_loader

        library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = Path(espeakng_loader.get_data_path())
    except (ImportError, OSError) as error:
        raise EngineError(f"espeak-ng does not load: {error}; {again}") from error
    with lock:
        rate = library.espeak_Initialize(_SYNCHRONOUS, BUFFER, str(data).encode(), _DO_NOT_EXIT)
        if rate != RATE:
            raise EngineError(
                f"espeak-ng gives {rate} Hz with the data in {data}, expected {RATE}; {again}"
            )
        for voice in VOICES:
            # The library takes an unknown variant for none, without a word.
            variant = voice.partition("+")[2]
            missing = variant and not (data / "voices" / "!v" / variant).is_file()
            if missing or library.espeak_SetVoiceByName(voice.encode()):
                raise EngineError(f"espeak-ng has no voice {voice!r} in {data}; {again}")
    return library


def synthesise(text: str, voice: str, speed: int, receive: Receive) -> None:
    """Speak `text` at `speed` words per minute into `receive`; blocks until it is done.

    Raises:
        EngineError: If the library refused, or `load` does.
    """

    def callback(samples: int | None, length: int, events: "ctypes._Pointer[_Event]") -> int:
        begins = []
        for place in count():
            event = events[place]
            if not event.type:
                break
            if event.type == _WORD:
                begins.append((event.text_position - 1, event.sample))
        raw = ctypes.string_at(samples, 2 * length) if samples else b""
        pcm = np.frombuffer(raw, np.int16).astype(np.float32) / np.float32(32_768)
        return 0 if receive(pcm, begins) else 1

    library = load()
    kept = _Callback(callback)  # the library keeps only its address
    encoded = text.replace("\0", " ").encode(errors="replace")
    with lock:
        library.espeak_SetVoiceByName(voice.encode())
        library.espeak_SetParameter(_RATE_PARAMETER, speed, 0)
        library.espeak_SetSynthCallback(kept)
        status = library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
    if status:
        raise EngineError(f"espeak-ng refused {text[:80]!r} with status {status}")

"""Phonemes from espeak-ng's library, for voices that were trained on them.

Coqui calls the program `espeak-ng`; the library that comes with `espeakng_loader` gives the
same, so nothing has to be installed, and no process is started for every phrase.
"""

import ctypes
import re

from tts import speak_lib
from tts.engine import EngineError

_IPA = 0x02  # phonememode: IPA in UTF-8, nothing between the phonemes
_UTF8 = 1

_LANGUAGES = {"en": "en-us", "zh-cn": "cmn", "en-gb": "en-gb-x-rp"}
"""Names that models use and this library does not."""

_SWITCH = re.compile(r"\([a-z-]+\)")  # "(en)": a word is said as in another language


def phonemes(text: str, language: str) -> str:
    """Return `text` in IPA, its words apart by spaces and its punctuation gone.

    Raises:
        EngineError: If the library does not load or has no such language.
    """
    library = speak_lib.load()
    name = _LANGUAGES.get(language, language)
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = (
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_int,
        ctypes.c_int,
    )
    buffer = ctypes.create_string_buffer(text.replace("\0", " ").encode(errors="replace"))
    place = ctypes.c_void_p(ctypes.addressof(buffer))
    clauses = []
    with speak_lib.lock:  # the library has one state for all
        if library.espeak_SetVoiceByName(name.encode()):
            raise EngineError(
                f"espeak-ng has no language {language!r}, which this model's phonemes need;"
                " set coqui.language, or phoneme_language in the model's config.json"
            )
        while place.value:  # one clause at a time
            clause = library.espeak_TextToPhonemes(ctypes.byref(place), _UTF8, _IPA)
            clauses.append((clause or b"").decode(errors="replace"))
    return " ".join(_SWITCH.sub("", " ".join(clauses)).split())

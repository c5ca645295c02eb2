"""What a voice may be used for, as far as its folder tells.

The licence is shown where the voice is chosen: some of the best-known ones may not be used
commercially, and nobody reads a model card before a demo becomes a product.
"""

import json
import re
from pathlib import Path

UNKNOWN = "not stated in the folder"

_CPML = "CPML, non-commercial"
_BY_NC_ND = "CC BY-NC-ND 4.0, non-commercial"

COQUI = {
    "multilingual/multi-dataset/xtts_v2": _CPML,
    "multilingual/multi-dataset/xtts_v1.1": _CPML,
    "multilingual/multi-dataset/your_tts": _BY_NC_ND,
    "en/ljspeech/vits": "Apache 2.0",
    "en/ljspeech/vits--neon": "BSD 3-Clause",
    "en/vctk/vits": "Apache 2.0",
    "de/thorsten/vits": "Apache 2.0",
    "it/mai_female/vits": "Apache 2.0",
    "it/mai_male/vits": "Apache 2.0",
}
"""Of the models that Coqui published, by name; from `.models.json` in coqui-tts 0.28.0."""

_TITLES = (
    (r"coqui public model license|\bcpml\b", _CPML),
    (r"attribution-noncommercial-noderiv|by-nc-nd", _BY_NC_ND),
    (r"attribution-noncommercial|by-nc", "CC BY-NC, non-commercial"),
    (r"apache license", "Apache 2.0"),
    (r"mozilla public license", "MPL 2.0"),
    (r"mit license", "MIT"),
)


def licence(folder: Path) -> str:
    """Return the licence of the model in `folder` in a few words.

    Its LICENSE file counts first, then "license" in its config.json, then what
    `voice models fetch` noted, then its name if it is one of Coqui's (a folder that `TTS`
    downloaded is called tts_models--en--vctk--vits).
    """
    for path in sorted(folder.glob("*")):
        if re.fullmatch(r"licen[cs]e(\.\w+)?", path.name, re.I) and path.is_file():
            return _title(path.read_text(errors="replace"))
    for file in ("config.json", "sidetone-model.json"):
        try:
            config = json.loads((folder / file).read_text())
        except (OSError, ValueError):
            continue
        stated = config.get("license", config.get("licence")) if isinstance(config, dict) else None
        if isinstance(stated, str) and stated.strip():
            return _known(stated) or stated.strip()[:60]
    return COQUI.get(folder.name.removeprefix("tts_models--").replace("--", "/", 2), UNKNOWN)


def _title(text: str) -> str:
    """Return which licence a text is, or its first line."""
    lines = [line.strip(" #=*") for line in text.splitlines() if line.strip(" #=*")]
    return _known(" ".join(lines[:8])) or (lines[0][:60] if lines else UNKNOWN)


def _known(text: str) -> str:
    return next((name for title, name in _TITLES if re.search(title, text, re.I)), "")

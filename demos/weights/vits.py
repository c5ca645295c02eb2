"""Random weights for VITS, in a folder that Coqui could have saved.

The architecture is the real one, so are the loading path and the time it takes; what it
says is noise. Lengths are those of speech: some 14 characters a second.

    python -m demos.weights.vits FOLDER ljspeech
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tts.coqui_load import import_tts

SIZES = ("tiny", "tiny-phonemes", "tiny-speakers", "tiny-languages", "ljspeech", "vctk")
"""tiny: 1.5 M parameters, for tests; -phonemes: reads espeak's phonemes; -speakers: three of
them; -languages: three, and speakers by vectors, as YourTTS has. ljspeech: the published model's
shape, 83 M with its discriminator, one speaker. vctk: the same with 109."""

_TINY = {
    "hidden_channels": 32,
    "hidden_channels_ffn_text_encoder": 64,
    "num_layers_text_encoder": 2,
    "num_layers_posterior_encoder": 2,
    "num_layers_flow": 2,
    "upsample_initial_channel_decoder": 32,
    "speaker_embedding_channels": 16,
    "init_discriminator": False,
}

FRAMES = 2.2
"""Median frames of 11.6 ms for each symbol; there is a blank between any two letters."""


def make(folder: Path, size: str) -> Path:
    """Make the folder unless it is there already; return it."""
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; expected one of {', '.join(SIZES)}")
    weights = folder / "model_file.pth"
    if weights.is_file():
        return folder
    import_tts()
    import torch
    from TTS.tts.configs.shared_configs import CharactersConfig
    from TTS.tts.configs.vits_config import VitsArgs, VitsConfig
    from TTS.tts.models.vits import Vits
    from TTS.tts.utils.text.characters import _characters, _phonemes, _punctuations

    torch.manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    args: dict[str, Any] = dict(_TINY) if size.startswith("tiny") else {}
    names = {"tiny-speakers": 3, "vctk": 109}.get(size, 0)
    if names:
        speakers = folder / "speaker_ids.json"
        ids = {f"VCTK_p{225 + number}": number for number in range(names)}
        speakers.write_text(json.dumps(ids, indent=1))
        args |= {"use_speaker_embedding": True, "speakers_file": str(speakers)}
    if size == "tiny-languages":
        args |= _yourtts(folder)
    config = VitsConfig(
        model_args=VitsArgs(**args),
        run_name=f"random-{size}",
        text_cleaner="english_cleaners",
        characters=CharactersConfig(
            characters_class="TTS.tts.models.vits.VitsCharacters",
            pad="_",
            blank="<BLNK>",
            characters=_characters,
            phonemes=_phonemes,
            punctuations=_punctuations,
        ),
    )
    model = Vits(config)
    _liven(model)
    if size == "tiny-phonemes":
        config.use_phonemes, config.phonemizer = True, "espeak"
        config.phoneme_language, config.text_cleaner = "en-us", "phoneme_cleaners"
    if names:
        config.model_args.speakers_file = "speaker_ids.json"
    if size == "tiny-languages":
        config.model_args.d_vector_file = ["elsewhere/speakers.json"]
        config.model_args.language_ids_file = "elsewhere/language_ids.json"
    config.save_json(str(folder / "config.json"))
    _save({"model": model.state_dict(), "config": config.to_dict(), "step": 0}, weights)
    return folder


def _yourtts(folder: Path) -> dict[str, Any]:
    """Write the tables of speakers and languages, and return what refers to them."""
    import torch

    vectors = {
        f"clip_{number}.wav": {"name": name, "embedding": torch.randn(16).tolist()}
        for number, name in enumerate(("female-en-5", "male-en-2", "male-en-2"))
    }
    (folder / "speakers.json").write_text(json.dumps(vectors))
    (folder / "language_ids.json").write_text(json.dumps({"en": 0, "fr-fr": 1, "pt-br": 2}))
    return {
        "use_d_vector_file": True,
        "d_vector_file": [str(folder / "speakers.json")],
        "d_vector_dim": 16,
        "use_language_embedding": True,
        "language_ids_file": str(folder / "language_ids.json"),
    }


def _liven(model: Any) -> None:
    """Give a new model the lengths and the level of speech, and flows that do something.

    A fresh one has flows that are the identity, which would hide mistakes in masks.
    """
    import torch

    with torch.no_grad():
        predictor = model.duration_predictor
        affine = predictor.flows[0]
        affine.log_scale[0] = math.log(2)  # half the spread of a logarithm
        affine.translation[0] = -2 * math.log(FRAMES)
        for flow in predictor.flows[1:]:
            flow.proj.weight.normal_(0, 0.02)
        for flow in model.flow.flows:
            flow.post.weight.normal_(0, 0.05)
        speaker = {"speaker_ids": torch.zeros(1, dtype=torch.long)}
        if model.args.use_d_vector_file:
            speaker = {"d_vectors": torch.randn(1, model.args.d_vector_dim)}
        if model.args.use_language_embedding:
            speaker["language_ids"] = torch.zeros(1, dtype=torch.long)
        ids = torch.arange(60)[None]
        model.eval()
        level(model.waveform_decoder, lambda: model.inference(ids, speaker)["model_outputs"])


def level(decoder: Any, speak: Callable[[], Any]) -> None:
    """Change a HiFi-GAN's last layer so that what `speak` returns is like speech.

    It is as loud, -20 dBFS, and has no constant part, beside which any difference is small.
    """
    weight = decoder.conv_post.weight
    weight -= weight.mean(dim=2, keepdim=True)
    weight *= 0.1 / speak().std()


def _save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint as Coqui's trainer does; it is there whole or not at all."""
    import torch

    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), sys.argv[2]))

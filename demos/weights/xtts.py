"""Random weights for XTTS, in a folder as the published one: the real architecture and
loading path, and noise for speech.

    python -m demos.weights.xtts FOLDER cut
"""

import sys
from pathlib import Path
from typing import Any

from demos.weights.vits import level
from tts.coqui_load import import_tts

SIZES = ("cut", "full")
"""cut: 34 M parameters, a transformer of 4 layers before the real decoder. full: the
shape of XTTS v2, 482 M."""

_CUT = {"gpt_layers": 4, "gpt_n_model_channels": 256, "gpt_n_heads": 4, "decoder_input_dim": 256}

_SPEAKERS = ("Claribel Dervla", "Daisy Studious")

STOP = 1.4
"""Added to the score of the stop token, so that a sentence ends after some seconds."""


def make(folder: Path, size: str) -> Path:
    """Make the folder unless it is there already; return it."""
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; expected one of {', '.join(SIZES)}")
    weights = folder / "model.pth"
    if weights.is_file():
        return folder
    import_tts()
    import torch
    from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
    from TTS.tts.models.xtts import Xtts

    torch.manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    _vocabulary(folder / "vocab.json", 6681 if size == "full" else 0)
    shape = _CUT if size == "cut" else {}
    config = XttsConfig(model_args=XttsArgs(gpt_use_perceiver_resampler=True, **shape))
    config.temperature, config.repetition_penalty = 0.75, 5.0  # as published
    model = Xtts(config)
    model.tokenizer = VoiceBpeTokenizer(vocab_file=str(folder / "vocab.json"))
    model.init_models()
    with torch.no_grad():
        model.gpt.mel_head.bias[model.gpt.stop_audio_token] = STOP
        decoder = model.hifigan_decoder.waveform_decoder
        args = config.model_args
        latents = torch.randn(1, args.decoder_input_dim, 60)
        vector = torch.randn(1, args.d_vector_dim, 1)
        level(decoder, lambda: decoder(latents, g=vector))
        speakers = {
            name: {
                "gpt_cond_latent": 0.1 * torch.randn(1, 32, config.model_args.gpt_n_model_channels),
                "speaker_embedding": torch.nn.functional.normalize(torch.randn(1, 512, 1), dim=1),
            }
            for name in _SPEAKERS
        }
    torch.save(speakers, folder / "speakers_xtts.pth")
    config.save_json(str(folder / "config.json"))
    part = weights.with_suffix(".part")
    torch.save({"model": model.state_dict(), "config": config.to_dict()}, part)
    part.replace(weights)
    return folder


def _vocabulary(path: Path, size: int) -> None:
    """Write a tokenizer whose tokens are letters, filled up to `size`."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]", "[en]", "[de]", "[es]", "[fr]", "[it]"]
    letters = [*"abcdefghijklmnopqrstuvwxyz", *"0123456789", *"!'(),-.:;?\"", *"äöüßàâçéèêíóúñ"]
    filler: list[Any] = [f"\N{LOZENGE}{n}" for n in range(size - len(special) - len(letters))]
    vocab = {token: number for number, token in enumerate([*special, *letters, *filler])}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[], unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(path))


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), sys.argv[2]))

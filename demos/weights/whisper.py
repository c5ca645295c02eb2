"""Whisper with random weights, in CTranslate2's format and, in `torch/`, in Hugging Face's."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th "
    "ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr "
    "pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt "
    "haw ln ha ba jw su yue"
)
"""In the order of their tokens; the first models do not know the last one."""

WORDS = 50257
"""Tokens of text."""


@dataclass(frozen=True)
class Size:
    """The shape of a model.

    Attributes:
        width: Of every layer.
        encoder: Layers of the encoder.
        decoder: Layers of the decoder.
        heads: Of the attention.
        bands: Of the mel picture.
        languages: That it has tokens for.
    """

    width: int
    encoder: int
    decoder: int
    heads: int
    bands: int = 80
    languages: int = 99


SIZES: Mapping[str, Size] = {
    "tiny": Size(384, 4, 4, 6),
    "base": Size(512, 6, 6, 8),
    "small": Size(768, 12, 12, 12),
    "large-v3-turbo": Size(1280, 32, 4, 20, 128, 100),
}


def make(folder: Path, size: str) -> Path:
    """Make a model in `folder`, unless a complete one is there, and return the folder.

    Raises:
        ValueError: If there is no such size.
    """
    if size not in SIZES:
        raise ValueError(f"whisper has no size {size!r}; expected one of {', '.join(SIZES)}")
    if (folder / "torch" / "config.json").is_file():
        return folder  # it is moved to its place as a whole
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        _make(Path(made), SIZES[size])
        shutil.rmtree(folder, ignore_errors=True)
        (Path(made) / "ctranslate2").rename(folder)
        (Path(made) / "torch").rename(folder / "torch")
    return folder


def _make(folder: Path, size: Size) -> None:
    """Make both formats below `folder`, of the same weights in 16 bits."""
    import torch
    from ctranslate2.converters import TransformersConverter
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    source = folder / "torch"
    languages = LANGUAGES.split()[: size.languages]
    special = [
        *("endoftext", "startoftranscript", *languages, "translate", "transcribe", "startoflm"),
        *("startofprev", "nospeech", "notimestamps", *(f"{i / 50:.2f}" for i in range(1501))),
    ]
    ids = {name: WORDS + i for i, name in enumerate(special)}
    tokenizer = Tokenizer(models.BPE(vocab=_words(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in special])
    end = ids["endoftext"]
    config = WhisperConfig(
        vocab_size=WORDS + len(special),
        num_mel_bins=size.bands,
        d_model=size.width,
        encoder_layers=size.encoder,
        decoder_layers=size.decoder,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=4 * size.width,
        decoder_ffn_dim=4 * size.width,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=ids["startoftranscript"],
        suppress_tokens=[],
        begin_suppress_tokens=[end],
    )
    torch.manual_seed(0)
    network = WhisperForConditionalGeneration(config)
    _shake(network)
    network.generation_config = GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=ids["startoftranscript"],
        suppress_tokens=[],
        begin_suppress_tokens=[end],
        alignment_heads=[[size.decoder - 1, 0]],
        lang_to_id={f"<|{language}|>": ids[language] for language in languages},
        no_timestamps_token_id=ids["notimestamps"],
    )
    network.half().save_pretrained(source)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(source)
    WhisperFeatureExtractor(feature_size=size.bands).save_pretrained(source)
    converter = TransformersConverter(
        str(source), copy_files=["tokenizer.json", "preprocessor_config.json"]
    )
    converter.convert(str(folder / "ctranslate2"), quantization="float16")


def _shake(network: Any) -> None:
    """Make the weights so large that what is written depends on what is heard.

    As they are initialised, a layer adds next to nothing to what comes in, attention is the same
    everywhere, and the likeliest token is always the one before.
    """
    import torch

    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 3:  # a convolution: what was heard, beside where it was heard
                weight.normal_(0, 3.0 / weight[0].numel() ** 0.5)
            elif "layers" in name and weight.ndim == 2:
                sharp = "q_proj" in name or "k_proj" in name
                weight.normal_(0, (2.0 if sharp else 1.5) / weight.shape[1] ** 0.5)


def _words() -> dict[str, int]:
    """Return the vocabulary: every byte, then made-up words, most of them behind a space.

    The last one is empty: by that CTranslate2 tells models of many languages from those of one.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i, _ in enumerate(others)]
    space = chr(256 + 32)
    made_up = [f"{space if i % 4 else ''}w{i}" for i in range(WORDS - len(letters) - 1)]
    return {word: i for i, word in enumerate([*letters, *made_up, ""])}

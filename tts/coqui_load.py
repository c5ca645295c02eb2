"""Load a Coqui model from its folder: the one file that imports `TTS`.

What Coqui's own `Synthesizer` does, and what it leaves to the user: paths in config.json
that were true on another machine, phonemes without a program to install, and errors that
say which file is wrong and what to do.
"""

import json
import logging
import pickle
import sys
import wave
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tts import espeak_phonemes
from tts.coqui_options import CoquiOptions
from tts.engine import EngineError
from tts.torch_device import Device
from tts.vits import Vits
from tts.xtts import Xtts

INSTALL = "install it with `pip install coqui-tts torch torchaudio`"

SHORTEST = 0.35
"""Seconds of a recording below which Coqui finds no voice in it."""

_FILES = ("speakers_file", "language_ids_file", "d_vector_file")


@dataclass(frozen=True, slots=True)
class Folder:
    """What a model's config.json says, read without any heavy package.

    Attributes:
        kind: "vits" or "xtts".
        rate: Of its audio, in hertz.
    """

    path: Path
    kind: str
    rate: int


def look(model: str) -> Folder:
    """Read a model's folder.

    Raises:
        EngineError: If it is no folder of a model that can be spoken with.
    """
    path = Path(model).expanduser()
    again = "give the folder of a Coqui VITS or XTTS model, with config.json and its .pth file"
    if not path.is_dir():
        raise EngineError(f"no folder {str(path)!r}; {again}")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        kind = str(config["model"]).lower()
        rate = int(config["audio"]["sample_rate"]) if kind != "xtts" else _xtts_rate(config)
        if rate <= 0:
            raise ValueError(f"a sample rate of {rate}")
    except FileNotFoundError as error:
        raise EngineError(f"no config.json in {path}; {again}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise EngineError(f"{path / 'config.json'} is not Coqui's: {error!r}; {again}") from error
    if kind not in ("vits", "xtts"):
        raise EngineError(f"{path} is a {kind} model; only vits and xtts are supported")
    return Folder(path, kind, rate)


def _xtts_rate(config: Any) -> int:
    """Return the rate that the decoder is built for; `audio` may say something else."""
    return int((config.get("model_args") or {}).get("output_sample_rate", 24_000))


def load(folder: Folder, device: Device, options: CoquiOptions) -> Vits | Xtts:
    """Load the model onto the device; takes seconds, blocks.

    Raises:
        EngineError: If a package or a file is missing or damaged.
    """
    load_config, setup_model = import_tts()
    import torch

    try:
        # In inference mode weights without their normalisation would not be parameters.
        with torch.inference_mode(False), torch.enable_grad(), _quiet(), _fitting(device):
            _take_over_espeak()
            config = load_config(str(folder.path / "config.json"))
            _find_files(config, folder.path)
            if folder.kind == "vits":
                return _vits(setup_model, config, folder.path, device, options)
            return _xtts(setup_model, config, folder.path, device, options)
    except EngineError:
        raise
    except FileNotFoundError as error:
        raise EngineError(f"{folder.path} lacks a file of the model: {error}") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise EngineError(_damaged(folder, error)) from error
    except RuntimeError as error:  # torch's archive reader, and a shape that does not fit
        raise EngineError(_damaged(folder, error)) from error
    except Exception as error:
        raise EngineError(f"{folder.path} does not load: {error!r}") from error


def import_tts() -> tuple[Any, Any]:
    """Import Coqui's package; returns its `load_config` and its `setup_model`.

    On torch 2.9 and later it refuses to be imported without torchcodec, which it needs
    for nothing but reading audio files. A stand-in is there while it looks, and gone
    afterwards, so that nobody else believes in it.

    Raises:
        EngineError: If it is not installed or does not fit.
    """
    stub = None
    if "TTS" not in sys.modules and find_spec("torchcodec") is None:
        stub = ModuleType("torchcodec")
        stub.__spec__ = ModuleSpec("torchcodec", None)
        sys.modules["torchcodec"] = stub
    try:
        from TTS.config import load_config
        from TTS.tts.models import setup_model
    except ImportError as error:
        raise EngineError(f"coqui-tts does not load ({error}); {INSTALL}") from error
    finally:
        if stub is not None and sys.modules.get("torchcodec") is stub:
            del sys.modules["torchcodec"]
    return load_config, setup_model


def _find_files(config: Any, path: Path) -> None:
    """Look up in the folder what the configuration says is somewhere on another machine."""

    def here(given: str) -> str:
        return given if Path(given).exists() else str(path / Path(given).name)

    for holder in (config, config.model_args):
        for name in _FILES:
            given = getattr(holder, name, None)
            if given and isinstance(given, str):
                setattr(holder, name, here(given))
            elif given:
                setattr(holder, name, [here(one) for one in given])


def _vits(setup_model: Any, config: Any, path: Path, device: Device, options: CoquiOptions) -> Vits:
    config.model_args.use_speaker_encoder_as_loss = False  # of training alone
    config.model_args.speaker_encoder_model_path = ""
    if config.use_phonemes and not config.phonemizer:
        config.phonemizer = "espeak"
    model = setup_model(config)
    model.load_checkpoint(config, str(_checkpoint(path)), eval=True)
    model.disc = model.posterior_encoder = None  # of training alone, half of the weights
    return Vits(_ready(model, device), device, options)


def _xtts(setup_model: Any, config: Any, path: Path, device: Device, options: CoquiOptions) -> Xtts:
    if not (path / "vocab.json").is_file():
        raise EngineError(f"no vocab.json in {path}; copy the whole folder of the model")
    model = setup_model(config)
    model.load_checkpoint(
        config,
        checkpoint_path=str(_checkpoint(path)),
        vocab_path=str(path / "vocab.json"),
        speaker_file_path=str(path / "speakers_xtts.pth"),
        eval=True,
    )
    _ready(model, device)
    voices = {}
    if model.speaker_manager is not None:
        for name, known in model.speaker_manager.speakers.items():
            voices[name] = tuple(known.values())
    import torch

    with torch.inference_mode():
        for recording in sorted((path / "voices").glob("*.wav")):
            voices[recording.stem] = _cloned(model, config, recording)
    if not voices:
        raise EngineError(
            f"{path} has no voice: add speakers_xtts.pth, or recordings of 3 to 10 s as"
            " voices/NAME.wav, one voice each"
        )
    return Xtts(model, voices, device, options)


def _cloned(model: Any, config: Any, recording: Path) -> tuple[Any, Any]:
    """Return what XTTS knows of a voice from a recording of it."""
    import torch

    try:
        with wave.open(str(recording)) as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            raw = file.readframes(config.max_ref_len * rate)
        if width != 2:
            raise wave.Error(f"{8 * width} bits a sample")
    except (wave.Error, EOFError) as error:
        raise EngineError(f"{recording} is not a WAV file of 16 bits: {error}") from error
    seconds = len(raw) / (2 * channels * rate)
    if seconds < SHORTEST:
        raise EngineError(f"{recording} lasts {seconds:.2g} s; give it 3 to 10 s of the voice")
    pcm = np.frombuffer(raw, np.int16).reshape(-1, channels).mean(axis=1) / 32_768
    audio = torch.tensor(pcm, dtype=torch.float32).unsqueeze(0)
    latents = model.get_gpt_cond_latents(
        audio.to(model.device), rate, config.gpt_cond_len, config.gpt_cond_chunk_len
    )
    return latents, model.get_speaker_embedding(audio, rate)


def _ready(model: Any, device: Device) -> Any:
    """Move a model to the device and fold its weight normalisation into the weights."""
    from torch.nn.utils import parametrize

    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    model.to(device.torch)
    model.eval()
    for weight in model.parameters():
        weight.requires_grad_(False)
    return model


def _checkpoint(path: Path) -> Path:
    """Return the file with the weights."""
    for name in ("model.pth", "model_file.pth", "best_model.pth"):
        if (path / name).is_file():
            return path / name
    others = [p for p in sorted(path.glob("*.pth")) if p.name != "speakers_xtts.pth"]
    if len(others) != 1:
        found = ", ".join(p.name for p in others) or "none"
        raise EngineError(
            f"which .pth file of {path} has the weights? Found: {found}; name it model.pth"
        )
    return others[0]


def _damaged(folder: Folder, error: Exception) -> str:
    what = " ".join(str(error).split())[:300]
    return (
        f"the weights in {folder.path} do not load: they are truncated, or do not belong to its"
        f" config.json ({what}); copy the folder again and compare sizes"
    )


def _take_over_espeak() -> None:
    """Let models that want espeak's phonemes have them from the library."""
    from TTS.tts.utils.text import phonemizers
    from TTS.tts.utils.text.phonemizers.base import BasePhonemizer

    class Library(BasePhonemizer):  # type: ignore[misc]
        """espeak-ng in this process; named as Coqui's is, which models refer to."""

        def __init__(self, language: str, **more: Any) -> None:
            super().__init__(language, keep_puncs=True, **more)

        @staticmethod
        def name() -> str:
            return "espeak"

        @classmethod
        def is_available(cls) -> bool:
            return True

        def version(self) -> str:
            return "library"

        @staticmethod
        def supported_languages() -> dict[str, str]:
            return {}

        def is_supported_language(self, language: str) -> bool:
            espeak_phonemes.phonemes("a", language)  # raises if it is not
            return True

        def _phonemize(self, text: str, separator: str) -> str:
            return espeak_phonemes.phonemes(text, self.language)

    phonemizers._register_phonemizers()
    phonemizers.PHONEMIZERS["espeak"] = Library


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Coqui's notes on every step of loading out of the log."""
    logger = logging.getLogger("TTS")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _fitting(device: Device) -> Iterator[None]:
    """Say so if the model does not fit into memory."""
    from tts.torch_device import out_of_memory

    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise EngineError(
            f"the model does not fit into the memory of {device.torch}; choose a smaller one,"
            " coqui.device = cpu, or leave it more room"
        ) from error

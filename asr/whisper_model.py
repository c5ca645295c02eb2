"""Whisper run by CTranslate2, and where its files are found.

The only file that imports CTranslate2 and faster-whisper. On a GPU CTranslate2
opens libcublas.so.12 when it first multiplies; where that is missing (vLLM brings
the libraries of CUDA 13), it is looked for in the package nvidia-cublas-cu12.
"""

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.engine import EngineError
from asr.whisper_decoder import STEP, Aligned, Model, Written
from asr.whisper_options import WhisperOptions
from asr.whisper_tokens import Tokens

CUBLAS = "libcublas.so.12"

LAYOUTS = {"ctranslate2": "model.bin", "torch": "model.safetensors"}
"""The file by which each backend's directories are told."""


def load(source: str, options: WhisperOptions) -> Model:
    """Load a model: a directory, a name such as "small", or the id of a model on the hub.

    Raises:
        EngineError: If it cannot; the message names the remedy.
    """
    backend = options.backend
    if backend == "auto":
        folder = Path(source).expanduser()
        held = [name for name, file in LAYOUTS.items() if (folder / file).is_file()]
        blas = options.device == "cpu" or not gpus() or cublas()
        backend = held[0] if len(held) == 1 else "ctranslate2" if blas else "torch"
    folder = find(source, backend)
    _check(folder, backend)
    if backend == "torch":
        from asr.whisper_torch import TorchModel

        return TorchModel(folder, options)
    return CTranslateModel(folder, options)


def find(source: str, backend: str) -> Path:
    """Return the directory of a model, which is fetched from the hub if it is none.

    Raises:
        EngineError: If there is none.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.startswith((".", "/", "~")) or folder.exists():
        raise EngineError(f"no Whisper model in {folder}: {EXPECTED}")
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    try:
        return Path(_fetch(source, backend, offline))
    except Exception as error:  # the hub raises what it likes
        raise EngineError(
            f"Whisper cannot be fetched: {source} ({_first_line(error)}). "
            + (
                "HF_HUB_OFFLINE is set and the model is not in the cache: fetch it where there "
                "is a network, or give a directory"
                if offline
                else "Is there a network, and is the name right? Without a hub, give a directory"
            )
        ) from error


def _fetch(source: str, backend: str, offline: bool) -> str:
    """Return the directory of a model on the hub, in the format that `backend` reads."""
    if backend == "ctranslate2":
        from faster_whisper.utils import download_model

        return str(download_model(source, local_files_only=offline))
    from huggingface_hub import snapshot_download

    return snapshot_download(
        source if "/" in source else f"openai/whisper-{source}",
        local_files_only=offline,
        allow_patterns=["*.json", LAYOUTS["torch"]],
    )


EXPECTED = (
    "expected a directory in CTranslate2 format (model.bin, config.json, tokenizer.json), one in "
    "Hugging Face's (model.safetensors, config.json, tokenizer.json), or a model's name such as "
    "small"
)


def _check(folder: Path, backend: str) -> None:
    """Raise EngineError unless the files of a model for `backend` are there."""
    wanted = LAYOUTS[backend]
    if not (folder / wanted).is_file():
        for other, file in LAYOUTS.items():
            if (folder / file).is_file():
                raise EngineError(
                    f"{folder} is a model for whisper.backend = {other}, and {backend} was "
                    "chosen: set whisper.backend to auto, or convert it with "
                    "ct2-transformers-converter --copy_files tokenizer.json "
                    "preprocessor_config.json"
                )
        raise EngineError(f"no Whisper model in {folder}: {EXPECTED}")
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise EngineError(
                f"no {file} in {folder}: copy it from where the model is from (converted with "
                "ct2-transformers-converter, name it in --copy_files)"
            )


class CTranslateModel:
    """A model in CTranslate2's format; the attributes are those of `asr.whisper_decoder.Model`."""

    def __init__(self, folder: Path, options: WhisperOptions) -> None:
        """Load it.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        import ctranslate2

        device = options.device
        if device == "auto":
            device = "cuda" if gpus() else "cpu"
        if device == "cuda" and not cublas():
            raise EngineError(
                f"CTranslate2 needs {CUBLAS} on a GPU: pip install nvidia-cublas-cu12 (it lives "
                "beside the libraries of CUDA 13), or set whisper.backend = torch and give a "
                "model in Hugging Face's format, or set whisper.device = cpu"
            )
        compute = options.compute
        if compute == "auto":
            compute = "float16" if device == "cuda" else "int8"
        try:
            self._network: Any = ctranslate2.models.Whisper(
                str(folder), device=device, compute_type=compute, intra_threads=options.threads
            )
        except Exception as error:  # RuntimeError, ValueError, whatever json raises
            raise EngineError(
                f"Whisper cannot load {folder} ({_first_line(error)}). If a download was cut "
                "off, delete the directory and fetch it again"
            ) from error
        self._ct2 = ctranslate2
        self.about = f"{compute} on {device} by CTranslate2"
        self.together = device == "cuda"
        self.grain = 0.1
        self.fixed: tuple[str, ...] = ()
        self.sizes = [(1, 1.0), (options.batch, 1.0)] if self.together else [(1, 1.0)]
        self.bands = int(self._network.n_mels)
        self.tokens = Tokens(folder / "tokenizer.json", bool(self._network.is_multilingual))

    def encode(self, mel: NDArray[np.float32]) -> Any:
        """Return the encoder's output, a StorageView (batch, positions, width)."""
        return self._network.encode(self._ct2.StorageView.from_array(np.ascontiguousarray(mel)))

    def detect(self, encoded: Any) -> list[tuple[str, float]]:
        """Return for each window its likeliest language, and how likely it is."""
        return [
            (ranked[0][0][2:-2], float(ranked[0][1]))
            for ranked in self._network.detect_language(encoded)
        ]

    def generate(
        self,
        encoded: Any,
        prompt: Sequence[Sequence[int]],
        given: Sequence[Sequence[int]],
        limit: int,
        beam: int,
    ) -> list[Written]:
        """Write all windows out; see `asr.whisper_decoder.Model`."""
        longest = max(len(one) for one in given)
        results = self._network.generate(
            encoded,
            [[*start, *words] for start, words in zip(prompt, given, strict=True)],
            beam_size=beam,
            max_length=_max_length(len(prompt[0]), longest + limit),
            return_scores=True,
            return_no_speech_prob=True,
        )
        written = []
        for result, words in zip(results, given, strict=True):
            tokens = result.sequences_ids[0]  # with those that were given, which score 0
            new = list(tokens[len(words) :])
            logprob = float(result.scores[0]) * len(tokens) / (len(new) + 1)
            written.append(Written(new, logprob, float(result.no_speech_prob)))
        return written

    def align(
        self, encoded: Any, index: int, start: Sequence[int], text: Sequence[int], seconds: float
    ) -> Aligned:
        """Return when each token of a window was said."""
        view = self._ct2.StorageView
        one = encoded
        if encoded.shape[0] > 1:
            everything = np.asarray(encoded.to_device(self._ct2.Device.cpu))
            one = view.from_array(np.ascontiguousarray(everything[index : index + 1]))
        columns = round(seconds / STEP * 2)
        [found] = self._network.align(one, list(start), [list(text)], columns)
        return Aligned(_starts(found.alignments, len(text), seconds), list(found.text_token_probs))


def gpus() -> int:
    """Return how many GPUs there are that CTranslate2 could use."""
    import ctranslate2

    return int(ctranslate2.get_cuda_device_count())


def cublas() -> bool:
    """Load cuBLAS 12, if need be from its package; return whether it is there."""
    package = importlib.util.find_spec("nvidia")
    folders = (package.submodule_search_locations or ()) if package else ()
    for candidate in (CUBLAS, *(f"{folder}/cublas/lib/{CUBLAS}" for folder in folders)):
        try:  # what is loaded under this name is found by whoever opens the name later
            ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False


def _starts(pairs: Sequence[tuple[int, int]], count: int, seconds: float) -> list[float]:
    """Return where each of `count` tokens begins and the last one ends, in seconds.

    `pairs` is the path of (token, position) through a window of `seconds`.
    """
    starts = [seconds] * (count + 1)
    for token, position in reversed(pairs):
        if token <= count:
            starts[token] = min(seconds, position * STEP)
    for token in reversed(range(count)):  # one that the path left out
        starts[token] = min(starts[token], starts[token + 1])
    return starts


def _max_length(prompt: int, wanted: int) -> int:
    """Return the `max_length` with which CTranslate2 writes `wanted` tokens.

    It writes the smaller of half of it and of what is left behind the prompt, of 448 at most.
    """
    return min(448, max(2 * wanted, prompt + wanted))


def _first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error) or repr(error)).splitlines()[0]

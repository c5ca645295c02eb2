"""Record what the engines' work takes, for `tests/simulation.py`.

    python tests/engines/record_service_times.py >tests/service_times.json

One thread, CPU time (other load on the machine does not count), medians. The models have the
real shapes and random weights; the language model is the front desk's own.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from types import ModuleType
from typing import Any

ROUNDS = 7
BATCHES = (1, 2, 4, 8, 16)
WINDOW = 3.0
"""Seconds of sound that each decoding looks at."""

CHUNK = 0.4
"""Seconds of audio of a chunk."""

OVERLAP = 14
"""Frames at either side of a chunk that its decoder sees, too."""

SOURCE = (
    "Recorded by tests/engines/record_service_times.py: Whisper tiny shape (random weights, "
    "CTranslate2, int8, 3 s windows, 14 tokens), Coqui VITS shape (83 M, random weights, "
    "torch, 60 characters; chunks of 0.4 s), the front desk's model in vLLM (CPU build, "
    "bfloat16). CPU seconds, one thread, medians."
)

SCALE = {"whisper": 0.25, "vits": 0.02, "llm": 1.0}
"""What work takes on the simulated device, as a share of what it took here."""

SCALED = (
    "What the simulated device takes is assumed to be `scale` of that: a GPU is some fifty times "
    "as fast as one core, and its models are larger (Whisper turbo 20 times tiny; 8 B parameters "
    "for the language model, whose step then takes the time to read them from memory). 64 calls "
    "load it to nine tenths. It is no claim about any GPU: the order of service is simulated."
)


def took(work: Callable[[], object]) -> float:
    """Return the CPU seconds of `work`, the median of some rounds after one to warm up."""
    work()
    rounds = []
    for _ in range(ROUNDS):
        began = process_time()
        work()
        rounds.append(process_time() - began)
    return round(median(rounds), 5)


def whisper(folder: Path) -> Mapping[str, Any]:
    """Encode one window; decode 14 tokens of several."""
    import numpy as np
    from ctranslate2 import StorageView
    from faster_whisper import WhisperModel

    from demos.weights.whisper import make

    model = WhisperModel(
        str(make(folder, "tiny")), device="cpu", compute_type="int8", cpu_threads=1
    ).model
    noise = np.random.default_rng(0)

    def encoded(count: int) -> Any:
        mel = noise.normal(size=(count, 80, round(WINDOW * 100))).astype(np.float32)
        return model.encode(StorageView.from_array(mel))

    def decode(count: int) -> Callable[[], object]:
        sound = encoded(count)
        prompt = [[50258, 50259, 50359, 50363]] * count
        return lambda: model.generate(
            sound, prompt, beam_size=1, max_length=18, suppress_tokens=[50257], suppress_blank=False
        )

    return {
        "encode": {"1": took(lambda: encoded(1))},
        "decode": {str(count): took(decode(count)) for count in BATCHES},
    }


def vits() -> Mapping[str, Any]:
    """Encode texts of 60 characters; decode chunks, of several texts at once."""
    stub = ModuleType("torchcodec")  # Coqui asks whether it is there, and does not use it here
    stub.__spec__ = ModuleSpec("torchcodec", None)
    sys.modules["torchcodec"] = stub
    import torch
    from TTS.tts.configs.vits_config import VitsConfig
    from TTS.tts.models.vits import Vits

    del sys.modules["torchcodec"]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Vits.init_from_config(VitsConfig()).eval()
    frames = round(CHUNK * 22_050 / 256)

    def text(count: int) -> object:
        ids = torch.randint(1, 50, (count, 120))
        lengths = torch.tensor([120] * count)
        x, means, _, mask = model.text_encoder(ids, lengths, lang_emb=None)
        model.duration_predictor(x, mask, g=None, reverse=True, noise_scale=1.0)
        latent = means.repeat_interleave(3, dim=2)
        return model.flow(latent, torch.ones(count, 1, latent.shape[2]), g=None, reverse=True)

    def chunk(count: int) -> object:
        return model.waveform_decoder(torch.randn(count, 192, frames + 2 * OVERLAP), g=None)

    with torch.inference_mode():
        return {
            "text": {str(n): took(lambda n=n: text(n)) for n in BATCHES[:-1]},
            "chunk": {str(n): took(lambda n=n: chunk(n)) for n in BATCHES[:-1]},
        }


def llm() -> Mapping[str, Any]:
    """Take steps of a language model that writes several answers."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    from vllm import LLM, SamplingParams

    model = str(Path(__file__).parents[2] / "demos" / "frontdesk" / "model")
    engine = LLM(
        model,
        enforce_eager=True,
        max_model_len=512,
        block_size=32,
        enable_prefix_caching=False,
        max_num_batched_tokens=32_768,  # all prompts in one step
    ).llm_engine
    steps: dict[str, float] = {}
    prompts: dict[str, float] = {}
    for count in (1, 8, 32, 64):
        for number in range(count):
            ids = [(7 * number + place) % 900 + 20 for place in range(300)]
            sampling = SamplingParams(max_tokens=24, ignore_eos=True, temperature=0.0)
            engine.add_request(f"{count}:{number}", {"prompt_token_ids": ids}, sampling)
        times = []
        while engine.has_unfinished_requests():
            began = process_time()
            engine.step()
            times.append(process_time() - began)
        steps[str(count)] = round(median(times[1:]), 5)
        prompts[str(300 * count)] = round(times[0] - steps[str(count)], 5)
    return {"step": steps, "prompt": prompts}


def recorded(stage: str) -> Mapping[str, Any]:
    """Record one stage in a process of its own: their packages do not all get on in one."""
    script = [sys.executable, __file__, stage]
    done = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True)
    found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print all of it, or the stage that is named."""
    match sys.argv[1:]:
        case ["whisper"]:
            with TemporaryDirectory() as folder:
                print(json.dumps(whisper(Path(folder) / "whisper")))
        case ["vits"]:
            print(json.dumps(vits()))
        case ["llm"]:
            print(json.dumps(llm()))
        case _:
            stages = {stage: recorded(stage) for stage in ("whisper", "vits", "llm")}
            machine = f"{platform.machine()}, Python {platform.python_version()}"
            about = {"source": SOURCE, "machine": machine, "scale": SCALE, "scaled": SCALED}
            print(json.dumps(about | stages, indent=2))


if __name__ == "__main__":
    main()

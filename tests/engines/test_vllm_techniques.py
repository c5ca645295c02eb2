"""Every technique that vLLM can run on a CPU, run: a random Llama, a few seconds each."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from demos.weights import llama, llama_variants
from llm.engine import Message, Params, Usage
from llm.vllm import Vllm
from llm.vllm_options import VllmOptions

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]
TOKENS = 24

Job = dict[str, Any]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def model(weights: Path) -> Path:
    return llama.make(weights / "llama", "tiny")


class Forks:
    """A process that has vLLM imported and forks for each run."""

    def __init__(self, model: Path, log: Path) -> None:
        self.model = model
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.engines.vllm_forks"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    def run(self, model: Path | None = None, **job: Any) -> Job:
        """Run vLLM with options and prompts; see `vllm_forks`."""
        options = {"dtype": "float32", "max_model_len": 1024, "max_num_seqs": 8}
        options |= {"kv_cache_gib": 0.125} | job.pop("options", {})
        sent = {"model": str(model or self.model), "prompts": PROMPTS, "tokens": TOKENS, **job}
        assert self._process.stdin and self._process.stdout
        print(json.dumps(sent | {"options": options}), file=self._process.stdin, flush=True)
        found: Job = json.loads(self._process.stdout.readline())
        assert "error" not in found, f"{found}\n{self._log.read_text()[-3000:]}"
        assert all(len(answer) == sent["tokens"] for answer in found["answers"])
        return found

    def stop(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def prompt(seed: int, size: int) -> list[int]:
    return [random.Random(seed + at).randrange(300, 3000) for at in range(size)]


PROMPTS = [prompt(10_000, 150), prompt(20_000, 150), prompt(10_000, 150)]
"""The third is the first again."""


@pytest.fixture(scope="module")
def vllm(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks(model, tmp_path_factory.mktemp("log") / "vllm.log")
    yield forks
    forks.stop()


@pytest.fixture(scope="module")
def plain(vllm: Forks) -> Job:
    """What the model answers without any technique."""
    return vllm.run(options={"prefix_cache": False})


def test_the_prefix_cache_finds_all_whole_blocks_and_changes_nothing(
    vllm: Forks, plain: Job
) -> None:
    assert plain["cached"] == [0, 0, 0]
    found = vllm.run()
    assert found["answers"] == plain["answers"]
    assert found["cached"] == [0, 0, 128]  # blocks of 32; the last token is always computed


def test_a_prompt_read_in_chunks_is_answered_alike(vllm: Forks, plain: Job) -> None:
    found = vllm.run(options={"max_num_batched_tokens": 64, "prefix_cache": False})
    assert found["answers"] == plain["answers"]
    whole = {"chunked_prefill": False, "max_num_batched_tokens": 1024, "prefix_cache": False}
    assert vllm.run(options=whole)["answers"] == plain["answers"]


@pytest.mark.parametrize("speculation", ["ngram", "draft", "eagle3"])
def test_guesses_are_checked_and_change_nothing(
    vllm: Forks, plain: Job, weights: Path, model: Path, speculation: str
) -> None:
    options: Job = {"speculation": speculation, "speculation_tokens": 3, "prefix_cache": False}
    if speculation == "draft":
        options["speculation_model"] = str(llama_variants.make_draft(weights / "draft", model))
    if speculation == "eagle3":
        options["speculation_model"] = str(llama_variants.make_eagle3(weights / "eagle3", model))
    found = vllm.run(options=options)
    assert found["answers"] == plain["answers"]
    if speculation != "ngram":  # which guesses only where the text repeats itself
        assert found["drafted"] > 0


def test_a_draft_that_is_always_right_is_always_accepted(
    vllm: Forks, plain: Job, model: Path
) -> None:
    options = {"speculation": "draft", "speculation_model": str(model), "prefix_cache": False}
    found = vllm.run(options=options)
    assert found["answers"] == plain["answers"]
    assert found["accepted"] > 0.7 * found["drafted"] > 0


@pytest.mark.parametrize("kind", ["fp8", "fp8_e5m2", "int8_per_token_head"])
def test_a_smaller_kv_cache_answers(vllm: Forks, kind: str) -> None:
    vllm.run(options={"kv_cache_dtype": kind, "dtype": "bfloat16"})


def test_weights_made_fp8_while_loading_answer(vllm: Forks) -> None:
    options = {"quantization": "fp8_per_channel", "dtype": "bfloat16"}
    vllm.run(options=options, prompts=[prompt(1, 8)], tokens=2)  # seconds a prompt without AMX


@pytest.mark.parametrize("kind", ["int8", "awq", "gptq"])
def test_a_quantized_checkpoint_answers(vllm: Forks, weights: Path, model: Path, kind: str) -> None:
    made = llama_variants.make_quantized(weights / kind, model, kind)
    dtype = "bfloat16" if kind == "int8" else "float16"
    vllm.run(made, options={"dtype": dtype})


def test_an_adapter_answers_otherwise(vllm: Forks, plain: Job, weights: Path, model: Path) -> None:
    folder = llama_variants.make_lora(weights / "lora", model)
    options = {"lora": f"clinic={folder}", "lora_rank": 8, "prefix_cache": False}
    assert vllm.run(options=options)["answers"] == plain["answers"]
    adapted = vllm.run(options=options, adapter="clinic")
    assert all(
        one != other for one, other in zip(adapted["answers"], plain["answers"], strict=True)
    )


def test_one_process_reads_the_prompt_and_another_answers(
    vllm: Forks, plain: Job, tmp_path: Path
) -> None:
    options = {
        "kv_connector": "ExampleConnector",
        "kv_connector_settings": json.dumps({"shared_storage_path": str(tmp_path)}),
    }
    first = vllm.run(options=options | {"kv_role": "kv_producer"}, prompts=PROMPTS[:1], tokens=1)
    assert first["cached"] == [0]
    assert any(tmp_path.rglob("*.safetensors"))
    second = vllm.run(options=options | {"kv_role": "kv_consumer"}, prompts=PROMPTS[:1])
    assert second["cached"] == [128]
    assert second["answers"] == plain["answers"][:1]


async def answers(model: Path, options: VllmOptions) -> None:
    """Load the model in processes of its own and let it answer a streamed prompt."""
    mind = Vllm(str(model), options)
    await mind.start()
    try:
        thread = mind.open([Message("user", "hello")], [])
        thread.append("you")
        await asyncio.sleep(0.2)
        *_, usage = [piece async for piece in thread.generate(Params(max_tokens=8), 0.0)]
        assert isinstance(usage, Usage)
        assert usage.completion == 8
    finally:
        await mind.stop()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tensor_parallel", "data_parallel"])
async def test_two_processes_share_a_model(model: Path, kind: str) -> None:
    small: Job = {"dtype": "float32", "max_model_len": 1024, "kv_cache_gib": 0.125}
    await answers(model, VllmOptions(**small, **{kind: 2}))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cuda_graphs": "off"},
        {"cuda_graphs": "full_and_piecewise"},
        {"quantization": "fp8"},
        {"quantization": "fp8_per_channel"},
        {"kv_cache_dtype": "fp8"},
        {"kv_offload_gib": 1.0},
        {"speculation": "ngram"},
    ],
    ids=str,
)
async def test_a_gpu_answers(model: Path, options: Job) -> None:
    await answers(model, VllmOptions(max_model_len=1024, gpu_memory_utilization=0.3, **options))

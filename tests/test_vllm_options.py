import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from llm.vllm import priority
from llm.vllm_options import VllmOptions, engine_args, environment
from llm.vllm_techniques import TECHNIQUES, Facts, machine, supported

H100 = Facts(vllm="0.32.0", gpus=1, capability=(9, 0), cores=16)
LAPTOP = Facts(vllm="0.32.0+cpu", cores=8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dtype": "int4"}, r"vllm\.dtype is 'int4'; expected one of auto, bfloat16"),
        ({"max_model_len": 8}, r"vllm\.max_model_len is 8; expected 64 to"),
        ({"max_num_seqs": 0}, r"vllm\.max_num_seqs is 0; expected 2 to 4096"),
        ({"gpu_memory_utilization": 1.5}, r"gpu_memory_utilization is 1\.5; expected 0\.001 to"),
        ({"block_size": 24}, r"block_size is 24; expected one of 0, 16, 32"),
        ({"kv_cache_dtype": "fp4"}, r"kv_cache_dtype is 'fp4'; expected one of auto, fp8"),
        ({"quantization": "int3"}, r"quantization is 'int3'; expected one of \"\", fp8"),
        ({"speculation": "draft"}, r"speculation is 'draft' .* expected a model with 'draft'"),
        ({"speculation_model": "x"}, r"speculation is '' .* expected a model with 'draft'"),
        ({"speculation_tokens": 17}, r"speculation_tokens is 17; expected 1 to 16"),
        ({"tensor_parallel": 0}, r"tensor_parallel is 0; expected 1 to 64"),
        ({"kv_role": "both"}, r"kv_role is 'both'; expected one of kv_both"),
        ({"kv_connector_settings": "[1]"}, r"expected a JSON object such as"),
        ({"kv_connector_settings": "{"}, r"expected a JSON object such as"),
        ({"lora": "clinic"}, r"lora is 'clinic'; expected name=folder,name=folder"),
        ({"lora": "a=x,a=y"}, r"expected name=folder,name=folder"),
        ({"lora": "a=x", "lora_default": "b"}, r"lora_default is 'b'; expected one of .*\(a\)"),
        ({"lora_default": "b"}, r"expected one of vllm\.lora \(none given\)"),
        ({"lora_rank": 7}, r"lora_rank is 7; expected one of 8, 16"),
        ({"chunked_prefill": False}, r"expected at least vllm\.max_model_len \(8192\)"),
    ],
)
def test_an_option_out_of_range_says_what_was_expected(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VllmOptions(**given)


def test_options_are_plain_so_that_a_settings_file_can_give_them() -> None:
    assert {entry.type for entry in fields(VllmOptions)} <= {bool, int, float, str}
    for entry in fields(VllmOptions):
        assert f"{entry.name}: " in (VllmOptions.__doc__ or ""), entry.name


def test_requests_go_by_deadline_and_json_is_compact_whatever_is_asked_for() -> None:
    args = engine_args("model", VllmOptions(), "cuda")
    assert args["scheduling_policy"] == "priority"
    assert args["structured_outputs_config"]["disable_any_whitespace"]
    assert args["enable_prefix_caching"]
    assert args["block_size"] == 16


def test_a_cpu_has_small_blocks_no_graphs_and_a_bounded_cache() -> None:
    args = engine_args("model", VllmOptions(cuda_graphs="full"), "cpu")
    assert args["block_size"] == 32
    assert args["enforce_eager"]
    assert args["kv_cache_memory_bytes"] == 2**30
    assert "gpu_memory_utilization" not in args
    assert "compilation_config" not in args


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cuda_graphs": "off"}, {"enforce_eager": True}),
        ({"cuda_graphs": "piecewise"}, {"compilation_config": {"cudagraph_mode": "PIECEWISE"}}),
        ({"quantization": "fp8"}, {"quantization": "fp8"}),
        ({"quantization": "int8"}, {"quantization": "int8_per_channel_weight_only"}),
        ({"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "fp8"}),
        ({"kv_cache_gib": 2.5}, {"kv_cache_memory_bytes": 2_684_354_560}),
        ({"prefix_cache": False}, {"enable_prefix_caching": False}),
        (
            {"speculation": "ngram", "speculation_tokens": 5},
            {
                "speculative_config": {
                    "method": "ngram",
                    "num_speculative_tokens": 5,
                    "prompt_lookup_max": 4,
                    "prompt_lookup_min": 2,
                }
            },
        ),
        (
            {"speculation": "draft", "speculation_model": "small"},
            {
                "speculative_config": {
                    "method": "draft_model",
                    "num_speculative_tokens": 4,
                    "model": "small",
                }
            },
        ),
        (
            {"speculation": "eagle3", "speculation_model": "head", "speculation_tokens": 3},
            {
                "speculative_config": {
                    "method": "eagle3",
                    "num_speculative_tokens": 3,
                    "model": "head",
                }
            },
        ),
        (
            {"kv_offload_gib": 8.0},
            {"kv_offloading_size": 8.0, "kv_offloading_backend": "native"},
        ),
        (
            {"kv_connector": "NixlConnector", "kv_role": "kv_producer"},
            {
                "kv_transfer_config": {
                    "kv_connector": "NixlConnector",
                    "kv_role": "kv_producer",
                    "kv_connector_extra_config": {},
                    "kv_load_failure_policy": "recompute",
                }
            },
        ),
        (
            {"tensor_parallel": 2, "pipeline_parallel": 3, "data_parallel": 4},
            {"tensor_parallel_size": 2, "pipeline_parallel_size": 3, "data_parallel_size": 4},
        ),
        ({"expert_parallel": True}, {"enable_expert_parallel": True}),
        (
            {"lora": "clinic=a, bank=b", "lora_rank": 32},
            {"enable_lora": True, "max_loras": 2, "max_cpu_loras": 2, "max_lora_rank": 32},
        ),
        (
            {"chunked_prefill": False, "max_num_batched_tokens": 8192},
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 8192},
        ),
    ],
)
def test_every_option_becomes_what_vllm_calls_it(
    options: dict[str, Any], expected: dict[str, Any]
) -> None:
    plain = engine_args("model", VllmOptions(), "cuda")
    args = engine_args("model", VllmOptions(**options), "cuda")
    assert {key: value for key, value in args.items() if plain.get(key) != value} == expected
    json.dumps(args)


def test_processes_on_a_cpu_share_its_cores_and_one_alone_is_not_pinned() -> None:
    alone = environment(VllmOptions(), [0, 1, 2, 3])
    assert alone["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    two = environment(VllmOptions(tensor_parallel=2), [4, 5, 6, 7])
    assert two["VLLM_CPU_OMP_THREADS_BIND"] == "4,5|6,7"
    assert alone["VLLM_NO_USAGE_STATS"] == "1"


def test_an_earlier_deadline_is_a_lower_priority_number() -> None:
    final, speculation = 812_345.678, 812_345.978
    assert priority(final) < priority(speculation) < priority(float("inf"))
    assert priority(float("-inf")) < priority(0.0) == 0
    assert abs(priority(float("inf"))) < 2**63


def names(facts: Facts) -> set[str]:
    return {technique.name for technique in TECHNIQUES if supported(technique, facts)[0]}


def test_every_technique_is_one_that_some_machine_can_run_and_says_why_another_cannot() -> None:
    eight = Facts(
        vllm="0.32.0",
        gpus=8,
        capability=(9, 0),
        packages=frozenset({"nixl", "lmcache", "mooncake"}),
    )
    assert names(eight) == {technique.name for technique in TECHNIQUES}
    for technique in TECHNIQUES:
        can, why = supported(technique, LAPTOP)
        assert can != bool(why)


def test_what_a_cpu_can_run() -> None:
    assert {technique.name for technique in TECHNIQUES} - names(LAPTOP) == {
        "CUDA graphs",
        "weights fp8",
        "weights fp8, a scale a block",
        "weights mxfp8",
        "KV offload to main memory",
        "KV offload by LMCache",
        "pipeline parallel",
        "expert parallel",
    }


def test_what_one_gpu_cannot_run() -> None:
    assert {technique.name for technique in TECHNIQUES} - names(H100) == {
        "KV offload by LMCache",
        "tensor parallel",
        "pipeline parallel",
        "data parallel",
        "expert parallel",
    }


def test_a_reason_names_what_is_missing() -> None:
    assert supported(VllmOptions(tensor_parallel=4), H100) == (
        False,
        "tensor parallelism over 4 needs as many; there are 1 GPU(s)",
    )
    volta = Facts(vllm="0.32.0", gpus=1, capability=(7, 0))
    _, why = supported(VllmOptions(kv_cache_dtype="fp8"), volta)
    assert why == "an fp8 KV cache needs compute capability 8.0; this GPU has 7.0"
    _, why = supported(VllmOptions(kv_connector="NixlConnector"), H100)
    assert why == "NixlConnector needs the package nixl"
    _, why = supported(VllmOptions(quantization="fp8", kv_offload_gib=1), LAPTOP)
    assert why.count("needs an NVIDIA GPU") == 2
    assert supported(VllmOptions(), Facts())[1].startswith("vLLM is not installed: pip install")
    assert "older than 0.26" in supported(VllmOptions(), Facts(vllm="0.19.1"))[1]


def test_a_machine_is_looked_at_without_importing_anything_heavy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "nvidia-smi"
    told.write_text("#!/bin/sh\necho 9.0\necho 8.9\n")
    told.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    found = machine()
    assert (found.gpus, found.capability) == (2, (8, 9))
    assert found.cores >= 1
    told.write_text("#!/bin/sh\necho No devices were found\n")
    assert (machine().gpus, machine().capability) == (0, (0, 0))
    assert not {"torch", "vllm"} & sys.modules.keys()


def test_each_technique_is_switched_on_by_the_settings_that_it_names() -> None:
    for technique in TECHNIQUES:
        given: dict[str, Any] = {}
        for setting in technique.settings.split():
            name, _, text = setting.removeprefix("vllm.").partition("=")
            kind = {entry.name: entry.type for entry in fields(VllmOptions)}[name]
            assert isinstance(kind, type)
            given[name] = text == "true" if kind is bool else kind(text)
        if technique.name == "CUDA graphs":
            given = {"cuda_graphs": "full"}  # "auto" is already so
        assert technique.chosen(VllmOptions(**given)), technique.name


def test_the_manual_has_every_option_and_every_technique() -> None:
    manual = (Path(__file__).parent.parent / "docs" / "vllm.md").read_text()
    for entry in fields(VllmOptions):
        assert entry.name in manual, entry.name
    for technique in TECHNIQUES:
        assert technique.name in manual, technique.name


def test_only_the_window_of_words_may_change_while_calls_go_on() -> None:
    assert VllmOptions().adjusted("vllm.gather", 0) == VllmOptions(gather=0.0)
    with pytest.raises(ValueError, match=r"vllm\.gather is 1\.5; expected 0\.0 to 1\.0"):
        VllmOptions().adjusted("vllm.gather", 1.5)
    with pytest.raises(ValueError, match=r"vllm\.max_num_seqs cannot change while calls go on"):
        VllmOptions().adjusted("vllm.max_num_seqs", 8)

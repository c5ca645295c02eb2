import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from voice import device_facts, memory, needs, planning, weights
from voice.memory import Plan, plan
from voice.needs import Device, Llm, Load, Voice, Whisper, kv_bytes
from voice.settings import Settings, load
from voice.weights import Table, Tensor

GIB = 2**30

CARD = Device("card", 80 * GIB, 79 * GIB, cuda=True)


def whisper(dim: int, encoders: int, decoders: int, vocabulary: int, mels: int) -> Table:
    """Return the weights of a Whisper in CTranslate2 format, in 16 bits."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (dim, mels, 3),
        "encoder/conv2/weight": (dim, dim, 3),
        "encoder/position_encodings/encodings": (1500, dim),
        "decoder/embeddings/weight": (vocabulary, dim),
        "decoder/position_encodings/encodings": (448, dim),
    }
    for room, layers in (("encoder", encoders), ("decoder", decoders)):
        for layer in range(layers):
            name = f"{room}/layer_{layer}"
            shapes[f"{name}/self_attention/linear_0/weight"] = (3 * dim, dim)
            shapes[f"{name}/self_attention/linear_1/weight"] = (dim, dim)
            shapes[f"{name}/ffn/linear_0/weight"] = (4 * dim, dim)
            shapes[f"{name}/ffn/linear_1/weight"] = (dim, 4 * dim)
            if room == "decoder":
                shapes[f"{name}/attention/linear_0/weight"] = (dim, dim)
                shapes[f"{name}/attention/linear_1/weight"] = (2 * dim, dim)
                shapes[f"{name}/attention/linear_2/weight"] = (dim, dim)
    return {name: Tensor(2, shape) for name, shape in shapes.items()}


TURBO = whisper(1280, 32, 4, 51866, 128)

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def llama(config: Mapping[str, int]) -> Table:
    """Return the weights of a Llama in 16 bits."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "lm_head.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        for part, shape in {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }.items():
            shapes[f"{name}.{part}.weight"] = shape
    return {name: Tensor(2, shape) for name, shape in shapes.items()}


EIGHT_B = Llm(name="llama", config=LLAMA_8B, table=llama(LLAMA_8B))
EARS = Whisper(name="turbo", config={}, table=TURBO)
MOUTH = Voice(name="vits", config={}, table={"decoder": Tensor(4, (83_000_000,))})
WHOLE = Load(calls=64, asr=EARS, llm=EIGHT_B, tts=MOUTH)


def part(made: Plan, who: str, what: str) -> int:
    return sum(need.size for need in made.needs if (need.who, need.what) == (who, what))


@pytest.mark.parametrize(
    ("table", "compute", "published"),
    [
        (whisper(1280, 32, 32, 51866, 128), "float16", 4521),
        (TURBO, "float16", 2537),
        (whisper(1280, 32, 2, 51866, 128), "float16", 2409),
        (whisper(1280, 32, 32, 51866, 128), "int8", 2953),
        (TURBO, "int8", 1545),
        (whisper(1280, 32, 2, 51866, 128), "int8", 1481),
    ],
)
def test_whisper_on_a_gpu_is_as_others_measured(table: Table, compute: str, published: int) -> None:
    """faster-whisper issue 1030: large-v3, turbo and distil, beam 5, on an RTX 2080 Ti, in MB."""
    ears = Whisper(name="", config={}, table=table, compute=compute, batch=1, beam=5)
    made = plan(Load(calls=1, asr=ears), CARD)
    assert 1.0 <= made.least / (published * 1e6) <= 1.2


def test_an_8_b_llama_is_reckoned() -> None:
    made = plan(Load(calls=64, llm=EIGHT_B), CARD)
    assert part(made, "llm", "weights") == pytest.approx(16.06e9, rel=1e-3)
    assert kv_bytes(EIGHT_B) == 131_072
    assert made.kv_least == 64 * 2048 * 131_072
    assert made.kv > made.kv_least
    assert made.kv_tokens == made.kv // 131_072
    made.check()


def test_vllm_gets_what_the_others_leave() -> None:
    made = plan(WHOLE, CARD)
    others = sum(need.size for need in made.needs if need.who != "llm")
    own = sum(need.size for need in made.needs if need.who == "llm") + made.kv
    counted = own - needs.CONTEXT  # vLLM looks at what is free once its context is there
    assert others + own <= memory.usable(CARD)
    assert own - 16 * 131_072 < memory.usable(CARD) - others <= own + 16 * 131_072
    assert made.utilization == pytest.approx(counted / CARD.total, abs=1e-3)
    assert made.utilization <= counted / CARD.total


def test_two_cards_hold_half_each() -> None:
    half = Llm(name="llama", config=LLAMA_8B, table=EIGHT_B.table, parts=2)
    made = plan(Load(calls=64, llm=half), CARD)
    assert part(made, "llm", "weights") == pytest.approx(8.03e9, rel=1e-3)
    assert kv_bytes(half) == 65_536


def test_half_the_bits_are_half_the_linear_weights() -> None:
    eight = Llm(
        name="llama", config=LLAMA_8B, table=EIGHT_B.table, quantization="fp8", kv_dtype="fp8"
    )
    made = plan(Load(calls=1, llm=eight), CARD)
    linear = 32 * (2 * 4096**2 + 2 * 1024 * 4096 + 3 * 4096 * 14336)
    assert (
        part(made, "llm", "weights")
        == part(plan(Load(calls=1, llm=EIGHT_B), CARD), "llm", "weights") - linear
    )
    assert kv_bytes(eight) == 65_536


def test_no_batch_is_larger_than_there_are_calls() -> None:
    two = plan(Load(calls=2, asr=EARS, tts=MOUTH), CARD)
    many = plan(Load(calls=64, asr=EARS, tts=MOUTH), CARD)
    assert part(many, "asr", "encoder") == 8 * part(two, "asr", "encoder")
    assert part(many, "tts", "decoder") == 8 * part(two, "tts", "decoder")


def test_ears_and_mouth_share_a_process() -> None:
    both = plan(Load(calls=2, asr=EARS, tts=MOUTH), CARD)
    alone = plan(Load(calls=2, tts=MOUTH), CARD)
    assert part(alone, "tts", "process") - part(both, "tts", "process") == needs.CONTEXT


def test_what_cannot_fit_is_refused_with_what_would_help() -> None:
    small = Device("NVIDIA L4", 24 * GIB, 23 * GIB, cuda=True)
    made = plan(WHOLE, small)
    with pytest.raises(
        ValueError, match=r"the models need .* GB, and NVIDIA L4 has .* too few"
    ) as told:
        made.check()
    text = str(told.value)
    assert "--vllm.quantization fp8 saves 6.98 GB" in text
    assert "--vllm.kv_cache_dtype fp8 saves 8.59 GB" in text
    assert "max_calls 32 saves 8.59 GB" in text
    assert "--whisper.compute int8" in text
    assert made.kv == 0


def test_every_remedy_saves_what_it_says() -> None:
    small = Device("card", 24 * GIB, 23 * GIB, cuda=True)
    before = plan(WHOLE, small).least
    after = plan(Load(calls=32, asr=EARS, llm=EIGHT_B, tts=MOUTH), small).least
    assert f"max_calls 32 saves {memory.gb(before - after)}" in plan(WHOLE, small).remedies


@hypothesis_settings(deadline=None)
@given(
    calls=st.integers(1, 500),
    total=st.integers(8, 200),
    used=st.floats(0, 0.9),
    context=st.integers(64, 32768),
)
def test_a_plan_never_gives_more_than_there_is(
    calls: int, total: int, used: float, context: int
) -> None:
    device = Device("card", total * GIB, int(total * GIB * (1 - used)), cuda=True)
    mind = Llm(name="llama", config=LLAMA_8B, table=EIGHT_B.table, context=context)
    made = plan(Load(calls=calls, asr=EARS, llm=mind, tts=MOUTH), device)
    given_away = sum(need.size for need in made.needs) + made.kv
    fits = made.short == 0
    assert fits == (made.least <= memory.usable(device))
    if fits:
        assert given_away <= device.free - 0.0199 * device.total  # some is left
        assert given_away <= memory.usable(device)
        assert made.kv >= made.kv_least - 16 * 131_072
        made.check()
    else:
        with pytest.raises(ValueError, match="too few"):
            made.check()


def test_a_kv_cache_that_the_user_wants_is_what_vllm_gets() -> None:
    mind = Llm(name="llama", config=LLAMA_8B, table=EIGHT_B.table, kv_gib=20)
    made = plan(Load(calls=1, llm=mind), CARD)
    assert made.kv == 20 * GIB
    too_much = Llm(name="llama", config=LLAMA_8B, table=EIGHT_B.table, kv_gib=70)
    assert plan(Load(calls=1, llm=too_much), CARD).short


def test_on_a_cpu_the_kv_cache_is_what_the_calls_need() -> None:
    main = Device("main memory", 64 * GIB, 60 * GIB, cuda=False)
    made = plan(Load(calls=4, llm=EIGHT_B), main)
    assert made.kv == made.kv_least == 8192 * 131_072
    assert part(made, "media", "process")
    assert not part(made, "llm", "CUDA graphs")


def test_a_checkpoint_in_few_bits_counts_as_it_is() -> None:
    table = {"model.layers.0.mlp.up_proj.qweight": Tensor(4, (512, 4096))}
    packed = Llm(name="awq", config=LLAMA_8B | {"quantization_config": {}}, table=table)
    made = plan(Load(calls=1, llm=packed), CARD)
    assert part(made, "llm", "weights") == 4 * 512 * 4096
    assert not any("quantization" in remedy for remedy in made.remedies)


def test_the_rows_add_up() -> None:
    made = plan(WHOLE, CARD)
    shown = memory.rows(made)
    assert shown[-1][:2] == ("all", "planned")
    assert {row[0] for row in shown} == {"asr", "llm", "tts", "all"}


# What a file holds


def safetensors(entries: Mapping[str, Any], data: bytes) -> bytes:
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


ENTRIES = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [12, 16]},
}


def ctranslate(names: Mapping[str, tuple[int, ...]]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    made = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(names))
    for name, shape in names.items():
        count = 1
        for axis in shape:
            count *= axis
        made += text(name) + struct.pack(f"<B{len(shape)}I", len(shape), *shape)
        made += struct.pack("<BI", 4, 2 * count) + bytes(2 * count)
    return made + struct.pack("<I", 1) + text("alias") + text("a")


def pickled(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return the pickle of a checkpoint as torch writes it, with an optimiser and an object."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    class FloatStorage:
        pass

    def _rebuild_tensor_v2(*given: object) -> None:
        raise AssertionError("is never run")

    for thing, place in ((FloatStorage, torch), (_rebuild_tensor_v2, utils)):
        thing.__module__, thing.__qualname__ = place.__name__, thing.__name__
        setattr(place, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Stored:
        pass

    class Weight:
        def __init__(self, *shape: int) -> None:
            self.shape = shape

        def __reduce__(self) -> Any:
            return _rebuild_tensor_v2, (Stored(), 0, self.shape, (1,), False, None)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> Any:
            if isinstance(thing, Stored):
                return ("storage", FloatStorage, "0", "cpu", 12)
            return None

    class Danger:
        def __reduce__(self) -> Any:
            return sys.exit, ("a pickle was run",)

    made = io.BytesIO()
    content = {
        "config": Danger(),
        "model": {"text_encoder.emb.weight": Weight(3, 4)},
        "optimizer": {"state": {0: {"exp_avg": Weight(3, 4)}}},
    }
    Pickler(made, protocol=2).dump(content)
    return made.getvalue()


def test_tables_are_read_without_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(ENTRIES, bytes(16)))
    assert weights.of_folder(tmp_path) == {"a": Tensor(2, (2, 3)), "b": Tensor(1, (4,))}
    (tmp_path / "model.bin").write_bytes(ctranslate({"a": (2, 3), "b": ()}))
    assert weights.of_folder(tmp_path) == {"a": Tensor(2, (2, 3)), "b": Tensor(2, ())}
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as opened:
        opened.writestr("model/data.pkl", pickled(monkeypatch))
    assert weights.table(tmp_path / "model.pth") == {"text_encoder.emb.weight": Tensor(4, (3, 4))}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", safetensors(ENTRIES, bytes(16))),
        ("model.bin", ctranslate({"a": (20, 30), "b": (7,)})),
    ],
)
def test_a_file_cut_off_anywhere_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    for end in range(0, len(content), 7):
        (tmp_path / name).write_bytes(content[:end])
        with pytest.raises(ValueError, match=f"{name} is cut off or damaged"):
            weights.table(tmp_path / name)


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="there are no weights in"):
        weights.of_folder(tmp_path)


# What the machine has

SMI = """NVIDIA H100 80GB HBM3, 81559, 80994, 9.0
NVIDIA A100, with a comma, 40960, 100, 8.0
Tesla, [N/A], [N/A], [N/A]
"""


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\ncat <<'E'\n{SMI}E\n")
    command.chmod(0o755)
    first, second = device_facts.gpus(str(command))
    assert (first.name, first.total, first.capability) == (
        "NVIDIA H100 80GB HBM3",
        81559 * 2**20,
        (9, 0),
    )
    assert second.name == "NVIDIA A100, with a comma"
    assert device_facts.card(second) == Device(second.name, 40960 * 2**20, 100 * 2**20, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert device_facts.gpus(str(command)) == [second]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device_facts.gpus(str(command)) == []


def test_no_driver_is_no_gpu(tmp_path: Path) -> None:
    assert device_facts.gpus(str(tmp_path / "nvidia-smi")) == []
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'no devices were found'; exit 6\n")
    command.chmod(0o755)
    assert device_facts.gpus(str(command)) == []


def test_a_containers_limit_is_the_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 65536 kB\nMemFree: 1 kB\nMemAvailable: 32768 kB\n")
    made = device_facts.main_memory(meminfo, tmp_path)
    assert (made.total, made.free) == (2**26, 2**25)
    (tmp_path / "memory.max").write_text("max\n")
    assert device_facts.main_memory(meminfo, tmp_path).total == 2**26
    (tmp_path / "memory.max").write_text(f"{2**24}\n")
    (tmp_path / "memory.current").write_text(f"{2**23}\n")
    made = device_facts.main_memory(meminfo, tmp_path)
    assert (made.total, made.free) == (2**24, 2**23)
    stat = f"anon 7\nfile {2**22}\ninactive_file {2**20}\nactive_file {2**21}\n"
    (tmp_path / "memory.stat").write_text(stat)  # a model that was just fetched is in the cache
    made = device_facts.main_memory(meminfo, tmp_path)
    assert made.free == 2**23 + 2**20 + 2**21


def test_a_wheel_built_for_cuda_is_found_by_its_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("builtforcuda", b"\x7fELF..libtorch_cuda.so"), ("plain", b"\x7fELF")):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("raise ImportError")
        (tmp_path / name / "lib/it.so").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert device_facts.built_for_cuda("builtforcuda") == [tmp_path / "builtforcuda/lib"]
    assert device_facts.built_for_cuda("plain") == []
    assert device_facts.built_for_cuda("notthere") == []


# From settings to a plan


def test_the_default_profile_needs_no_plan() -> None:
    assert planning.of_machine(Settings()) == []


def test_a_plan_is_made_of_the_models_that_the_settings_name(tmp_path: Path) -> None:
    ears, mind = tmp_path / "ears", tmp_path / "mind"
    for folder in (ears, mind):
        folder.mkdir()
    (ears / "config.json").write_text("{}")
    (ears / "model.bin").write_bytes(ctranslate({"decoder/embeddings/weight": (100, 64)}))
    (mind / "config.json").write_text(json.dumps(LLAMA_8B))
    (mind / "model.safetensors").write_bytes(safetensors(ENTRIES, bytes(16)))
    chosen = Settings(asr=f"whisper:{ears}", llm=f"ctranslate:{mind}", max_calls=3)
    main = Device("main memory", 64 * GIB, 60 * GIB, cuda=False)
    [made] = planning.plans(chosen, [], main)
    assert {need.who for need in made.needs} == {"asr", "llm", "media"}
    gpu = device_facts.Gpu("card", 80 * GIB, 79 * GIB, (9, 0))
    on_card, on_main = planning.plans(chosen, [gpu], main)
    assert {need.who for need in on_card.needs} == {"asr"}
    assert {need.who for need in on_main.needs} == {"llm", "media"}
    (ears / "model.bin").write_bytes(b"\6")
    with pytest.raises(ValueError, match=r"model\.bin is cut off or damaged"):
        planning.plans(chosen, [], main)


@pytest.mark.skipif(not hasattr(Settings(), "vllm"), reason="settings of vLLM are not there yet")
def test_vllm_is_told_its_share_unless_the_user_says_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    (tmp_path / "model.safetensors").write_bytes(safetensors(ENTRIES, bytes(16)))
    gpu = device_facts.Gpu("card", 80 * GIB, 79 * GIB, (9, 0))
    main = Device("main memory", 64 * GIB, 60 * GIB, cuda=False)
    chosen: Any = Settings(llm=f"vllm:{tmp_path}", max_calls=4)
    monkeypatch.setattr(device_facts, "installed", lambda *names: "0.32.0")
    made = planning.plans(chosen, [gpu], main)
    told: Any = planning.applied(chosen, made)
    assert told.vllm.gpu_memory_utilization == made[0].utilization > 0.9
    assert told.vllm.kv_cache_gib == 0
    own = load(None, {"VOICE_VLLM_GPU_MEMORY_UTILIZATION": "0.3"}, {}).settings
    kept: Any = planning.applied(own, made)
    assert kept.vllm.gpu_memory_utilization == 0.3
    small = replace(chosen, vllm=replace(chosen.vllm, kv_cache_gib=1.0))
    made = planning.plans(small, [gpu], main)
    told = planning.applied(small, made)  # the weights of these files are a few bytes
    assert told.vllm.gpu_memory_utilization == made[0].utilization < 0.05
    monkeypatch.setattr(device_facts, "installed", lambda *names: "")
    on_cpu: Any = planning.applied(chosen, planning.plans(chosen, [], main))
    assert on_cpu.vllm.kv_cache_gib == 8192 * 131_072 / GIB

"""From the settings to a plan of the memory, and the plan as a table."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from voice import device_facts, memory, models, weights
from voice.memory import Plan
from voice.needs import Device, Llm, Load, Voice, Whisper, text_config
from voice.settings import Settings


def plans(settings: Settings, cards: list[device_facts.Gpu], main: Device) -> list[Plan]:
    """Plan the memory of the first card, if there is one, and of this machine.

    [] where nothing is to be planned: the engines of the profile `embedded` are small.

    Raises:
        ValueError: If a model is not here, or not whole; the message names the remedy.
    """
    made = []
    on_card = _load(settings, bool(cards), wanted=True) if cards else None
    on_main = _load(settings, bool(cards), wanted=False)
    for load, device in (
        (on_card, device_facts.card(cards[0]) if cards else main),
        (on_main, main),
    ):
        if load and (load.asr or load.llm or load.tts):
            made.append(memory.plan(load, device))
    return made


def of_machine(settings: Settings, cards: list[device_facts.Gpu] | None = None) -> list[Plan]:
    """Plan the memory of this very machine, as `plans`."""
    if not any(model_of(name) for name in (settings.asr, settings.llm, settings.tts)):
        return []
    found = device_facts.gpus() if cards is None else cards
    return plans(settings, found, device_facts.main_memory())


def applied(settings: Settings, made: list[Plan]) -> Settings:
    """Return the settings with vLLM's share of the memory as planned, unless the user set it."""
    options: Any = getattr(settings, "vllm", None)
    for plan in made:
        if options is None or not plan.kv:
            continue
        if not plan.device.cuda and not options.kv_cache_gib:
            options = replace(options, kv_cache_gib=plan.kv / 2**30)
        standard = type(options)().gpu_memory_utilization
        if plan.device.cuda and options.gpu_memory_utilization == standard:
            options = replace(options, gpu_memory_utilization=plan.utilization)
    changed: dict[str, Any] = {} if options is None else {"vllm": options}
    return replace(settings, **changed)


def show(console: Console, made: list[Plan]) -> None:
    """Print plans as tables."""
    for plan in made:
        free, total = memory.gb(plan.device.free), memory.gb(plan.device.total)
        title = f"{plan.device.name}: {free} free of {total}"
        table = Table("", "", "bytes", "", title=escape(title), box=None, title_justify="left")
        table.columns[2].justify = "right"
        for row in memory.rows(plan):
            table.add_row(*map(escape, row), style="bold" if row[0] == "all" else None)
        console.print(table, highlight=False)


def model_of(setting: str) -> str:
    """Return the model that a setting such as "whisper:small" names, "" if it needs no plan."""
    kind, _, name = setting.partition(":")
    return name if kind in ("whisper", "vllm", "ctranslate", "coqui") else ""


def _load(settings: Settings, card: bool, *, wanted: bool) -> Load | None:
    """Return what runs on the card (`wanted`) or on the CPU."""
    asr = llm = tts = None
    options: dict[str, Any] = {
        name: getattr(settings, name, None) for name in ("whisper", "vllm", "coqui")
    }
    data = Path(settings.data)
    if (name := model_of(settings.asr)) and _on_card(options["whisper"], card) is wanted:
        asr = _filled(Whisper, options["whisper"], _facts(name, data), seconds=_window(options))
    if name := model_of(settings.llm):
        vllm = settings.llm.startswith("vllm:")
        if (vllm and card and bool(device_facts.installed("vllm"))) is wanted:
            llm = _mind(name, data, options["vllm"] if vllm else None, vllm, wanted)
    if name := model_of(settings.tts):
        usable = card and device_facts.torch_has_cuda()
        if _on_card(options["coqui"], usable) is wanted:
            tts = _filled(Voice, options["coqui"], _facts(name, data))
    return Load(calls=settings.max_calls, asr=asr, llm=llm, tts=tts)


def _mind(name: str, data: Path, options: Any, vllm: bool, card: bool) -> Llm:
    facts = _facts(name, data)
    kwargs: dict[str, Any] = {}
    longest = text_config(facts["config"]).get("max_position_embeddings") or 8192
    if options is not None:
        kwargs = {
            "quantization": options.quantization,
            "kv_dtype": options.kv_cache_dtype,
            "sequences": options.max_num_seqs,
            "step": options.max_num_batched_tokens,
            "block": options.block_size or (16 if card else 32),
            "eager": options.cuda_graphs == "off",
            "parts": options.tensor_parallel * options.pipeline_parallel if card else 1,
            "kv_gib": options.kv_cache_gib,
        }
    context = min(longest, options.max_model_len if options is not None else longest)
    return Llm(server="vllm" if vllm else "ctranslate", context=context, **facts, **kwargs)


def _filled(kind: Any, options: Any, facts: Mapping[str, Any], **more: Any) -> Any:
    """Make a `kind` of the facts, and of those options that it knows by the same name."""
    known = {entry.name for entry in fields(kind)}
    shared = {
        entry.name: getattr(options, entry.name)
        for entry in (fields(options) if options is not None else ())
        if entry.name in known
    }
    return kind(**(shared | dict(facts) | more))


def _window(options: Mapping[str, Any]) -> float:
    """Return the longest sound that Whisper reads at once, in seconds."""
    whisper = options["whisper"]
    if whisper is None or whisper.window == "full":
        return 30.0
    return min(30.0, float(whisper.cut) * 2 + float(whisper.padding))


def _on_card(options: Any, card: bool) -> bool:
    device = getattr(options, "device", "auto")
    return card and not str(device).startswith("cpu")


def _facts(name: str, data: Path) -> dict[str, Any]:
    """Return a model's name, config.json and weights."""
    folder = models.folder(name, data)
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        config = {}
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is damaged: {error}") from error
    return {"name": name, "config": config, "table": weights.of_folder(folder)}

"""What the engines will need of a card's memory, or a machine's, reckoned before anything loads.

Pure: what is to run goes in (`voice.needs` sums it up), a `Plan` comes out: every part with the sum
behind it, what vLLM may take, and what to change where it cannot fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from voice.needs import CONTEXT, MIB, TOKENS, Device, Load, Need, kv_bytes, needs

MARGIN = 0.02
"""Part of the memory that is never planned."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a device's memory will be used.

    Attributes:
        device: The device.
        needs: Every part but the KV cache of vLLM.
        kv: Bytes of that cache; 0 without vLLM.
        kv_tokens: Tokens that fit in it.
        kv_least: Bytes it must have at least for the calls.
        utilization: What `vllm.gpu_memory_utilization` must be, 0 to 1. vLLM looks at what is free
            once its CUDA context is there, so that is not part of it.
        remedies: What can be changed and what each saves, the least loss first.
    """

    device: Device
    needs: tuple[Need, ...]
    kv: int
    kv_tokens: int
    kv_least: int
    utilization: float
    remedies: tuple[str, ...]

    @property
    def least(self) -> int:
        """Bytes without which the engines cannot start."""
        return sum(need.size for need in self.needs) + self.kv_least

    @property
    def short(self) -> int:
        """Bytes too few, 0 if it fits."""
        return max(0, self.least - usable(self.device))

    def check(self) -> None:
        """Raise ValueError, with what to change, if it cannot fit."""
        if self.short:
            raise ValueError(
                f"the models need {gb(self.least)}, and {self.device.name} has "
                f"{gb(usable(self.device))} to give of {gb(self.device.total)}: "
                f"{gb(self.short)} too few. Change one: {'; '.join(self.remedies)}"
            )


def plan(load: Load, device: Device) -> Plan:
    """Reckon what `load` needs of `device`."""
    parts = tuple(needs(load, device))
    least = _least(load)
    kv = tokens = 0
    utilization = 0.0
    if load.llm and least:
        token = kv_bytes(load.llm)
        left = usable(device) - sum(part.size for part in parts)
        asked = int(load.llm.kv_gib * 2**30)
        given = asked or (left if device.cuda else least)
        kv = max(min(given, left), 0) // (load.llm.block * token) * load.llm.block * token
        tokens = kv // token
        own = sum(part.size for part in parts if part.who == "llm") + kv - CONTEXT
        utilization = math.floor(1000 * min(max(own, 0) / device.total, 0.98)) / 1000
    made = Plan(device, parts, kv, tokens, least, utilization, ())
    return replace(made, remedies=tuple(_remedies(load, device, made)))


def usable(device: Device) -> int:
    """Return the bytes that may be planned."""
    return int(device.free - MARGIN * device.total)


def gb(size: float) -> str:
    """Return bytes for people."""
    return f"{size / 1e9:.2f} GB" if size < 9.95e9 else f"{size / 1e9:.1f} GB"


def _remedies(load: Load, device: Device, made: Plan) -> list[str]:
    """Return what can be changed, with what it saves: the least loss first."""
    found: list[tuple[str, int]] = []

    def offer(what: str, changed: Load) -> None:
        other = sum(need.size for need in needs(changed, device)) + _least(changed)
        if made.least - other > 50 * MIB:
            found.append((what, made.least - other))

    if (mind := load.llm) and mind.server == "vllm":
        if not mind.quantization and "quantization_config" not in mind.config and device.cuda:
            offer("--vllm.quantization fp8", replace(load, llm=replace(mind, quantization="fp8")))
        if mind.kv_dtype == "auto":
            offer("--vllm.kv_cache_dtype fp8", replace(load, llm=replace(mind, kv_dtype="fp8")))
        if mind.context > 4096:
            offer("--vllm.max_model_len 4096", replace(load, llm=replace(mind, context=4096)))
    if load.asr and load.asr.compute != "int8":
        offer("--whisper.compute int8", replace(load, asr=replace(load.asr, compute="int8")))
    if load.asr and load.asr.batch > 4:
        offer("--whisper.batch 4", replace(load, asr=replace(load.asr, batch=4)))
    if load.tts and load.tts.batch > 4:
        offer("--coqui.batch 4", replace(load, tts=replace(load.tts, batch=4)))
    if load.calls > 1:
        fewer = max(load.calls // 2, 1)
        offer(f"max_calls {fewer}", replace(load, calls=fewer))
    shown = [f"{what} saves {gb(saved)}" for what, saved in found]
    return [*shown, "a smaller model" + (" for --asr or --llm" if load.asr and load.llm else "")]


def _least(load: Load) -> int:
    """Return the KV cache that the calls, and one of the longest, need; 0 without vLLM."""
    if not load.llm or load.llm.server != "vllm":
        return 0
    wanted = max(load.llm.context, load.calls * min(load.llm.context, TOKENS))
    size = math.ceil(wanted / load.llm.block) * load.llm.block * kv_bytes(load.llm)
    return max(size, int(load.llm.kv_gib * 2**30))


def rows(made: Plan) -> Sequence[tuple[str, str, str, str]]:
    """Return the plan as a table: who, what, size, why; sums last."""
    shown = [(need.who, need.what, gb(need.size), need.why) for need in made.needs]
    if made.kv or made.kv_least:
        why = f"{made.kv_tokens:,} tokens; the calls need {gb(made.kv_least)}"
        shown.append(("llm", "KV cache", gb(made.kv), why))
    used = sum(need.size for need in made.needs) + made.kv
    shown.append(("all", "planned", gb(used), f"of {gb(usable(made.device))} that may be used"))
    return shown

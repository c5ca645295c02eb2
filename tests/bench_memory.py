"""How right the memory plan is: an engine runs at its full batch, and its memory is compared.

    python -m tests.bench_memory whisper FOLDER --batch 4
    python -m tests.bench_memory coqui FOLDER
    python -m tests.bench_memory ctranslate FOLDER
    python -m tests.bench_memory vllm FOLDER

Prints one JSON line, in MB: resident memory with the libraries imported, with the model loaded,
and at its peak (vLLM: its processes together, at rest); what was planned; planned over measured.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

Measured = tuple[Any, int, int, Any]
"""The engine, bytes with its libraries imported and with the model loaded, and its options."""

SENTENCE = "We are open from eight in the morning until half past five, and closed on Sundays."


def resident(field: str = "VmRSS", process: str = "self") -> int:
    """Return a figure of a process's memory, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def proportional(process: object) -> int:
    """Return a process's memory in bytes, what it shares counted by its part."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def children(process: int) -> list[int]:
    """Return all processes that a process started, and those that they did."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


async def whisper(folder: Path, batch: int) -> Measured:
    import ctranslate2  # noqa: F401
    import faster_whisper  # noqa: F401

    from asr.engine import Listening
    from asr.whisper import Whisper
    from asr.whisper_options import WhisperOptions

    options = WhisperOptions(batch=batch, interval=0, threads=1, window="full")
    imported = resident()
    engine = Whisper(str(folder), options)
    await engine.start()
    loaded = resident()
    noise = np.random.default_rng(0).normal(0, 0.1, 8 * 16_000).astype(np.float32)
    streams = [engine.open(Listening()) for _ in range(2 * batch)]
    for stream in streams:
        stream.push(noise)
    await asyncio.gather(*(stream.finish(time.monotonic()) for stream in streams))
    return engine, imported, loaded, options


async def coqui(folder: Path, batch: int) -> Measured:
    from tts.coqui_load import import_tts

    import_tts()
    import TTS.tts.models.vits  # noqa: F401

    from tts.coqui import Coqui
    from tts.coqui_options import CoquiOptions

    options = CoquiOptions(batch=batch, threads=1)
    imported = resident()
    engine = Coqui(str(folder), options)
    await engine.start()
    loaded = resident()

    async def phrase() -> AsyncIterator[str]:
        yield SENTENCE

    async def speak() -> None:
        async for _ in engine.speak(phrase(), "", time.monotonic()):
            pass

    await asyncio.gather(*(speak() for _ in range(batch)))
    return engine, imported, loaded, options


async def ctranslate(folder: Path, batch: int) -> Measured:
    import ctranslate2  # noqa: F401
    import tokenizers  # noqa: F401

    from llm.ctranslate import CTranslate

    script = "import sys; from pathlib import Path; from llm.convert import converted;"
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script + "converted(Path(sys.argv[1]))", str(folder)
    )
    assert await done.wait() == 0  # in a process of its own: converting takes memory, too
    imported = resident()
    engine = CTranslate(folder)
    await engine.start()
    loaded = resident()
    for _ in range(2):
        await think(engine, batch)  # as many beginnings of prompts, each used twice
    await think(engine, 1, length=78)  # about 2000 tokens
    return engine, imported, loaded, None


async def vllm(folder: Path, batch: int) -> Measured:
    from llm.vllm import Vllm
    from llm.vllm_options import VllmOptions

    options = VllmOptions(max_model_len=2048, kv_cache_gib=0.25, max_num_seqs=max(batch, 2))
    engine = Vllm(str(folder), options)
    imported = resident()
    await engine.start()
    await think(engine, batch)
    return engine, imported, resident(), options


async def think(engine: Any, batch: int, length: int = 28) -> None:
    """Answer `batch` prompts, each of `length` sentences of some 26 tokens."""
    from llm.engine import Message, Params

    async def answer(number: int) -> None:
        items = [Message("system", f"{number} {SENTENCE} " * length), Message("user", SENTENCE)]
        thread = engine.open(items, ())
        async for _ in thread.generate(Params(max_tokens=40), time.monotonic()):
            pass
        thread.close()

    await asyncio.gather(*(answer(number) for number in range(batch)))


async def measure(kind: str, folder: Path, batch: int) -> None:
    """Measure, then plan: what planning imports must not count."""
    engine, imported, loaded, options = await ENGINES[kind](folder, batch)
    resting, peak = resident(), resident("VmHWM")
    if kind == "vllm":  # its processes share what they have read of the libraries
        resting = peak = sum(proportional(process) for process in ("self", *children(os.getpid())))
    await engine.stop()

    from voice import planning
    from voice.needs import Device
    from voice.settings import Settings

    room, group = {"whisper": ("asr", "whisper"), "coqui": ("tts", "coqui")}.get(
        kind, ("llm", "vllm")
    )
    chosen = {room: f"{kind}:{folder}", "max_calls": batch}
    settings = Settings(**chosen | ({group: options} if options is not None else {}))
    [plan] = planning.plans(settings, [], Device("main memory", 2**40, 2**40, cuda=False))
    needs = {need.what: need.size for need in plan.needs if need.who != "media"}
    planned = sum(needs.values()) + plan.kv
    figures = {"imported": imported, "loaded": loaded, "resting": resting, "peak": peak}
    figures |= {"planned": planned, **needs, "KV cache": plan.kv}
    line = {"engine": kind, "model": folder.name, "batch": batch}
    line |= {name: round(size / 1e6) for name, size in figures.items()}
    print(json.dumps(line | {"planned/peak": round(planned / peak, 2)}), flush=True)


ENGINES = {"whisper": whisper, "coqui": coqui, "ctranslate": ctranslate, "vllm": vllm}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=ENGINES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    asyncio.run(measure(given.kind, given.folder, given.batch))

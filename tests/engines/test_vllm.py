"""vLLM with a random Llama: what streams, what is aborted, who goes first, what is refused.

One engine serves the whole file; its death is the last test.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("vllm")

from demos.weights import llama, llama_variants
from llm.engine import EngineError, Item, Message, Params, Text, ToolCall, ToolSpec
from llm.vllm import Thread, Vllm
from llm.vllm_options import VllmOptions

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

TOOLS = [ToolSpec("book", "Book a day.", {"type": "object", "properties": {}})]
WORDS = [
    "tuesday",
    "morning",
    "would",
    "suit",
    "me",
    "best",
    "but",
    "any",
    "day",
    "that",
    "week",
    "is",
    "fine",
    "if",
    "you",
    "have",
    "one",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SIDETONE_WEIGHTS") or tmp_path_factory.mktemp("weights"))
    return llama.make(folder / "llama-small", "small")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mind(model: Path) -> AsyncIterator[Vllm]:
    a, b = (
        llama_variants.make_lora(model.with_name(f"lora-{name}"), model, seed)
        for seed, name in enumerate("ab", 5)
    )
    options = VllmOptions(
        dtype="float32",
        max_model_len=4096,
        max_num_seqs=4,
        kv_cache_gib=0.25,
        lora=f"a={a},b={b}",
    )
    engine = Vllm(str(model), options)
    await engine.start()
    yield engine
    await engine.stop()


def conversation(seed: int, tokens: int = 60) -> list[Item]:
    """A conversation that no other seed begins like."""
    rng = random.Random(seed)
    orders = " ".join(rng.choice(WORDS) for _ in range(tokens))
    return [Message("system", orders), Message("assistant", "Hello, which day?")]


async def pieces(thread: Thread, params: Params, deadline: float = 0.0) -> list[Any]:
    try:
        return [piece async for piece in thread.generate(params, deadline)]
    finally:
        thread.close()


def text(found: list[Any]) -> str:
    return "".join(piece.text for piece in found if isinstance(piece, Text))


async def at_once(mind: Vllm, items: list[Item], words: str, params: Params) -> list[Any]:
    """The answer to a prompt that nothing is known of beforehand."""
    assert mind._loaded
    assert await mind._loaded.llm.reset_prefix_cache()
    return await pieces(mind.open([*items, Message("user", words)], TOOLS), params)


async def caught_up(thread: Thread) -> None:
    """Wait until the model has read what was said, as it has long before a caller is done."""
    await asyncio.sleep(0.03)
    while thread._reading and thread._reading.unread:
        await asyncio.sleep(0.005)


async def quiet(mind: Vllm) -> None:
    """Wait until the engine has done what it was given, then let it tell how full it is."""
    await asyncio.sleep(0.05)
    await pieces(mind.open([Message("user", "hello")], []), Params(max_tokens=1))
    await asyncio.sleep(0.02)


async def test_a_prompt_that_is_read_while_it_is_spoken_is_answered_as_one_read_at_once(
    mind: Vllm,
) -> None:
    rng = random.Random(1)
    for seed in range(6):
        items, thread = conversation(seed), mind.open(conversation(seed), TOOLS)
        said: list[str] = []
        for _ in range(5):
            said.append(" ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4))))
            thread.append(said[-1])
            await asyncio.sleep(rng.choice([0, 0.03]))  # read, or still being read
        params = Params(max_tokens=24)
        streamed = await pieces(thread, params)
        expected = await at_once(mind, items, " ".join(said), params)
        assert text(streamed) == text(expected) != ""
        assert streamed[-1].prompt == expected[-1].prompt
        assert streamed[-1].completion == expected[-1].completion
        assert expected[-1].cached == 0
        assert streamed[-1].cached > 0.9 * expected[-1].prompt - 10


async def test_the_first_token_comes_sooner_the_more_was_read_before(mind: Vllm) -> None:
    params, once, streamed = Params(max_tokens=1), [], []
    for seed in range(100, 107):
        items, words = conversation(seed, 250), " ".join(WORDS)
        began = time.perf_counter()
        found = await at_once(mind, items, words, params)
        once.append(time.perf_counter() - began)
        assert 400 <= found[-1].prompt <= 700  # the tokenizer is trained on docs/, which change

        assert mind._loaded
        assert await mind._loaded.llm.reset_prefix_cache()
        thread = mind.open(items, TOOLS)
        for word in WORDS[:-1]:
            thread.append(word)
            await caught_up(thread)
        began = time.perf_counter()
        thread.append(WORDS[-1])
        assert (await pieces(thread, params))[-1].prompt == found[-1].prompt
        streamed.append(time.perf_counter() - began)
    print(f"\nTTFT at once {median(once):.4f} s, streamed {median(streamed):.4f} s")
    assert median(streamed) <= 0.3 * median(once)


async def test_closing_ends_the_answer_at_once_and_frees_its_blocks(mind: Vllm) -> None:
    params = Params(max_tokens=300)
    began = time.perf_counter()
    await pieces(mind.open(conversation(1), TOOLS), params)
    whole = time.perf_counter() - began
    ends = []
    for seed in range(200, 205):
        thread = mind.open(conversation(seed), TOOLS)
        generation = thread.generate(Params(max_tokens=2000), 0.0)
        for _ in range(5):
            await anext(generation)
        assert mind.load.kv_usage > 0
        began = time.perf_counter()
        thread.close()
        assert [piece async for piece in generation] == []
        ends.append(time.perf_counter() - began)
        await quiet(mind)
        assert (mind.load.kv_usage, mind.load.waiting) == (0.0, 0)
    print(f"\n300 tokens {whole:.3f} s, ended {median(ends) * 1000:.2f} ms after close()")
    assert median(ends) < whole / 50


async def test_closing_the_generator_or_cancelling_its_task_frees_the_blocks_too(
    mind: Vllm,
) -> None:
    thread = mind.open(conversation(1), TOOLS)
    async with aclosing(thread.generate(Params(max_tokens=2000), 0.0)) as generation:
        await anext(generation)
    await quiet(mind)
    assert mind.load.kv_usage == 0.0

    task = asyncio.create_task(pieces(mind.open(conversation(2), TOOLS), Params(max_tokens=2000)))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await quiet(mind)
    assert mind.load.kv_usage == 0.0


async def test_a_prompt_that_is_never_answered_is_given_up(mind: Vllm) -> None:
    thread = mind.open(conversation(3), TOOLS)
    thread.append("I would")
    await asyncio.sleep(0.1)
    await quiet(mind)
    assert mind.load.kv_usage > 0  # held while the caller speaks
    thread.close()
    thread.append("like")
    await quiet(mind)
    assert mind.load.kv_usage == 0.0
    assert await pieces(thread, Params()) == []


async def test_words_are_gathered_for_as_long_as_was_said_last(mind: Vllm) -> None:
    assert mind.adjustable == ("vllm.gather",)
    mind.adjust("vllm.gather", 0.5)
    thread = mind.open(conversation(31), TOOLS)
    try:
        thread.append("I would")
        await asyncio.sleep(0.1)
        assert thread._reading is None
        async with asyncio.timeout(20):
            while thread._reading is None:
                await asyncio.sleep(0.02)
    finally:
        thread.close()
        mind.adjust("vllm.gather", 0.01)
    with pytest.raises(ValueError, match=r"vllm\.gather is 2\.0; expected 0\.0 to 1\.0"):
        mind.adjust("vllm.gather", 2)
    with pytest.raises(ValueError, match=r"cannot change vllm\.max_num_seqs while it runs"):
        mind.adjust("vllm.max_num_seqs", 8)


async def test_speaking_callers_leave_room_for_answers(mind: Vllm) -> None:
    threads = [mind.open(conversation(seed), TOOLS) for seed in range(300, 305)]
    for thread in threads:
        thread.append("on tuesday")
    await asyncio.sleep(0.1)
    reading = [thread for thread in threads if thread._reading]
    assert len(reading) == 2  # half of max_num_seqs
    answers = [text(await pieces(thread, Params(max_tokens=8))) for thread in threads]
    for seed, answer in zip(range(300, 305), answers, strict=True):
        found = await at_once(mind, conversation(seed), "on tuesday", Params(max_tokens=8))
        assert answer == text(found)


async def test_callers_who_speak_at_length_leave_room_for_answers(mind: Vllm) -> None:
    loaded = mind._loaded
    assert loaded
    mind._loaded = replace(loaded, capacity=800)
    try:
        threads = [mind.open(conversation(seed), TOOLS) for seed in (310, 311)]
        for words in ("well", "on tuesday " * 100):  # there is room for both when they begin
            for thread in threads:
                thread.append(words)
            await asyncio.sleep(0.1)
        reading = [thread._reading for thread in threads if thread._reading]
        assert sum(len(work.sent) for work in reading) <= 400
        answers = [text(await pieces(thread, Params(max_tokens=8))) for thread in threads]
    finally:
        mind._loaded = loaded
    for seed, answer in zip((310, 311), answers, strict=True):
        said = f"well {'on tuesday ' * 100}".strip()
        assert answer == text(await at_once(mind, conversation(seed), said, Params(max_tokens=8)))


async def test_the_earliest_deadline_goes_first(mind: Vllm) -> None:
    long = [mind.open(conversation(seed), TOOLS) for seed in range(400, 404)]
    running = [thread.generate(Params(max_tokens=3000), 0.0) for thread in long]
    for generation in running:
        await anext(generation)
    order: list[float] = []

    async def ask(deadline: float) -> None:
        await pieces(mind.open(conversation(int(deadline)), TOOLS), Params(max_tokens=1), deadline)
        order.append(deadline)

    tasks = [asyncio.create_task(ask(deadline)) for deadline in (503.0, 501.5, 504.0, 501.0)]
    await asyncio.sleep(0.3)
    assert order == []
    long[0].close()
    await asyncio.gather(*tasks)
    assert order == sorted(order)
    for thread, generation in zip(long, running, strict=True):
        thread.close()
        await generation.aclose()


async def test_an_answer_may_have_to_fit_a_schema(mind: Vllm) -> None:
    schema = {
        "type": "object",
        "properties": {
            "day": {"enum": ["monday", "tuesday"]},
            "sure": {"type": "boolean"},
        },
        "required": ["day", "sure"],
        "additionalProperties": False,
    }
    thread = mind.open(conversation(5), TOOLS)
    thread.append("on tuesday")  # a streamed prompt cannot be held to a schema: it is dropped
    await asyncio.sleep(0.1)
    assert thread._reading
    found = await pieces(thread, Params(schema=schema, max_tokens=64))
    answer = text(found)
    assert set(json.loads(answer)) == {"day", "sure"}
    assert "\n" not in answer
    assert json.loads(answer)["day"] in ("monday", "tuesday")
    choice = await pieces(mind.open(conversation(6), []), Params(schema={"enum": ["yes", "no"]}))
    assert json.loads(text(choice)) in ("yes", "no")
    await quiet(mind)
    assert mind.load.kv_usage == 0.0


@pytest.mark.parametrize("temperature", [-1.0, 2.5, float("nan")])
async def test_a_temperature_that_is_none_is_an_error_of_the_answer(
    mind: Vllm, temperature: float
) -> None:
    thread = mind.open(conversation(312), TOOLS)
    thread.append("hello")
    await asyncio.sleep(0.05)
    with pytest.raises(EngineError, match="temperature"):
        await pieces(thread, Params(temperature=temperature))


async def test_an_adapter_changes_the_answer_and_only_the_one_that_asks_for_it(
    mind: Vllm,
) -> None:
    items = [*conversation(7), Message("user", "on tuesday")]
    found = {}
    for adapter in ("", "a", "b", ""):
        answer = text(await pieces(mind.open(items, []), Params(max_tokens=12, adapter=adapter)))
        assert found.setdefault(adapter, answer) == answer
    assert len(set(found.values())) == 3
    thread = mind.open(conversation(7), [])
    thread.append("on tuesday")  # read by the model itself
    await asyncio.sleep(0.1)
    assert thread._reading
    assert text(await pieces(thread, Params(max_tokens=12, adapter="a"))) == found["a"]
    thread = mind.open(items, [])
    thread.append("at ten")
    await asyncio.sleep(0.1)
    with pytest.raises(EngineError, match="has no adapter 'c'; it has a, b"):
        await pieces(thread, Params(adapter="c"))
    await quiet(mind)
    assert mind.load.kv_usage == 0.0


async def test_a_second_turn_finds_the_first_in_the_prefix_cache(mind: Vllm) -> None:
    items = [*conversation(8, 300), Message("user", "on tuesday")]
    first = await pieces(mind.open(items, TOOLS), Params(max_tokens=8))
    items += [Message("assistant", "When?"), Message("user", "at ten")]
    second = await pieces(mind.open(items, TOOLS), Params(max_tokens=8))
    assert second[-1].cached >= first[-1].prompt - 32  # whole blocks


async def test_a_temperature_makes_answers_differ(mind: Vllm) -> None:
    items, params = conversation(9), Params(max_tokens=12, temperature=1.5)
    answers = {text(await pieces(mind.open(items, []), params)) for _ in range(3)}
    assert len(answers) > 1


@pytest.mark.slow
async def test_ten_thousand_characters_are_written(mind: Vllm) -> None:
    written = 0
    thread = mind.open(conversation(10), [])
    async with aclosing(thread.generate(Params(max_tokens=3900), 0.0)) as generation:
        async for piece in generation:
            written += len(piece.text) if isinstance(piece, Text) else 0
            if written >= 10_000:
                break
    assert written >= 10_000


async def test_what_is_too_long_is_refused_and_other_calls_go_on(mind: Vllm) -> None:
    other = asyncio.create_task(pieces(mind.open(conversation(11), []), Params(max_tokens=100)))
    said = Message("user", "why oh why " * 1500)
    with pytest.raises(EngineError, match=r"has \d+ tokens, expected at most 3072; shorten"):
        await pieces(mind.open([said], []), Params())
    thread = mind.open(conversation(12), [])
    thread.append("well")
    thread.append(said.text)
    with pytest.raises(EngineError, match="expected at most 3072"):
        await pieces(thread, Params())
    assert (await other)[-1].completion == 100
    await quiet(mind)
    assert mind.load.kv_usage == 0.0


def changed(model: Path, into: Path, changes: dict[str, Any]) -> Path:
    """A copy of a model whose config.json says something else."""
    for file in model.iterdir():
        (into / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text()) | changes
    (into / "config.json").unlink()
    (into / "config.json").write_text(json.dumps(config))
    return into


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["NoSuchModel"]}, r"vLLM cannot load .*NoSuchModel"),
        ({"num_attention_heads": 5}, r"vLLM cannot load "),
    ],
)
async def test_a_model_that_vllm_does_not_know_is_an_error_that_says_so(
    model: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        await Vllm(str(changed(model, tmp_path, changes))).start()


async def test_a_model_too_big_for_the_memory_is_refused_before_it_loads(model: Path) -> None:
    with pytest.raises(EngineError, match=r"does not fit: 0\.1 GiB of weights and 9999\.0 GiB"):
        await Vllm(str(model), VllmOptions(kv_cache_gib=9999)).start()


async def test_a_technique_that_the_machine_lacks_is_refused_before_it_loads(model: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot load .* as asked: pipeline parallelism"):
        await Vllm(str(model), VllmOptions(pipeline_parallel=64)).start()


async def test_an_engine_that_does_not_run_says_so(model: Path) -> None:
    idle = Vllm(str(model))
    thread = idle.open([Message("user", "hello")], [])
    thread.append("you")
    with pytest.raises(EngineError, match=r"await start\(\) first"):
        await pieces(thread, Params())


async def test_calls_are_told_when_the_engine_dies(mind: Vllm) -> None:
    assert not mind.failed.is_set()
    speaking = mind.open(conversation(13), TOOLS)
    speaking.append("I would")
    generation = mind.open(conversation(14), TOOLS).generate(Params(max_tokens=3000), 0.0)
    await anext(generation)
    assert mind._loaded
    for process in mind._loaded.llm.engine_core.resources.engine_manager.processes:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"has died.*start the engine again"):
        async for piece in generation:
            assert isinstance(piece, Text | ToolCall)
    async with asyncio.timeout(10):
        assert "has died" in await mind.wait_failed()
    with pytest.raises(EngineError, match="has died"):
        await pieces(speaking, Params())
    with pytest.raises(EngineError, match="has died"):
        await pieces(mind.open(conversation(15), TOOLS), Params())

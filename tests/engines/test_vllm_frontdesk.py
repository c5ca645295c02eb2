"""The front-desk model's own safetensors answer alike on vLLM, CTranslate2 and transformers."""

import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("vllm")

from demos.frontdesk import examples, language
from demos.frontdesk.call import SPECS
from demos.frontdesk.evaluate import MODEL, ask, before
from llm import ctranslate
from llm.convert import converted
from llm.ctranslate import CTranslate
from llm.engine import Item, Message, Params, ToolCall
from llm.hermes import Hermes
from llm.tokens import Tokens
from llm.vllm import Vllm
from llm.vllm_options import VllmOptions

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

COUNT = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mind() -> AsyncIterator[Vllm]:
    engine = Vllm(str(MODEL), VllmOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=8))
    await engine.start()
    yield engine
    await engine.stop()


def dialogues() -> list[list[Item]]:
    """Conversations as they come up in calls, each waiting for an answer."""
    rng, found = random.Random(5), []
    for _ in range(COUNT):
        moment = examples.some_moment(rng)
        said = language.draw(moment.ask, rng, held_out=True)
        found.append([*before(moment), Message("user", said.text)])
    return found


def plain(pieces: list[Any]) -> list[Any]:
    """What was answered: the words, and the calls without their ids."""
    words = "".join(getattr(piece, "text", "") for piece in pieces)
    calls = [(call.name, dict(call.arguments)) for call in pieces if isinstance(call, ToolCall)]
    return [words, *calls]


async def answer(mind: Any, items: list[Item]) -> list[Any]:
    thread = mind.open(items, SPECS)
    return plain([piece async for piece in thread.generate(Params(max_tokens=96), 0.0)])


async def test_vllm_answers_as_ctranslate_does(
    mind: Vllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctranslate, "converted", partial(converted, quantization="float32"))
    other = CTranslate(MODEL, cache=tmp_path)
    await other.start()
    called = 0
    for items in dialogues():
        found = await answer(mind, items)
        assert found == await answer(other, items)
        called += len(found) > 1
    assert called > COUNT // 3
    await other.stop()


async def test_vllm_answers_as_the_shipped_eight_bits_do(mind: Vllm, tmp_path: Path) -> None:
    other = CTranslate(MODEL, cache=tmp_path)
    await other.start()
    differ = [i for i in dialogues() if await answer(mind, i) != await answer(other, i)]
    await other.stop()
    assert len(differ) <= COUNT // 20  # rounding decides where the model itself is in doubt


async def test_vllm_answers_as_transformers_does(mind: Vllm) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokens = Tokens(MODEL)
    for items in dialogues():
        prompt = torch.tensor([tokens.prompt(items, SPECS, 384)])
        with torch.inference_mode():
            made = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=96,
                eos_token_id=sorted(tokens.ends),
            )
        text, hermes = tokens.detokenizer(), Hermes(lambda: "id")
        pieces: list[Any] = []
        for token in made[0, prompt.shape[1] :].tolist():
            if token not in tokens.ends:
                pieces += hermes.push(text.push(token))
        assert plain([*pieces, *hermes.finish()]) == await answer(mind, items)


async def test_words_read_as_they_come_are_answered_alike(mind: Vllm) -> None:
    for items in dialogues():
        *earlier, last = items
        assert isinstance(last, Message)
        thread = mind.open(earlier, SPECS)
        for word in last.text.split():
            thread.append(word)
        streamed = [piece async for piece in thread.generate(Params(max_tokens=96), 0.0)]
        thread.close()
        assert plain(streamed) == await answer(mind, items)


async def test_the_front_desk_is_asked_as_elsewhere(mind: Vllm) -> None:
    """The demo's own way to ask works: a booking is understood and becomes a tool call."""
    found = await ask(mind, [Message("user", "I'd like to book an appointment please")])
    assert found.tool

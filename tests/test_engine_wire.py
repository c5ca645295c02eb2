import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asr.engine
import tts.engine
from asr.engine import Hypothesis, Listening
from llm.engine import Message, Params, Text, ToolCall, ToolResult, ToolSpec, Usage
from voice.engine_host import built
from voice.engine_wire import (
    HEAD,
    Kind,
    Make,
    Messages,
    chunk,
    from_raw,
    hypothesis,
    made,
    pack,
    plan,
    tagged,
    to_raw,
    untagged,
)

finite = st.floats(allow_nan=False)
texts = st.text(max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(texts, json_values, max_size=4)
numbers = st.integers(0, 2**64 - 1)


def across(value: Any, raw: bytes = b"") -> tuple[Any, bytearray]:
    """Return what arrives of a message."""
    [(_, _, arrived, samples)] = Messages().feed(pack(Kind.ITEM, 7, value, raw))
    return arrived, samples


@given(
    st.lists(
        st.tuples(st.sampled_from(Kind), numbers, json_values, st.binary(max_size=99)), max_size=5
    ),
    st.integers(1, 50),
)
def test_messages_survive_any_cutting(sent: list[tuple[Kind, int, Any, bytes]], size: int) -> None:
    wire = b"".join(pack(*message) for message in sent)
    messages = Messages()
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    assert [message for piece in pieces for message in messages.feed(piece)] == sent


def test_nonsense_on_the_wire_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes; expected"):
        list(Messages().feed(b"\xff" * HEAD.size))
    with pytest.raises(ValueError, match="is not a valid Kind"):
        list(Messages().feed(HEAD.pack(99, 0, 0, 0)))


words = st.builds(asr.engine.Word, texts, finite, finite, finite)


@given(st.builds(Hypothesis, st.lists(words, max_size=3).map(tuple), texts, finite, numbers))
def test_a_hypothesis_survives_the_wire(said: Hypothesis) -> None:
    assert hypothesis(across(said)[0]) == said


@given(st.builds(Listening, language=texts, expects=texts, call=texts))
def test_what_a_recogniser_may_know_survives_the_wire(said: Listening) -> None:
    assert made(Listening, across(said)[0]) == said


items = (
    st.builds(Message, st.sampled_from(("system", "user", "assistant")), texts)
    | st.builds(ToolCall, texts, texts, objects)
    | st.builds(ToolResult, texts, texts, objects)
    | st.builds(Text, texts)
    | st.builds(Usage, numbers, numbers, numbers)
)


@given(st.lists(items, max_size=5))
def test_items_and_pieces_survive_the_wire(said: list[Any]) -> None:
    assert [untagged(item) for item in across([tagged(item) for item in said])[0]] == said


@given(
    st.builds(ToolSpec, texts, texts, objects),
    st.builds(Params, max_tokens=numbers, temperature=finite),
)
def test_tools_and_parameters_survive_the_wire(tool: ToolSpec, params: Params) -> None:
    assert made(ToolSpec, across(tool)[0]) == tool
    assert made(Params, across(params)[0]) == params


@given(
    st.lists(st.floats(-1, 1, width=32), max_size=50),
    st.lists(st.builds(tts.engine.Word, texts, numbers, numbers), max_size=3),
)
def test_a_chunk_survives_the_wire_and_is_the_receivers(
    samples: list[float], said: list[tts.engine.Word]
) -> None:
    pcm = np.array(samples, np.float32)
    arrived = chunk(*across(said, to_raw(pcm)))
    assert arrived.words == tuple(said)
    assert np.array_equal(arrived.pcm, pcm)
    arrived.pcm[:] = 0  # nobody else has it


def test_samples_travel_as_they_are() -> None:
    odd = np.array([np.nan, np.inf, -2.0], np.float32)
    assert np.array_equal(from_raw(across(None, to_raw(odd))[1]), odd, equal_nan=True)
    backwards = np.arange(6, dtype=np.float64)[::-2]
    assert from_raw(across(None, to_raw(backwards))[1]).tolist() == [5.0, 3.0, 1.0]


def test_numbers_of_numpy_travel_as_numbers() -> None:
    said = Hypothesis(end=np.int64(5), confidence=np.float32(0.5))  # type: ignore[arg-type]
    assert hypothesis(across(said)[0]) == Hypothesis(end=5, confidence=0.5)


def test_what_no_message_can_hold_is_named() -> None:
    with pytest.raises(TypeError, match="Messages cannot go to another process"):
        pack(Kind.ITEM, 1, Messages())


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Like those of an engine."""

    beam: int = 1
    trim: bool = False


def test_what_is_to_be_made_is_made_on_the_other_side(tmp_path: Path) -> None:
    make = Make("builtins:dict", (), {"options": Options(beam=3), "where": tmp_path, "name": "x"})
    there = built(json.loads(json.dumps(plan(make))))
    assert there == {"options": Options(beam=3), "where": tmp_path, "name": "x"}
    assert built(plan(Make("fractions:Fraction", (1, Make("builtins:int", ("3",)))))) * 3 == 1
    assert built(plan(None)) is None

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.whisper_options import WhisperOptions
from latency.budget import STAGES
from latency.tuner import Knob
from llm.vllm_options import VllmOptions
from tts.coqui_options import CoquiOptions
from tts.phrases import PhraseSettings
from voice.knobs import EFFECTS, Knobs, pins
from voice.settings import Settings, TurnSettings

OPTIONS = ("whisper", "vllm", "coqui")


class Engine:
    """All engines in one, which takes what their options take."""

    adjustable = tuple(name for name in EFFECTS if name.split(".")[0] in OPTIONS)

    def __init__(self, settings: Settings) -> None:
        self.options = {name: getattr(settings, name) for name in OPTIONS}

    def adjust(self, name: str, value: float) -> None:
        group = name.split(".")[0]
        self.options[group] = self.options[group].adjusted(name, value)


def knobs(settings: Settings | None = None) -> tuple[Knobs, Engine]:
    settings = settings or Settings(admission=False)
    engine = Engine(settings)
    return Knobs(settings, [engine]), engine


def ladder(settings: Settings | None = None) -> dict[str, Knob]:
    return {knob.name: knob for knob in knobs(settings)[0].ladder()}


def test_without_engines_that_can_change_there_are_those_of_the_conversation() -> None:
    assert [knob.name for knob in Knobs(Settings()).ladder()] == [
        "turn.shortest_wait",
        "turn.longest_wait",
        "turn.speculation_lead",
        "turn.speculations",
        "phrases.first",
        "phrases.later",
    ]
    assert Knobs(Settings(admission=False)).ladder()[-1].name == "max_calls"


def test_every_knob_says_what_it_shortens_and_what_it_strains() -> None:
    for knob in ladder(Settings(whisper=WhisperOptions(window="full"))).values():
        assert set(knob.stages) <= set(STAGES)
        assert set(knob.guards) <= {"cut_ins", "underruns", "wasted", "misses"}
    assert ladder()["turn.longest_wait"].guards == ("cut_ins",)
    assert ladder()["phrases.first"].stages == ("first_phrase", "tts")


def test_a_ladder_goes_from_the_safest_to_the_fastest_through_what_is_configured() -> None:
    found = ladder()
    assert found["turn.longest_wait"].values == (3.0, 2.4, 1.88, 1.5, 1.2, 0.975, 0.75)
    assert found["turn.longest_wait"].start == 3
    assert found["turn.speculations"].values == (0, 1, 2, 4, 8)
    assert found["whisper.beam"].values == (2, 1)
    assert found["whisper.batch"].values == (16, 8, 4, 2)
    assert found["coqui.first"].values == (0.42, 0.3, 0.21, 0.15, 0.105)
    assert found["max_calls"].values == (32, 27, 22, 16, 11)
    assert "whisper.window" not in found  # a short one is the fastest


@pytest.mark.parametrize(
    ("calls", "values"),
    [(32, (32, 27, 22, 16, 11)), (20, (32, 17, 14, 10, 7)), (2, (32, 1)), (1, (32,)), (0, (32,))],
)
def test_calls_are_limited_from_those_that_go_on(calls: int, values: tuple[float, ...]) -> None:
    limited = Knobs(Settings(admission=False)).admitting(calls)
    assert (limited.values, limited.start) == (values, 0)


def test_waits_that_are_alike_move_together() -> None:
    fixed = Settings(turn=TurnSettings(shortest_wait=0.2, longest_wait=0.2))
    found = ladder(fixed)
    assert found["turn.wait"].values == (0.6, 0.44, 0.32, 0.25, 0.2, 0.16, 0.13, 0.1)
    assert not {"turn.shortest_wait", "turn.longest_wait"} & found.keys()
    moved, _ = knobs(fixed)
    moved.set("turn.wait", 0.16)
    assert moved.turn == TurnSettings(shortest_wait=0.16, longest_wait=0.16)


def test_what_is_set_is_there_and_what_an_engine_has_goes_to_it() -> None:
    changed, engine = knobs(Settings(whisper=WhisperOptions(window="full"), admission=False))
    before = changed.turn
    changed.set("turn.speculations", 2.0)
    changed.set("phrases.first", 12.0)
    changed.set("max_calls", 16.0)
    changed.set("whisper.interval", 0.25)
    changed.set("whisper.window", 1.0)
    changed.set("coqui.batch", 4.0)
    changed.set("vllm.gather", 0.04)
    assert changed.turn == replace(before, speculations=2)
    assert changed.phrases == PhraseSettings(first=12)
    assert changed.max_calls == 16
    assert engine.options == {
        "whisper": WhisperOptions(interval=0.25, window="short"),
        "coqui": CoquiOptions(batch=4),
        "vllm": VllmOptions(gather=0.04),
    }
    assert changed.values["phrases.first"] == 12


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("turn.idle", 3.0, r"no knob 'turn\.idle'; there are turn\.shortest_wait"),
        ("turn.longest_wait", 0.1, r"turn\.longest_wait is 0\.1 s; expected 0\.15 to 5\.0 s"),
        ("turn.speculations", 1.5, r"turn\.speculations is 1\.5; expected a whole number"),
        ("phrases.first", 300.0, r"phrases\.first is 300; expected 8 to phrases\.later"),
        ("max_calls", 33.0, r"max_calls is 33; expected 1 to 32"),
        ("coqui.first", 3.0, r"coqui\.first is 3\.0; expected 0\.05 to 2"),
    ],
)
def test_a_bad_value_changes_nothing(name: str, value: float, message: str) -> None:
    refused, engine = knobs(Settings(admission=False))
    before = dict(refused.values)
    with pytest.raises(ValueError, match=message):
        refused.set(name, value)
    assert refused.values == before
    assert refused.turn == TurnSettings()
    assert engine.options["coqui"] == CoquiOptions()


@st.composite
def configured(draw: st.DrawFn) -> Settings:
    """Any settings that are valid."""

    def number(low: float, high: float) -> float:
        return draw(st.floats(low, high))

    shortest = number(0.1, 3.0)
    first = draw(st.integers(8, 1000))
    chunk = number(0.05, 2.0)
    return Settings(
        admission=False,
        max_calls=draw(st.integers(1, 1000)),
        turn=TurnSettings(
            shortest_wait=shortest,
            longest_wait=number(shortest, 5.0),
            speculations=draw(st.integers(0, 20)),
            speculation_lead=number(0.05, 3.0),
        ),
        phrases=PhraseSettings(first=first, later=draw(st.integers(max(first, 40), 1000))),
        whisper=WhisperOptions(
            interval=draw(st.just(0.0) | st.floats(0.1, 5.0)),
            beam=draw(st.integers(1, 10)),
            batch=draw(st.integers(1, 256)),
            window=draw(st.sampled_from(["short", "full"])),
        ),
        vllm=VllmOptions(gather=number(0.0, 1.0)),
        coqui=CoquiOptions(
            first=chunk, longest=number(chunk, 10.0), batch=draw(st.integers(1, 256))
        ),
    )


@given(configured(), st.data())
def test_any_step_of_any_knob_is_valid_wherever_the_others_are(
    settings: Settings, data: st.DataObject
) -> None:
    moved, _ = knobs(settings)
    found = moved.ladder()
    for knob in found:
        assert moved.values[knob.name] == knob.values[knob.start]
        assert len(set(knob.values)) == len(knob.values) > 1
        rising = [one < other for one, other in pairwise(knob.values)]
        assert all(rising) or not any(rising)
    for _ in range(20):
        knob = data.draw(st.sampled_from(found))
        moved.set(knob.name, data.draw(st.sampled_from(knob.values)))
    for knob in found:
        moved.set(knob.name, knob.values[knob.start])
    assert (moved.turn, moved.phrases) == (settings.turn, settings.phrases)
    assert moved.max_calls == settings.max_calls


def test_pins_are_names_with_commas_between() -> None:
    assert pins("") == frozenset()
    assert pins(" max_calls, coqui.first,") == {"max_calls", "coqui.first"}
    waits = {"turn.wait", "turn.shortest_wait", "turn.longest_wait"}
    assert pins("turn.wait") == waits
    assert pins("turn.longest_wait") == waits - {"turn.shortest_wait"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "turn.longest_wate",
            r"pinned names 'turn\.longest_wate', .* did you mean turn\.longest_w",
        ),
        ("zzz", r"pinned names 'zzz', which the tuner does not move; known: turn\.wait, "),
    ],
)
def test_a_pin_that_is_no_knob_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pins(text)


def test_the_manual_has_every_knob() -> None:
    manual = (Path(__file__).parent.parent / "docs" / "knobs.md").read_text()
    for name in EFFECTS:
        assert f"| `{name}` |" in manual

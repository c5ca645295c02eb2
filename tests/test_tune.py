"""`voice tune` itself: what it may turn, what it refuses, and a small search with real calls."""

import tomllib
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from voice.bench_server import CORES
from voice.callers import Reply, Turn
from voice.knobs import EFFECTS
from voice.settings import Effective, load, names
from voice.tune import Wanted, tune
from voice.tune_ladders import JOINED, LADDERS, ladders, setting_values, validity
from voice.tune_load import _judged, always, measure
from voice.tune_load import load as load_of


def effective(**given: Any) -> Effective:
    return load(None, {}, {"profile": "bench", **given})


def test_every_value_on_a_ladder_is_one_that_the_setting_may_have() -> None:
    known = names()
    roomy = {"turn.longest_wait": 3.0, "turn.shortest_wait": 0.1}
    for name, values in LADDERS.items():
        settings = JOINED.get(name, (name,))
        if not set(settings) <= known.keys():
            continue  # it comes with other engines
        for value in values:
            given = dict.fromkeys(settings, value)
            read = load(None, {}, {**roomy, **given})
            assert all(read.sources[setting] == "flag" for setting in settings)


def test_a_configured_value_is_on_its_ladder_in_its_place() -> None:
    chosen = effective(**{"turn.shortest_wait": 0.25, "turn.longest_wait": 5.0})
    shortest, longest = ladders(chosen, ("turn.shortest_wait", "turn.longest_wait"))
    assert shortest.values == (0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15)
    assert shortest.values[shortest.start] == 0.25
    assert (longest.values[0], longest.start) == (5.0, 0)


def test_the_usual_knobs_are_those_that_turn_something() -> None:
    stubs = {ladder.name for ladder in ladders(effective())}
    assert "turn.longest_wait" in stubs
    assert not {name for name in stubs if name.startswith(("whisper", "coqui", "vllm", "asr_"))}
    real = {ladder.name for ladder in ladders(load(None, {}, {"profile": "cpu"}))}
    assert {"whisper.beam", "coqui.first", "device_slots"} <= real
    assert "asr_decoders" in {ladder.name for ladder in ladders(load(None, {}, {}))}


def test_a_knob_for_both_waits_sets_both() -> None:
    assert setting_values({"turn.wait": 0.3, "device_slots": 2}) == {
        "turn.shortest_wait": 0.3,
        "turn.longest_wait": 0.3,
        "device_slots": 2,
    }


def test_what_a_server_would_not_take_is_not_valid() -> None:
    knobs = {(0,): {"turn.shortest_wait": 0.2}, (1,): {"turn.shortest_wait": 0.3}}
    valid = validity(effective(), lambda point: knobs[point])  # type: ignore[index]
    assert valid((0,))
    assert not valid((1,))  # the longest wait is 0.2 s


def written(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def test_a_cut_in_is_one_fault_and_not_a_gap_in_the_reply_before() -> None:
    def turn(number: int, early: float | None = None, underruns: int = 0) -> Turn:
        reply = Reply(1.7, seconds=0.8, underruns=underruns)
        return Turn(number, 0.0, ended=1.0, reply=reply, early=early)

    turns = [turn(0, underruns=1), turn(1, underruns=1), turn(2, early=0.5), turn(3, underruns=1)]
    found = [kinds for _, kinds in _judged([*turns, turn(4)], 0.8)]
    assert found == [[], ["talked over"], ["gap"]]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"knobs": ("turn.longst_wait",)}, "did you mean turn.longest_wait?"),
        ({"knobs": ("port",)}, "--knobs names 'port', which cannot be tuned"),
        ({"knobs": ("whisper.beam",)}, "does nothing here: asr is bench, and it is for whisper"),
        ({"knobs": ("turn.wait", "turn.longest_wait")}, "both set turn.longest_wait"),
        ({"budget": 0.01}, "budget.total is 0.01 s"),
        ({"budget": 0.12}, "nothing can hold it"),
        ({"percentile": 101.0}, "budget.percentile is 101.0"),
        ({"calls": 0}, "--calls is 0"),
        ({"minutes": 0.0}, "--minutes is 0"),
        ({"out": Path("nowhere/tuned.toml")}, "nowhere is no directory"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_started(
    wanted: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        await tune(Wanted(flags={"profile": "bench"}, **wanted), Console(file=StringIO()))
    assert written(tmp_path) == []


async def test_what_the_search_begins_with_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "voice.toml"
    file.write_text('profile = "bench"\n')
    with pytest.raises(ValueError, match="which the search begins with"):
        await tune(Wanted(flags={"config": str(file)}, out=file), Console(file=StringIO()))


@pytest.mark.slow
async def test_a_server_that_cannot_start_is_told_with_what_to_do(tmp_path: Path) -> None:
    wanted = Wanted(
        flags={"profile": "bench", "agent": str(tmp_path / "nobody")},
        calls=1,
        out=tmp_path / "tuned.toml",
        report=tmp_path / "tune.html",
    )
    with pytest.raises(RuntimeError, match="Start it by hand: voice serve"):
        await tune(wanted, Console(file=StringIO()))
    assert written(tmp_path) == []


@pytest.mark.slow
async def test_callers_who_pause_find_out_a_wait_that_is_too_short() -> None:
    settings = effective().settings
    load = await load_of(settings, 2, budget=0.8, turns=3)
    assert [speech.seconds > 1 for speech in load.plan.speech] == [True] * 3
    cuts = []
    for wait in (0.2, 0.75):
        waits = {"turn.shortest_wait": wait, "turn.longest_wait": wait}
        outcome = await measure(load, {"profile": "bench", **always(2), **waits}, 2)
        assert not outcome.failed
        assert outcome.turns == 6
        assert outcome.cost > 0
        cuts.append(outcome.cut_ins)
    assert cuts[0] >= 2
    assert cuts[1] < cuts[0]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_small_search_with_real_calls_writes_both_files(tmp_path: Path) -> None:
    said = StringIO()
    wanted = Wanted(
        flags={"profile": "bench"},
        calls=2,
        budget=1.5,
        knobs=("turn.wait", "turn.speculations"),
        minutes=2.5,
        turns=3,
        out=tmp_path / "tuned.toml",
        report=tmp_path / "tune.html",
        command="voice tune --calls 2",
    )
    await tune(wanted, Console(file=said, width=200))
    file = tmp_path / "tuned.toml"
    read = load(file, {}, {}).settings
    assert read.profile == "bench"
    assert read.turn.shortest_wait == read.turn.longest_wait
    assert tomllib.loads(file.read_text())["turn"].keys() == {
        "shortest_wait",
        "longest_wait",
        "speculations",
    }
    page = (tmp_path / "tune.html").read_text()
    assert "<svg" in page
    assert f"{len(CORES)} × " in page
    assert "start" in said.getvalue()


def test_what_may_change_while_people_call_can_be_tuned_beforehand() -> None:
    assert EFFECTS.keys() - {"max_calls"} <= LADDERS.keys()

"""The shell of the loop, with the real tuner and a clock that the test moves."""

import json
from pathlib import Path
from typing import Any

import pytest

from voice import steering
from voice.knobs import Knobs
from voice.settings import BudgetSettings, Settings, TurnSettings
from voice.steering import EVERY, Steering

FIXED = TurnSettings(shortest_wait=0.4, longest_wait=0.4)


class Conversation:
    """Turns of one call, one every second, on a clock of its own."""

    def __init__(self, data: Path, **settings: Any) -> None:
        self.now = 1000.0
        self.told: list[Any] = []
        self.calls = 1
        given = {"turn": FIXED, "budget": BudgetSettings(total=0.5)} | settings
        self.settings = Settings(data=str(data), **given)
        self.knobs = Knobs(self.settings)
        self.steering = Steering(
            self.settings,
            self.knobs,
            data,
            lambda: {"calls": {"active": self.calls}},
            lambda: self.calls,
            self.told.append,
            lambda: self.now,
        )

    def turn(self, budget: float = 0.5, **stages: float) -> None:
        """Answer a turn of these stages, in seconds."""
        self.now += 1.0
        event = {"type": "turn", "stages": stages, "total": sum(stages.values()), "budget": budget}
        self.steering.take(event)

    def turns(self, count: int) -> None:
        """Answer turns whose wait is the knobs', and a chain behind it."""
        for _ in range(count):
            self.turn(vad=0.06, endpoint=self.knobs.turn.longest_wait, tts=0.1)

    def record(self, **more: Any) -> None:
        """End a turn."""
        record = {
            "type": "trace",
            "turn": 1,
            "began": self.now - 5.0,
            "total": 0.4,
            "stages": {"endpoint": 0.39, "unattributed": 0.01},
            "marks": {"decided": 0.39},
            "worked": 0.3,
            "wasted": 0.0,
            "cut_in": False,
            "underruns": 0,
            "missed": False,
        }
        self.steering.take(record | more)


class Listening:
    """A tuner that only listens."""

    state = "listening"

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def answered(self, *turn: Any) -> None:
        self.heard.append(("answered", *turn))

    def strained(self, *strain: Any) -> None:
        self.heard.append(("strained", *strain))

    def worked(self, *work: Any) -> None:
        self.heard.append(("worked", *work))

    def decide(self, now: float) -> list[Any]:
        self.heard.append(("decide", now))
        return []


def listened(conversation: Conversation) -> Listening:
    tuner = Listening()
    conversation.steering.tuner = tuner  # type: ignore[assignment]
    return tuner


def test_turns_over_budget_move_a_knob_and_the_move_is_written_down(tmp_path: Path) -> None:
    call = Conversation(tmp_path, tuner="on")
    call.turns(120)
    call.steering.close()
    assert call.knobs.turn.longest_wait == call.knobs.turn.shortest_wait < 0.35
    assert call.knobs.values["turn.wait"] == call.knobs.turn.longest_wait
    first = call.told[0]
    assert (first["type"], first["kind"], first["applied"]) == ("tuner", "try", True)
    assert first["knob"] == "turn.wait"
    assert "endpoint" in first["reason"]
    lines = (tmp_path / "tuner.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == call.told
    shown = call.steering.snapshot()["tuner"]
    assert shown["moves"] == call.told
    assert shown["values"]["turn.wait"]["value"] == call.knobs.turn.longest_wait
    assert shown["values"]["turn.wait"]["start"] == 0.4


def test_fewer_calls_are_fewer_than_go_on(tmp_path: Path) -> None:
    call = Conversation(tmp_path, tuner="on", admission=False, max_calls=1000)
    call.calls = 40
    for _ in range(400):
        if call.knobs.max_calls == 1000:
            call.turn(vad=0.06, send=0.6)
    call.steering.close()
    assert call.knobs.max_calls == 28
    assert [move["kind"] for move in call.told] == ["give_up", "try"]
    assert call.steering.values()["max_calls"]["values"] == (1000, 34, 28, 20, 14)


def test_observing_says_what_would_be_moved_and_moves_nothing(tmp_path: Path) -> None:
    call = Conversation(tmp_path)
    call.turns(120)
    call.steering.close()
    assert call.told
    assert not any(move["applied"] for move in call.told)
    assert call.knobs.turn == FIXED


def test_switched_off_it_keeps_records_and_nothing_else(tmp_path: Path) -> None:
    call = Conversation(tmp_path, tuner="off")
    call.turns(120)
    call.record()
    call.steering.close()
    shown = call.steering.snapshot()
    assert (shown["tuner"]["mode"], shown["tuner"]["state"]) == ("off", "off")
    assert (call.told, shown["tuner"]["moves"]) == ([], [])
    assert len(shown["records"]) == 1
    assert not (tmp_path / "tuner.jsonl").exists()


def test_what_is_pinned_stays(tmp_path: Path) -> None:
    call = Conversation(tmp_path, tuner="on", pinned="turn.longest_wait")
    call.turns(120)
    call.steering.close()
    assert call.knobs.turn == FIXED
    assert call.told
    assert all(move["knob"] != "turn.wait" for move in call.told)
    assert call.steering.values()["turn.wait"]["pinned"]
    assert not call.steering.values()["phrases.first"]["pinned"]


def test_a_knob_that_cannot_be_moved_is_left_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Conversation(tmp_path, tuner="on")

    def cannot(name: str, value: float) -> None:
        raise ValueError(name)

    monkeypatch.setattr(call.knobs, "set", cannot)
    call.turns(600)
    moves = [move for move in call.told if move["after"] != move["before"]]
    assert moves[0]["knob"] == "turn.wait"
    assert not any(move["applied"] for move in moves)
    assert len({move["knob"] for move in moves}) == len(moves)  # each is tried once
    assert call.steering.tuner is not None
    assert call.steering.tuner.values == call.knobs.values


def test_a_log_that_cannot_be_written_ends_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, *_: Any) -> None:
        raise PermissionError

    call = Conversation(tmp_path, tuner="on")
    monkeypatch.setattr(Path, "stat", denied)
    call.turns(120)
    assert call.told


def test_a_pin_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"did you mean turn\.wait"):
        Conversation(tmp_path, pinned="turn.wiat")


def test_it_decides_when_something_is_told_but_not_every_time(tmp_path: Path) -> None:
    call = Conversation(tmp_path)
    tuner = listened(call)
    call.turn(endpoint=0.4)
    for _ in range(10):  # within a quarter of a second
        call.now += EVERY / 20
        call.record()
        call.steering.take({"type": "captions", "text": "hello"})
    call.now += EVERY
    call.steering.take({"type": "captions", "text": "hello"})
    call.record()
    assert [what for what in tuner.heard if what[0] == "decide"] == [
        ("decide", 1001.0),
        ("decide", call.now),
    ]


def test_what_a_record_strained_counts_for_the_turn_that_it_is_of(tmp_path: Path) -> None:
    call = Conversation(tmp_path)
    tuner = listened(call)
    went_on = {"cut_in": True, "barge_in": {"heard": 0.83, "stopped": 0.9}}
    call.record(began=7.0, underruns=2, missed=True, wasted=0.1, worked=0.4, **went_on)
    call.record(began=8.0)
    assert [what for what in tuner.heard if what[0] != "decide"] == [
        ("worked", 0.4, 7.0),
        ("strained", "wasted", 0.1, 7.0),
        ("strained", "cut_ins", 1.0, 7.0, 0.9),
        ("strained", "underruns", 2.0, 7.0),
        ("strained", "misses", 1.0, 7.0),
        ("worked", 0.3, 8.0),
        ("strained", "wasted", 0.0, 8.0),
    ]


def test_a_turn_counts_from_when_the_caller_fell_silent(tmp_path: Path) -> None:
    call = Conversation(tmp_path)
    tuner = listened(call)
    call.turn(endpoint=0.25)
    assert tuner.heard[0] == ("answered", {"endpoint": 0.25}, 0.25, 1000.75, 1001.0)


def test_a_call_with_its_own_budget_counts_by_its_share_of_that(tmp_path: Path) -> None:
    call = Conversation(tmp_path)
    tuner = listened(call)
    call.turn(budget=0.25, endpoint=0.2)
    assert tuner.heard[0][1:3] == ({"endpoint": 0.4}, 0.4)


def test_a_page_is_given_the_records_that_it_does_not_know(tmp_path: Path) -> None:
    call = Conversation(tmp_path)
    for turn in range(1, steering.KEPT + 3):
        call.record(turn=turn)
    everything = call.steering.snapshot()
    assert everything["now"] == call.now
    assert everything["calls"] == {"active": 1}
    assert len(everything["records"]) == steering.KEPT
    newest = everything["records"][-1]
    assert (newest["seq"], newest["turn"]) == (steering.KEPT + 2, steering.KEPT + 2)
    assert call.steering.snapshot(newest["seq"])["records"] == []
    later = call.steering.snapshot(newest["seq"] - 2)["records"]
    assert [record["seq"] for record in later] == [newest["seq"] - 1, newest["seq"]]
    assert call.steering.snapshot(newest["seq"] + 100)["records"] == []
    json.dumps(everything)


def test_the_remainder_is_told_of_what_is_kept(tmp_path: Path) -> None:
    call = Conversation(tmp_path)
    call.record(total=None, stages={})  # nobody was answered
    assert call.steering.snapshot()["unattributed_p99"] is None
    for _ in range(9):
        call.record()
    call.record(total=1.2, stages={"endpoint": 0.39, "llm": 0.8, "unattributed": 0.01})
    assert call.steering.snapshot()["unattributed_p99"] == 0.01


def test_the_split_follows_what_turns_need(tmp_path: Path) -> None:
    call = Conversation(tmp_path, tuner="off", budget=BudgetSettings(total=0.5, tts=0.05))
    assert call.steering.budget.split["tts"] == 0.05
    assert call.steering.budget.split["endpoint"] == call.steering.budget.split["asr"]
    call.turns(30)
    split = call.steering.budget.split
    assert split["tts"] == 0.05
    assert split["asr"] == 0.0
    assert split["endpoint"] == pytest.approx(0.45 * 0.4 / 0.46)
    assert call.steering.at_fault({"endpoint": 0.4, "tts": 0.2}, 0.5) == "tts"
    assert call.steering.at_fault({"endpoint": 0.1, "tts": 0.04}, 0.5) == "endpoint"
    # Half the budget is half of each share.
    assert call.steering.at_fault({"endpoint": 0.3, "tts": 0.1}, 0.25) == "endpoint"


def test_typed_turns_do_not_make_listening_take_no_time(tmp_path: Path) -> None:
    call = Conversation(tmp_path, tuner="off")
    for _ in range(12):
        call.turns(4)
        call.turn(llm=0.1, tts=0.1)  # nobody was listened to
    assert call.steering.budget.split["endpoint"] > 0.2


def test_a_long_log_is_put_aside_when_another_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "LONGEST_LOG", 5)
    (tmp_path / "tuner.jsonl").write_text("a long log\n")
    call = Conversation(tmp_path)
    call.turns(120)
    call.steering.close()
    assert (tmp_path / "tuner.old.jsonl").read_text() == "a long log\n"
    assert len((tmp_path / "tuner.jsonl").read_text().splitlines()) == len(call.told)

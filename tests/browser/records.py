"""Made-up records of turns, and a tuner that has moved: what the dashboard is shown in tests."""

import random
from typing import Any

import records

Record = dict[str, Any]

SPLIT = {
    "framing": 0.02,
    "jitter": 0.04,
    "vad": 0.08,
    "endpoint": 0.3,
    "asr": 0.08,
    "llm": 0.12,
    "first_phrase": 0.05,
    "tools": 0.05,
    "tts": 0.08,
    "send": 0.02,
    "silence": 0.04,
}

USUAL = {
    "framing": 0.01,
    "jitter": 0.02,
    "vad": 0.06,
    "endpoint": 0.18,
    "asr": 0.012,
    "llm": 0.03,
    "first_phrase": 0.012,
    "tts": 0.035,
    "send": 0.003,
    "silence": 0.016,
}


def record(seq: int, call: str = "call_3f9a01c27be4ab12", **more: Any) -> Record:
    """Return one turn that was answered in 0.301 s, with what is given changed."""
    stages = {"framing": 0.01, "jitter": 0.02, "vad": 0.05, "endpoint": 0.12, "tts": 0.1}
    own: Record = {
        "seq": seq,
        "turn": seq,
        "call": call,
        "began": 100.0 + seq,
        "wall": records.WALL + seq,
        "total": 0.301,
        "stages": stages | {"unattributed": 0.001},
        "spans": [
            ["framing", 0.0, 0.01],
            ["jitter", 0.01, 0.03],
            ["asr", 0.04, 0.09],
            ["vad", 0.03, 0.08],
            ["endpoint", 0.08, 0.2],
            ["llm", 0.09, 0.15],
            ["tts", 0.15, 0.3],
        ],
        "marks": {"arrived": 0.01, "vad_end": 0.08, "decided": 0.2, "sent": 0.3, "heard": 0.301},
        "speculations": {"begun": 1, "kept": 1, "dropped": 0},
        "wasted": 0.0,
    }
    return records.record(**own | more)


def lively(count: int, calls: int, first: int = 1, seed: int = 5) -> list[Record]:
    """Return turns of many calls, as differently fast as real ones, some of them over budget."""
    dice = random.Random(seed + first)
    names = [f"call_{random.Random(at).getrandbits(64):016x}" for at in range(calls)]
    turns = dict.fromkeys(names, 0)
    return [_turn(seq, dice, names, turns) for seq in range(first, first + count)]


def _turn(seq: int, dice: random.Random, names: list[str], turns: dict[str, int]) -> Record:
    name = dice.choice(names)
    turns[name] += 1
    stages = {stage: usual * dice.lognormvariate(0, 0.3) for stage, usual in USUAL.items()}
    kept = dice.random() < 0.75
    tool = dice.random() < 0.12
    if dice.random() < 0.07:
        stages["llm"] += dice.uniform(0.3, 0.9)
    if dice.random() < 0.04:
        stages["tts"] += dice.uniform(0.25, 0.6)
    if tool:
        stages["tools"] = dice.uniform(0.02, 0.2)
    hint = stages["framing"] + stages["jitter"] + stages["vad"]
    decided = hint + stages["endpoint"]
    spans: list[list[Any]] = []
    if kept:  # the work was done behind the wait; some of it reaches beyond
        at = hint
        for stage in ("asr", "llm", "first_phrase", "tools", "tts"):
            if stage not in stages:
                continue
            took = stages[stage] * (1.0 if stage != "llm" else 1.5)
            spans.append([stage, at, at + took])
            at += took
            stages[stage] = max(0.0, min(took, at - decided))
    else:
        at = decided
        for stage in ("asr", "llm", "first_phrase", "tools", "tts"):
            if stage in stages:
                spans.append([stage, at, at + stages[stage]])
                at += stages[stage]
    stages = {stage: stages[stage] for stage in SPLIT if stages.get(stage, 0.0) > 0}
    at = 0.0
    for stage, seconds in stages.items():
        if stage not in {"asr", "llm", "first_phrase", "tools", "tts"}:
            spans.append([stage, at, at + seconds])
        at += seconds
    stages["unattributed"] = abs(dice.gauss(0, 0.0006))
    total = sum(stages.values())
    excess = {stage: stages[stage] - SPLIT.get(stage, 0.0) for stage in stages}
    barge = dice.random() < 0.08
    dropped = 0 if kept else dice.randint(0, 2)
    marks = {"arrived": stages["framing"], "decided": decided, "sent": total, "heard": total}
    if dice.random() < 0.5:
        marks["played"] = total + dice.uniform(0.04, 0.09)
    return record(
        seq,
        name,
        turn=turns[name],
        transport=dice.choice(["websocket", "webrtc"]),
        began=100.0 + 0.4 * seq,
        wall=records.WALL + 0.4 * seq,
        total=total,
        stages=stages,
        spans=spans,
        marks=marks,
        outcome="interrupted" if barge else "played",
        speculations={"begun": dropped + kept, "kept": int(kept), "dropped": dropped},
        barge_in={"heard": total + 0.9, "stopped": total + 0.91} if barge else None,
        cut_in=dice.random() < 0.03,
        underruns=int(dice.random() < 0.02),
        missed=dice.random() < 0.04,
        over=max(excess, key=lambda stage: excess[stage]) if total > 0.8 else "",
    )


def move(at: float, kind: str, knob: str, before: float, after: float, **more: Any) -> Record:
    """Return one move of the tuner."""
    usual = {"p95_before": None, "p95_after": None, "applied": True, "reason": ""}
    return usual | {"at": at, "kind": kind, "knob": knob, "before": before, "after": after} | more


MOVES = [
    move(
        140.0,
        "try",
        "turn.longest_wait",
        0.6,
        0.5,
        p95_before=0.93,
        reason="endpoint takes most of the 0.93 s at p95: 0.42 s of its 0.30 s",
    ),
    move(
        190.0,
        "keep",
        "turn.longest_wait",
        0.6,
        0.5,
        p95_before=0.93,
        p95_after=0.86,
        reason="p95 fell by 0.07 s, cut-ins stayed at 1 in 100 turns",
    ),
    move(
        196.0,
        "try",
        "phrases.first",
        40,
        25,
        p95_before=0.86,
        reason="tts exceeds its share by 0.06 s",
    ),
    move(
        243.0,
        "roll_back",
        "phrases.first",
        25,
        40,
        p95_before=0.86,
        p95_after=0.91,
        reason="p95 rose by 0.05 s: a shorter first phrase did not help",
    ),
    move(
        250.0,
        "try",
        "vllm.wait",
        0.02,
        0.005,
        p95_before=0.88,
        reason="llm exceeds its share by 0.09 s",
    ),
]

TUNER = {
    "mode": "on",
    "state": "trying vllm.wait",
    "values": {
        "turn.longest_wait": {
            "value": 0.5,
            "start": 0.6,
            "values": [0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
            "pinned": False,
        },
        "turn.spread": {"value": 2.0, "start": 2.0, "values": [3.0, 2.0, 1.5], "pinned": False},
        "whisper.interval": {
            "value": 0.5,
            "start": 0.5,
            "values": [1.0, 0.7, 0.5, 0.3],
            "pinned": False,
        },
        "whisper.beam": {"value": 5, "start": 5, "values": [5, 3, 1], "pinned": True},
        "phrases.first": {"value": 40, "start": 40, "values": [60, 40, 25, 15], "pinned": False},
        "vllm.wait": {
            "value": 0.005,
            "start": 0.02,
            "values": [0.05, 0.02, 0.01, 0.005],
            "pinned": False,
        },
        "calls": {"value": 50, "start": 50, "values": [50, 40, 30, 20, 10], "pinned": False},
    },
    "moves": MOVES,
}


class Player:
    """In the place of a server's `Steering`: plays made-up records.

    Attributes:
        records: All of them, in the order of their `seq`.
        asked: The `since` of each request.
    """

    def __init__(self, records: list[Record], **more: Any) -> None:
        self.records = records
        self.asked: list[int] = []
        self.now = 260.0
        self.state: dict[str, Any] = {
            "budget": {"total": 0.8, "percentile": 95.0, "split": SPLIT},
            "stages": {},
            "tuner": TUNER,
            "calls": {
                "active": 12,
                "max": 50,
                "predicted_p95": 0.64,
            },
            "admission": {
                "on": True,
                "more": 26,
                "saturated": False,
                "sheds_speculation": False,
                "resource": "tts",
                "utilisation": {"loop": 0.21, "processors": 0.4, "llm": 0.34, "tts": 0.52},
            },
            "loop_late": 0.0012,
            "unattributed_p99": 0.0021,
        } | more

    def snapshot(self, since: int) -> dict[str, Any]:
        """Return the state and the records after number `since`."""
        self.asked.append(since)
        self.now += 1.0
        fresh = [one for one in self.records if one["seq"] > since]
        return {"now": self.now, "records": fresh[-500:], **self.state}

    def take(self, event: Record) -> None:
        """Take what a call tells: it changes nothing."""

    def close(self) -> None:
        """There is nothing to write."""

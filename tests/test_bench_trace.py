"""The caller's truth: when it spoke and when it heard, to the sample and the microsecond."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from voice import stubs
from voice.arrivals import StampedDatagrams, StampedWire, received, stamp
from voice.bench_cost import summary
from voice.bench_trace import placed
from voice.closing import Comparison, hold_against
from voice.loop_figures import Span, back_after, guard_rails, table_row
from voice.packet_timer import PacketTimer
from voice.settings import BenchSettings
from voice.talker import Plan, Reply, Speech, Talker, Turn

from helpers import running

PLAN = Plan(
    speech=[Speech([b"a", b"b"], after=0.005)],
    silence=[b"-"],
    turns=2,
    period=0,
    interrupt=2,
    barge_after=0.1,
    pause=0.04,
)


def spoken(talker: Talker, frames: int, begin: float = 10.0, late: float = 0.0) -> bytes:
    """Return what is sent in so many frames, `late` seconds after each was due."""
    first = talker.sent
    dues = [begin + number * 0.02 for number in range(first, first + frames)]
    return b"".join(talker.next(due + late, due) for due in dues)


def test_speech_ends_with_its_last_sample_by_the_microphones_clock() -> None:
    talker = Talker(PLAN)
    assert spoken(talker, 4, late=0.013) == b"ab--"
    (turn,) = talker.turns
    assert turn.ended == pytest.approx(10.033)
    assert turn.silent == pytest.approx(10.015)  # due at 10.02, and 5 ms of it were silence
    assert turn.late == pytest.approx(0.013)


def test_the_answer_begins_with_its_first_audible_sample() -> None:
    talker = Talker(PLAN)
    spoken(talker, 3)
    talker.hear(0.02, None, 10.3)  # leading silence, which is played first
    talker.hear(0.02, 0.004, 10.301)
    talker.hear(0.02, 0.0, 10.302)
    (turn,) = talker.turns
    assert turn.reply is not None
    assert turn.reply.audible == pytest.approx(10.324)
    assert turn.gap == pytest.approx(10.324 - 10.015)
    assert not talker.listens_closely


def test_sound_that_comes_late_is_heard_when_it_comes() -> None:
    talker = Talker(PLAN)
    spoken(talker, 3)
    talker.hear(0.02, None, 10.3)
    talker.hear(0.02, 0.004, 10.4)
    assert talker.turns[0].reply is not None
    assert talker.turns[0].reply.audible == pytest.approx(10.404)


def test_an_agent_that_speaks_too_early_leaves_no_gap() -> None:
    talker = Talker(PLAN)
    spoken(talker, 1)
    talker.hear(0.02, 0.0, 10.01)
    spoken(talker, 2)
    talker.hear(0.02, 0.0, 10.05)
    assert talker.turns[0].talked_over
    assert talker.turns[0].gap is None


def test_an_interruption_may_hear_the_end_of_what_it_interrupts() -> None:
    talker = Talker(PLAN)
    spoken(talker, 3)
    talker.hear(0.2, 0.0, 10.06)
    spoken(talker, 30)  # the first reply ends
    talker.hear(1.0, 0.0, 10.7)
    spoken(talker, 12)
    assert [turn.interrupting for turn in talker.turns] == [False, False, True]
    talker.hear(0.02, 0.0, talker.turns[2].started + 0.08)
    spoken(talker, 3)
    assert not talker.turns[2].talked_over


def test_a_plan_may_change_within_an_utterance() -> None:
    talker = Talker(PLAN)
    sent = spoken(talker, 1)
    talker.plan = Plan(speech=[Speech([b"x"])], silence=[b"."], turns=2, period=0)
    assert sent + spoken(talker, 2) == b"ab."


def test_utterances_end_anywhere_in_a_packet_and_on_a_sound() -> None:
    tail = np.concatenate([np.full(50, 0.5), np.full(7, 0.009)]).astype(np.float32)
    whole = placed([tail] * 3, 16_000, 320)
    assert [len(pcm) % 320 for pcm, _ in whole] == [0, 0, 0]
    for number, (pcm, after) in enumerate(whole):
        loud = np.flatnonzero(np.abs(pcm) >= 0.01)
        assert len(pcm) - 1 - loud[-1] == round(after * 16_000) == 97 * number


# What the kernel knows.

ENABLED = 0.3
"""Seconds in which the kernel begins to stamp, where nobody has asked for it before."""


async def test_a_reader_that_is_late_learns_when_data_came() -> None:
    ours, theirs = _pair()
    taken: list[tuple[bytes, float]] = []
    lost: list[Exception | None] = []
    wire = StampedWire(ours, lambda data, at: taken.append((data, at)), lost.append)
    await asyncio.sleep(ENABLED)
    before = time.monotonic()
    theirs.send(b"sound")
    sent = time.monotonic()
    await busy()
    ((data, at),) = taken
    assert data == b"sound"
    assert before - 0.0005 <= at <= sent + 0.1
    assert wire.read_late > 0.1
    wire.write(b"speech")
    assert theirs.recv(100) == b"speech"
    theirs.close()
    for _ in range(500):
        if lost:
            break
        await asyncio.sleep(0.01)
    assert lost == [None]
    wire.close()


async def busy() -> None:
    """Keep this process from reading, then let it."""
    block = time.sleep
    block(0.2)
    await asyncio.sleep(0.02)


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


async def test_what_the_server_does_not_read_waits() -> None:
    ours, theirs = _pair()
    wire = StampedWire(ours, lambda data, at: None, lambda error: None)
    for _ in range(64):
        wire.write(bytes(65_536))
    wire.write(b"end")
    theirs.settimeout(5)
    got = b""
    while not got.endswith(b"end"):
        await asyncio.sleep(0)
        got += await asyncio.to_thread(theirs.recv, 1 << 20)
    assert len(got) == 64 * 65_536 + 3
    wire.close()
    theirs.close()


def test_datagrams_have_their_stamps_too() -> None:
    heard: list[float] = []

    async def listen() -> float:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Protocol, local_addr=("127.0.0.1", 0)
        )
        found.append(StampedDatagrams.under(transport))
        await asyncio.sleep(ENABLED)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"sound", transport.get_extra_info("sockname"))
        sent = time.monotonic()
        await busy()
        transport.close()
        return sent

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, address: Any) -> None:
            assert found[0] is not None
            heard.append(found[0].at)

    found: list[StampedDatagrams | None] = []
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # uvloop's are others
        sent = runner.run(listen())
    assert len(heard) == 1
    assert heard[0] <= sent + 0.1


def test_data_without_a_stamp_came_now() -> None:
    before = time.monotonic()
    assert before <= received([]) <= time.monotonic()


@pytest.mark.parametrize("exact", [True, False])
async def test_a_timer_is_never_early_and_rings_once_for_each_time(exact: bool) -> None:
    rings: list[float] = []
    timer = PacketTimer(lambda: rings.append(time.monotonic()), exact=exact)
    begin = time.monotonic()
    timer.set(begin + 60)
    timer.set(begin + 0.02)
    await asyncio.sleep(0.1)
    assert len(rings) == 1
    assert rings[0] >= begin + (0.02 if exact else 0.018)
    timer.set(begin)  # it is past
    await asyncio.sleep(0.05)
    assert len(rings) == 2
    timer.set(time.monotonic() + 0.01)
    timer.close()
    await asyncio.sleep(0.05)
    assert len(rings) == 2


# What a record is held against.


def answered(silent: float, audible: float, **more: Any) -> Turn:
    return Turn(0, silent - 1, silent, silent=silent, reply=Reply(audible, audible=audible), **more)


def record(began: float, total: float | None = 0.4, **stages: float) -> dict[str, Any]:
    none = {"begun": 1, "kept": 1, "dropped": 0}
    return {"began": began, "total": total, "stages": stages, "speculations": none}


def test_a_record_is_held_against_the_waveforms() -> None:
    held = hold_against(
        answered(10.0, 10.4), record(10.001, 0.398, vad=0.3, tts=0.09, unattributed=0.008)
    )
    assert held.gap == pytest.approx(0.4)
    assert held.difference == pytest.approx(-0.002)
    assert held.unattributed == pytest.approx(0.01)
    assert held.began == pytest.approx(0.001)
    assert held.heard == pytest.approx(-0.001)
    assert held.remainder == pytest.approx(0.0)


def test_turns_find_their_own_records() -> None:
    comparison = Comparison()
    turns = [
        answered(10.0, 10.4),
        answered(20.0, 20.4),
        Turn(0, 29.0, 30.0, silent=30.0),
        answered(40.0, 40.4, early=39.5),
        answered(50.0, 50.4),
    ]
    comparison.add(
        turns, [record(20.01), record(9.99), record(30.0, None), record(39.4), record(50.3)]
    )
    assert [held.record["began"] for held in comparison.held] == [9.99, 20.01]
    assert (comparison.unanswered, comparison.talked_over, comparison.unrecorded) == (1, 1, 1)
    row = comparison.row()
    assert row["turns"] == 5
    assert row["within_1ms"] == 1.0
    assert row["speculations"] == {"begun": 5, "kept": 5, "dropped": 0}


# What the loop was worth.


def test_a_budget_is_kept_again_once_all_that_follows_keeps_it() -> None:
    assert back_after([0.3] * 100, 0.4) == 0
    assert back_after([0.5] * 100, 0.4) is None
    assert back_after([0.5] * 80 + [0.3] * 100, 0.4) == 77  # three of sixty may be over
    assert back_after([0.5] * 80 + [0.3] * 100 + [0.5] * 10, 0.4) is None
    assert back_after([0.3] * 59, 0.4) is None


def test_a_phase_has_the_turns_that_ended_in_it() -> None:
    span = Span("", 10.0, 20.0)
    turns = [answered(at, at + 0.4) for at in (9.9, 19.9, 10.0, 20.0)]
    assert [turn.silent for turn in span.turns(turns)] == [10.0, 19.9]


def test_guard_rails_are_shares() -> None:
    told = {"cut_in": False, "underruns": 0, "missed": False, "worked": 0.3, "wasted": 0.1}
    assert guard_rails([told, {**told, "cut_in": True, "underruns": 3}]) == {
        "cut_ins": 0.5,
        "underruns": 1.5,
        "misses": 0.0,
        "wasted": 0.3333,
    }
    assert guard_rails([])["cut_ins"] == 0.0


def test_a_run_is_a_row_of_the_table() -> None:
    phase = {
        "p95_first": 500.0,
        "p95_last": 390.0,
        "cut_ins": 0.01,
        "cut_ins_last": 0.0,
        "underruns": 0.0,
        "wasted": 0.2,
    }
    row = {
        "disturbance": "llm",
        "tuner": "on",
        "undisturbed": phase,
        "disturbed": phase,
        "recovered": phase,
        "back_after_turns": None,
        "moved": {"turn.speculation_lead": [0.1, 0.2]},
        "returned_after_turns": 120,
        "said": "no setting helps: llm",
    }
    shown = table_row(row)
    assert "| never |" in shown
    assert "turn.speculation_lead 0.1 → 0.2 | 120 | 1.0%, 0% | 0.0% | 20% |" in shown


def test_a_cost_is_that_of_pairs() -> None:
    row = summary([(1.02, 1.0), (2.02, 2.0), (1.5, 1.0)])
    assert row["more_percent_median"] == 2.0
    assert (row["more_percent_least"], row["more_percent_most"]) == (1.0, 50.0)


# The engines that can be disturbed.


def test_stub_engines_change_while_they_work() -> None:
    settings = BenchSettings()
    ears, mind, mouth = stubs.ears(settings), stubs.mind(settings), stubs.mouth(settings)
    stubs.change(ears, mind, mouth, {"asr": 0.25, "llm": 0.3, "tts": 1, "answer": "No."})
    assert stubs.in_force(ears, mind, mouth) == {
        "asr": 0.25,
        "llm": 0.3,
        "tts": 1.0,
        "answer": "No.",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"asr": 0.1, "vad": 0.1},
        {"asr": 0.1, "llm": "0.3"},
        {"asr": 0.1, "llm": True},
        {"asr": 0.1, "llm": -0.1},
        {"asr": 0.1, "llm": float("nan")},
        {"asr": 0.1, "answer": ""},
        {"asr": 0.1, "answer": "a" * 1001},
    ],
)
def test_what_no_stub_has_changes_nothing(wrong: dict[str, Any]) -> None:
    settings = BenchSettings()
    ears, mind, mouth = stubs.ears(settings), stubs.mind(settings), stubs.mouth(settings)
    before = stubs.in_force(ears, mind, mouth)
    with pytest.raises(ValueError):
        stubs.change(ears, mind, mouth, wrong)
    assert stubs.in_force(ears, mind, mouth) == before


def test_sockets_that_cannot_be_stamped_say_so() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        assert stamp(opened)
    assert not stamp(opened)  # it is closed


async def test_only_a_server_of_the_profile_bench_can_be_disturbed(tmp_path: Path) -> None:
    async with running(tmp_path) as live, httpx.AsyncClient() as http:
        assert (await http.put(f"{live.url}/v1/bench", json={"asr": 0.1})).status_code in (404, 405)
    chosen = {"profile": "bench", "asr": "bench", "llm": "bench", "tts": "bench"}
    async with running(tmp_path, **chosen) as live, httpx.AsyncClient() as http:
        url = f"{live.url}/v1/bench"
        assert (await http.put(url, json={"asr": 0.25})).json()["asr"] == 0.25
        assert (await http.get(url)).json()["stubs"]["asr"] == 0.25
        for wrong in (b"", b"[]", b'{"asr": "soon"}', b'{"vad": 1}', b" " * 5000):
            got = await http.put(url, content=wrong)
            assert got.status_code == 400
            assert got.json()["error"]["code"] == "bad_bench"
        assert (await http.get(url)).json()["stubs"]["asr"] == 0.25

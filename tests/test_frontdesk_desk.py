"""The clinic's book and the tools of a call, against a real database."""

import asyncio
import random
import sqlite3
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demos.frontdesk import clinic
from demos.frontdesk.call import DeskCall
from demos.frontdesk.desk import AppointmentChangedError, Desk, SlotTakenError, start_of
from voice.agent import load
from voice.tools import Outcome, ToolError

MONDAY = datetime(2026, 11, 23, 8, 0)


def rows(database: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(database) as connection:
        found = connection.execute(
            "SELECT name, start FROM appointments JOIN patients ON patients.id = patient "
            "ORDER BY start"
        ).fetchall()
    connection.close()
    return found


def empty_desk(folder: Path) -> Desk:
    """A desk on Monday morning with one appointment: Robert Baker, Tuesday at ten."""
    desk = Desk(folder / "desk.sqlite", lambda: MONDAY)
    connection = sqlite3.connect(desk.database)
    connection.execute("DELETE FROM appointments")
    connection.execute(
        "INSERT INTO appointments (patient, start) "
        "SELECT id, '2026-11-24 10:00' FROM patients WHERE name = 'robert baker'"
    )
    connection.commit()
    connection.close()
    return desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return empty_desk(tmp_path)


async def talk(call: DeskCall, *steps: tuple[str, dict[str, str]]) -> list[Outcome]:
    """Call one tool a turn, turns 1, 2, …"""
    return [await call.call(name, given, turn + 1) for turn, (name, given) in enumerate(steps)]


async def test_a_booking_is_read_back_and_written_after_a_yes(desk: Desk) -> None:
    call = DeskCall(desk)
    said = await talk(
        call,
        ("book", {"day": "tuesday"}),
        ("book", {"time": "10:30"}),
        ("book", {"name": "anna miller"}),
    )
    assert said[0].say.startswith("On Tuesday I have ")
    assert [outcome.output["ask"] for outcome in said] == ["time", "name", "yes_no"]
    assert said[2].say == "Anna Miller, Tuesday at ten thirty. Shall I book that?"
    assert len(rows(desk.database)) == 1
    done = await call.call("confirm", {"answer": "yes"}, 4)
    assert done.say.startswith("It is booked: Anna Miller, Tuesday at ten thirty.")
    assert ("anna miller", "2026-11-24 10:30") in rows(desk.database)


async def test_a_yes_in_the_turn_of_the_read_back_books_nothing(desk: Desk) -> None:
    call = DeskCall(desk)
    everything = {"day": "tuesday", "time": "10:30", "name": "anna miller"}
    await call.call("book", everything, 1)
    early = await call.call("confirm", {"answer": "yes"}, 1)
    assert early.say == "Anna Miller, Tuesday at ten thirty. Shall I book that?"
    assert len(rows(desk.database)) == 1


async def test_a_no_keeps_the_draft_and_a_correction_replaces_only_what_was_said(
    desk: Desk,
) -> None:
    call = DeskCall(desk)
    said = await talk(
        call,
        ("book", {"day": "tuesday", "time": "10:30", "name": "anna miller"}),
        ("confirm", {"answer": "no"}),
        ("book", {"day": "thursday"}),
        ("confirm", {"answer": "yes"}),
    )
    assert said[1].say == "What shall I change, the day, the time or the name?"
    assert said[2].say == "Anna Miller, Thursday at ten thirty. Shall I book that?"
    assert ("anna miller", "2026-11-26 10:30") in rows(desk.database)


async def test_a_taken_time_is_answered_with_the_nearest_free_ones(desk: Desk) -> None:
    call = DeskCall(desk)
    [said] = await talk(call, ("book", {"day": "tuesday", "time": "10:00"}))
    assert said.say == (
        "Tuesday at ten is not free. On Tuesday I have nine, nine thirty and ten thirty. "
        "Which time would you like?"
    )
    assert "ten thirty" in call.choices
    assert call.expects == "time"


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("10:15", "Appointments begin on the hour and at half past."),
        ("12:30", "We are closed at twelve thirty."),
        ("18:00", "We are closed at six."),
        ("2:30", "Wednesday at two thirty is free."),
    ],
)
async def test_a_time_is_understood_within_the_opening_hours(
    desk: Desk, time: str, words: str
) -> None:
    [said] = await talk(DeskCall(desk), ("book", {"day": "wednesday", "time": time}))
    assert said.say.startswith(words)


async def test_a_closed_day_is_refused(desk: Desk) -> None:
    [said] = await talk(DeskCall(desk), ("book", {"day": "sunday", "time": "10:00"}))
    assert said.say == "We are closed on Sunday. Which other day would you like?"


async def test_moving_names_both_times_and_frees_the_old_one(desk: Desk) -> None:
    call = DeskCall(desk)
    said = await talk(
        call,
        ("move", {"name": "robert baker"}),
        ("move", {"day": "thursday", "time": "09:00"}),
        ("confirm", {"answer": "yes"}),
    )
    assert said[1].say == (
        "Robert Baker, from Tuesday at ten to Thursday at nine. Shall I move it?"
    )
    assert rows(desk.database) == [("robert baker", "2026-11-26 09:00")]


async def test_cancelling_reads_back_what_will_be_cancelled(desk: Desk) -> None:
    call = DeskCall(desk)
    said = await talk(call, ("cancel", {}), ("cancel", {"name": "baker"}))
    assert call.expects == "yes_no"
    assert said[1].say == "Robert Baker, Tuesday at ten. Shall I cancel it?"
    await call.call("confirm", {"answer": "yes"}, 3)
    assert rows(desk.database) == []


async def test_an_unknown_name_is_asked_again_and_then_offered_a_person(desk: Desk) -> None:
    call = DeskCall(desk)
    said = await talk(
        call,
        ("cancel", {"name": "anna baker"}),
        ("cancel", {"name": "john doe"}),
        ("confirm", {"answer": "yes"}),
    )
    assert said[0].output["ask"] == "name"
    assert said[1].say.endswith("Shall I put you through to a person?")
    assert said[2].end == "transfer"


async def test_who_has_an_appointment_is_offered_to_move_it(desk: Desk) -> None:
    call = DeskCall(desk)
    said = await talk(
        call,
        ("book", {"day": "friday", "time": "15:00", "name": "robert baker"}),
        ("confirm", {"answer": "yes"}),
        ("confirm", {"answer": "yes"}),
    )
    assert said[0].say == (
        "Robert Baker already has an appointment, Tuesday at ten. "
        "Shall I move it to Friday at three?"
    )
    assert said[1].say == "Robert Baker, from Tuesday at ten to Friday at three. Shall I move it?"
    assert rows(desk.database) == [("robert baker", "2026-11-27 15:00")]


async def test_times_go_on_where_the_last_offer_ended(desk: Desk) -> None:
    call = DeskCall(desk)
    said = await talk(
        call,
        ("find_times", {"day": "tuesday", "part": "afternoon"}),
        ("find_times", {}),
        ("book", {"time": "first"}),
    )
    assert said[0].say.startswith("On Tuesday afternoon I have one, one thirty and two.")
    assert said[1].say.startswith("On Tuesday afternoon I have two thirty, three and three thirty.")
    assert said[2].say == "Tuesday at two thirty is free. What is your name, please?"


async def test_what_was_said_is_repeated_word_for_word(desk: Desk) -> None:
    call = DeskCall(desk)
    said = await talk(
        call,
        ("book", {"day": "tuesday", "time": "10:30", "name": "anna miller"}),
        ("opening_hours", {"day": "friday"}),
        ("say_again", {}),
    )
    assert said[1].say.endswith(f"noon to one. {said[0].say}")
    assert said[2].say == said[0].say


@pytest.mark.parametrize(
    ("name", "given"),
    [("fly", {}), ("book", {"colour": "red"}), ("book", {"day": 3}), ("confirm", {"answer": "si"})],
)
async def test_what_the_model_got_wrong_is_an_outcome_that_says_so(
    desk: Desk, name: str, given: dict[str, object]
) -> None:
    said = await DeskCall(desk).call(name, given, 1)
    assert "error" in said.output
    assert said.say


async def test_two_calls_racing_for_one_slot_book_it_once(desk: Desk) -> None:
    calls = [DeskCall(desk), DeskCall(desk)]
    for call, name in zip(calls, ("anna miller", "nathan quinn"), strict=True):
        await call.call("book", {"day": "friday", "time": "09:00", "name": name}, 1)
    said = await asyncio.gather(*(call.call("confirm", {"answer": "yes"}, 2) for call in calls))
    booked = [outcome.say.startswith("It is booked") for outcome in said]
    assert sorted(booked) == [False, True]
    loser = said[booked.index(False)]
    assert loser.say.startswith("Friday at nine is not free.")
    assert [start for _, start in rows(desk.database)].count("2026-11-27 09:00") == 1


async def test_the_database_itself_refuses_a_second_appointment_in_a_slot(desk: Desk) -> None:
    start = start_of(MONDAY.date().replace(day=24), "10:00")
    with pytest.raises(SlotTakenError):
        await desk.book("anna miller", start)
    with pytest.raises(AppointmentChangedError):
        await desk.book("robert baker", start.replace(hour=11))


async def test_writing_the_same_again_is_no_error(desk: Desk) -> None:
    start = start_of(MONDAY.date().replace(day=25), "10:00")
    for _ in range(2):
        await desk.book("anna miller", start)
    for _ in range(2):
        await desk.cancel("anna miller", start)
    assert rows(desk.database) == [("robert baker", "2026-11-24 10:00")]


async def test_a_locked_database_fails_the_tool_and_a_later_yes_still_books(desk: Desk) -> None:
    call = DeskCall(desk)
    await call.call("book", {"day": "friday", "time": "09:00", "name": "anna miller"}, 1)
    blocker = sqlite3.connect(desk.database, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(ToolError, match="locked"):
        await call.call("confirm", {"answer": "yes"}, 2)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert len(rows(desk.database)) == 1
    said = await call.call("confirm", {"answer": "yes"}, 3)
    assert said.say.startswith("It is booked")


async def test_a_full_disk_fails_the_tool_and_leaves_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def full(*args: object, **options: object) -> sqlite3.Connection:
        connection = connect(*args, **options)  # type: ignore[call-overload]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", full)
    booked = 0
    with pytest.raises(ToolError, match="full"):
        for hour in (slot for _ in range(400) for slot in clinic.SLOTS):
            day = MONDAY.date().replace(day=25 + booked // len(clinic.SLOTS))
            await desk.book(clinic.PATIENTS[booked + 2], start_of(day, hour))
            booked += 1
            pad(desk.database, connect)
    monkeypatch.undo()
    assert len(rows(desk.database)) == booked + 1


def pad(database: Path, connect: object) -> None:
    """Fill the free space of the last pages, so that the next row needs a new one."""
    connection = connect(database)  # type: ignore[operator]
    with connection:
        connection.execute("INSERT INTO patients (name) VALUES (?)", (f"{random.random()}" * 100,))
    connection.close()


STEP = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["anna miller", "robert baker", "nobody"]),
            "day": st.sampled_from(["monday", "tuesday", "sunday", "soon", ""]),
            "time": st.sampled_from(["10:00", "10:30", "first", "99", ""]),
        },
    ).flatmap(lambda given: st.tuples(st.sampled_from(["book", "move"]), st.just(given))),
    st.tuples(st.just("cancel"), st.sampled_from([{}, {"name": "robert baker"}])),
    st.tuples(st.just("find_times"), st.sampled_from([{}, {"day": "friday"}])),
    st.tuples(st.just("confirm"), st.sampled_from([{"answer": "yes"}, {"answer": "no"}])),
    st.tuples(st.sampled_from(["say_again", "opening_hours", "transfer", "hang_up"]), st.just({})),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(STEP, st.booleans()), max_size=12))
def test_no_row_changes_without_a_yes_in_a_later_turn_than_its_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[tuple[str, dict[str, str]], bool]],
) -> None:
    desk = empty_desk(tmp_path_factory.mktemp("desk"))

    async def run() -> None:
        call, turn, asked, asked_in = DeskCall(desk), 1, "", 0
        for (name, arguments), new_turn in steps:
            turn += new_turn
            before = rows(desk.database)
            said = await call.call(name, arguments, turn)
            changed = set(before) ^ set(rows(desk.database))
            if changed:
                assert (name, arguments) == ("confirm", {"answer": "yes"})
                assert turn > asked_in
                for patient, start in changed:
                    at = datetime.strptime(start, "%Y-%m-%d %H:%M")
                    assert patient.title() in asked
                    assert f"{at:%A} at {clinic.clock(f'{at:%H:%M}')}" in asked
            if said.say != asked and said.say.endswith(("book that?", "move it?", "cancel it?")):
                asked, asked_in = said.say, turn

    asyncio.run(run())


def test_a_new_book_has_patients_and_some_appointments_and_is_kept(tmp_path: Path) -> None:
    database = tmp_path / "desk.sqlite"
    Desk(database, lambda: MONDAY)
    first = rows(database)
    assert 0 < len(first) < 40
    Desk(database, lambda: MONDAY)
    assert rows(database) == first


def test_an_unusable_database_says_which(tmp_path: Path) -> None:
    broken = tmp_path / "desk.sqlite"
    broken.write_bytes(b"this is no database at all, it is a text" * 50)
    with pytest.raises(ToolError, match=r"desk\.sqlite"):
        Desk(broken)


async def test_the_agent_folder_says_who_answers(tmp_path: Path) -> None:
    agent = load(Path("demos/frontdesk"), tmp_path)
    tools = agent.open()
    said = await tools.call("opening_hours", {}, 1)
    assert "nine to five" in said.say
    assert set(agent.lines.again) >= {"", "day", "time", "day_time", "name", "yes_no", "kind"}
    assert agent.speech is not None
    assert (agent.speech / "open.txt").is_file()

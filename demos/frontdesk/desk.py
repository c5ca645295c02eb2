"""The clinic's book of appointments: an SQLite database that many calls read and write.

Every function opens its own connection, so that it may run in any thread, and every write is
one transaction that either happens or leaves nothing. Writing the same thing twice is no error:
a call whose reply was cancelled while it wrote may safely write again.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from voice.tools import ToolError

from . import clinic

SCHEMA = Path(__file__).with_name("schema.sql")
BUSY = 0.5
"""How long a write waits for another one, in seconds. A caller hears nothing meanwhile."""
SEEDED = 24
"""Appointments that a new book begins with, so that not every slot is free."""

STAMP = "%Y-%m-%d %H:%M"
"""How the database writes the start of an appointment: local time, sorts as text."""


class SlotTakenError(Exception):
    """Somebody else has the slot."""


class AppointmentChangedError(Exception):
    """The patient's appointment is not what the caller was told; nothing was written."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """What the book holds from now on.

    Attributes:
        now: Local time of the clinic.
        upcoming: Start of each patient's next appointment, by name.
    """

    now: datetime
    upcoming: Mapping[str, datetime]

    def days(self) -> Sequence[date]:
        """Return the days that can be booked, weekends included, today first."""
        return [self.now.date() + timedelta(days=ahead) for ahead in range(clinic.HORIZON)]

    def free(self, day: date) -> Sequence[str]:
        """Return the free slots of a day, in order."""
        if day not in self.days() or clinic.DAYS[day.weekday()] not in clinic.OPEN_DAYS:
            return []
        taken = set(self.upcoming.values())
        starts = {slot: start_of(day, slot) for slot in clinic.SLOTS}
        return [slot for slot, at in starts.items() if at > self.now and at not in taken]


def start_of(day: date, slot: str) -> datetime:
    """Return when the slot ("10:30") of a day begins."""
    return datetime.combine(day, datetime.strptime(slot, "%H:%M").time())


class Desk:
    """The book, shared by all calls of a process; other processes may share it too."""

    def __init__(self, database: Path, clock: Callable[[], datetime] = datetime.now) -> None:
        """Open or make the book; `clock` tells the clinic's local time.

        Raises:
            ToolError: If the file cannot be used.
        """
        self.database = database
        self.clock = clock
        database.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA.read_text())
            self._seed(connection)

    async def read(self) -> Calendar:
        """Return what the book holds now.

        Raises:
            ToolError: If it cannot be read.
        """
        return await asyncio.to_thread(self._read)

    async def book(self, name: str, start: datetime) -> None:
        """Write an appointment.

        Raises:
            SlotTakenError: If the slot is somebody else's.
            AppointmentChangedError: If the patient has another appointment.
            ToolError: If the database is locked, full or broken.
        """
        await asyncio.to_thread(self._write, name, None, start)

    async def move(self, name: str, old: datetime, start: datetime) -> None:
        """Move an appointment from `old` to `start`; raises as `book` does."""
        await asyncio.to_thread(self._write, name, old, start)

    async def cancel(self, name: str, old: datetime) -> None:
        """Delete an appointment; raises as `book` does."""
        await asyncio.to_thread(self._write, name, old, None)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Open the database for one transaction, rolled back unless it is committed."""
        try:
            with closing(
                sqlite3.connect(self.database, timeout=BUSY, isolation_level=None)
            ) as connection:
                connection.execute("PRAGMA foreign_keys = ON")
                yield connection
        except sqlite3.Error as error:
            raise ToolError(f"{self.database}: {error}") from error

    def _read(self) -> Calendar:
        with self._connection() as connection:
            now = self.clock()
            return Calendar(now, dict(_upcoming(connection, now)))

    def _write(self, name: str, old: datetime | None, new: datetime | None) -> None:
        """Replace the patient's appointment `old` by `new` (None: no appointment)."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            current = dict(_upcoming(connection, self.clock())).get(name)
            if current == new:
                return
            if current != old:
                raise AppointmentChangedError(f"{name} has {current}, expected {old}")
            patient = "(SELECT id FROM patients WHERE name = ?)"
            if old:
                connection.execute(
                    f"DELETE FROM appointments WHERE patient = {patient} AND start = ?",
                    (name, old.strftime(STAMP)),
                )
            if new:
                try:
                    connection.execute(
                        f"INSERT INTO appointments (patient, start) VALUES ({patient}, ?)",
                        (name, new.strftime(STAMP)),
                    )
                except sqlite3.IntegrityError as error:
                    if "UNIQUE" in str(error):
                        raise SlotTakenError(f"{new}") from error
                    raise
            connection.execute("COMMIT")

    def _seed(self, connection: sqlite3.Connection) -> None:
        """Give a book without anything upcoming its patients and some appointments."""
        now = self.clock()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT OR IGNORE INTO patients (name) VALUES (?)",
            [(name,) for name in clinic.PATIENTS],
        )
        if not _upcoming(connection, now):
            rng = random.Random(now.date().isoformat())
            empty = Calendar(now, {})
            slots = [(day, slot) for day in empty.days() for slot in empty.free(day)]
            names = rng.sample(clinic.PATIENTS, min(SEEDED, len(slots)))
            for name, (day, slot) in zip(names, rng.sample(slots, len(names)), strict=True):
                connection.execute(
                    "INSERT INTO appointments (patient, start) "
                    "VALUES ((SELECT id FROM patients WHERE name = ?), ?)",
                    (name, start_of(day, slot).strftime(STAMP)),
                )
        connection.execute("COMMIT")


def _upcoming(connection: sqlite3.Connection, now: datetime) -> list[tuple[str, datetime]]:
    rows = connection.execute(
        "SELECT name, start FROM appointments JOIN patients ON patients.id = patient "
        "WHERE start > ? ORDER BY start DESC",
        (now.strftime(STAMP),),
    )
    return [(name, datetime.strptime(start, STAMP)) for name, start in rows]

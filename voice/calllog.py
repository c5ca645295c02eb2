"""One file a call, one JSON object a line: what was said, done and decided, with times.

Files are written by a thread of their own, so that a slow or full disk never
holds up a call; what cannot be written is lost, counted, and said once.
"""

import json
import logging
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

log = logging.getLogger(__name__)

Event = Mapping[str, Any]
"""What a call said, did or decided, and when: "time", in seconds since 1970."""

MAX_WAITING = 10_000
"""Lines that may wait for the disk; more are dropped."""

GATHERED = 0.1
"""Seconds for which lines are gathered: a thread that woke for each would hold up the calls."""

_TO_JSON = json.JSONEncoder(default=str)


class CallLog:
    """The event logs of all calls of one server. `write` and `finish` never block."""

    def __init__(self, directory: Path) -> None:
        self.lost = 0
        """Lines that could not be written."""
        self._directory = directory
        self._lines: queue.SimpleQueue[tuple[str, Event | None] | None]
        self._lines = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="call-log", daemon=True)
        self._thread.start()

    def write(self, call: str, event: Event) -> None:
        """Add one event to the log of `call`."""
        self._put((call, event))

    def finish(self, call: str) -> None:
        """Close the log of `call`."""
        self._put((call, None))

    def close(self) -> None:
        """Write what waits and stop; blocks until then, 5 s at most."""
        self._lines.put(None)
        self._closing.set()
        self._thread.join(5)

    def _put(self, entry: tuple[str, Event | None]) -> None:
        if self._lines.qsize() < MAX_WAITING:
            self._lines.put(entry)
        else:
            self.lost += 1

    def _write_all(self) -> None:
        files: dict[str, TextIO] = {}
        going_on = True
        while going_on:
            entries = [self._lines.get()]
            self._closing.wait(GATHERED)
            entries += [self._lines.get_nowait() for _ in range(self._lines.qsize())]
            going_on = None not in entries
            told: dict[str, list[Event | None]] = {}
            for call, event in filter(None, entries):
                told.setdefault(call, []).append(event)
            for call, events in told.items():
                self._append(files, call, events)
        for file in files.values():
            file.close()

    def _line(self, call: str, event: Event) -> str:
        """Return an event as a line; nothing of one that is no JSON."""
        try:
            return _TO_JSON.encode(event) + "\n"
        except Exception as error:  # what a tool returned is no JSON
            self._lose(1, call, error)
            return ""

    def _append(self, files: dict[str, TextIO], call: str, events: list[Event | None]) -> None:
        """Write what a call did; None among it says that the call is over."""
        lines = [
            line for event in events if event is not None and (line := self._line(call, event))
        ]
        try:
            if lines and call not in files:
                self._directory.mkdir(parents=True, exist_ok=True)
                path = self._directory / f"{call}.jsonl"
                files[call] = path.open("a", encoding="utf-8", buffering=1)
            if lines:
                files[call].write("".join(lines))
            if None in events and call in files:
                files.pop(call).close()
        except Exception as error:  # no disk, or a full one
            self._lose(len(lines), call, error)

    def _lose(self, lines: int, call: str, error: Exception) -> None:
        """Count lines that are lost; say so the first time."""
        if not self.lost:
            log.warning("call logs are lost, %s cannot be written: %s", call, error)
        self.lost += lines

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

MAX_WAITING = 10_000
"""Lines that may wait for the disk; more are dropped."""


class CallLog:
    """The event logs of all calls of one server. `write` and `finish` never block."""

    def __init__(self, directory: Path) -> None:
        self.lost = 0
        """Lines that could not be written."""
        self._directory = directory
        self._lines: queue.SimpleQueue[tuple[str, Mapping[str, Any] | None] | None]
        self._lines = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="call-log", daemon=True)
        self._thread.start()

    def write(self, call: str, event: Mapping[str, Any]) -> None:
        """Add one event to the log of `call`."""
        self._put((call, event))

    def finish(self, call: str) -> None:
        """Close the log of `call`."""
        self._put((call, None))

    def close(self) -> None:
        """Write what waits and stop; blocks until then, 5 s at most."""
        self._lines.put(None)
        self._thread.join(5)

    def _put(self, entry: tuple[str, Mapping[str, Any] | None]) -> None:
        if self._lines.qsize() < MAX_WAITING:
            self._lines.put(entry)
        else:
            self.lost += 1

    def _write_all(self) -> None:
        files: dict[str, TextIO] = {}
        while (entry := self._lines.get()) is not None:
            call, event = entry
            try:
                if event is None:
                    if call in files:
                        files.pop(call).close()
                else:
                    if call not in files:
                        self._directory.mkdir(parents=True, exist_ok=True)
                        path = self._directory / f"{call}.jsonl"
                        files[call] = path.open("a", encoding="utf-8", buffering=1)
                    files[call].write(json.dumps(event, default=str) + "\n")
            except Exception as error:  # no disk; or what a tool returned is no JSON
                if not self.lost:
                    log.warning("call logs are lost, %s cannot be written: %s", call, error)
                self.lost += 1
        for file in files.values():
            file.close()

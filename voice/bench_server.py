"""The server that a benchmark measures: started on a core of its own, and what it uses."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, process_time
from typing import Any
from urllib.parse import urlsplit

import httpx

from voice.capacity import Used
from voice.settings import LOOPBACK, from_process

STARTED_WITHIN = 900.0
"""Seconds a server may take to be ready: a model of 8 B parameters is read and compiled for."""

CORES = sorted(os.sched_getaffinity(0))
"""Cores that this process may use, before it keeps to one of them."""

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server and all processes below it use.

    Attributes:
        cpu: Seconds of processor time so far.
        memory: Resident memory, in MB.
        files: Open files and sockets.
    """

    cpu: float
    memory: float
    files: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A server under test.

    Attributes:
        url: Its address.
        port: Its TCP port.
        process: Its number, None for a server that was there before.
        data: Its directory, which goes with it; None likewise.
    """

    url: str
    port: int
    process: int | None
    data: Path | None = None

    def usage(self) -> Usage:
        """Return what it uses now; nothing of a server that was there before."""
        return Usage(0.0, 0.0, 0) if self.process is None else usage(self.process)

    @property
    def seen(self) -> int | None:
        """The process that listens there, None if it is not one of this machine."""
        if self.process is not None:
            return self.process
        return listener(self.port) if httpx.URL(self.url).host in LOOPBACK else None


class Meter:
    """What a server uses between two moments, seen from the same machine."""

    def __init__(self, process: int) -> None:
        self._process = process
        self.cores = sorted(os.sched_getaffinity(process))
        """Those that it may use."""
        self.start()

    def start(self) -> None:
        """Measure from now on."""
        self._at, self._cpu, self._own = monotonic(), usage(self._process).cpu, process_time()
        self._busy = sum(map(busy_seconds, self.cores))

    def read(self) -> Used:
        """Return what was used since the start."""
        now, seconds = usage(self._process), max(monotonic() - self._at, TICK**-1)
        busy = sum(map(busy_seconds, self.cores)) - self._busy
        cores = (now.cpu - self._cpu) / seconds
        beside = os.sched_getaffinity(0) & set(self.cores)  # where its callers work, too
        own = (process_time() - self._own) / seconds if beside else 0.0
        return Used(cores, len(self.cores), now.memory, max(0.0, busy / seconds - cores - own))


def usage(process: int) -> Usage:
    """Return what a process and all below it use."""
    cpu, memory, files, family = 0.0, 0, 0, [process]
    while family:
        parent = Path(f"/proc/{family.pop()}")
        try:
            stat = (parent / "stat").read_text().rsplit(")", 1)[1].split()
            cpu += (int(stat[11]) + int(stat[12])) / TICK
            memory += int((parent / "statm").read_text().split()[1]) * PAGE
            files += len(list((parent / "fd").iterdir()))
            for task in (parent / "task").iterdir():
                family += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has just ended
    return Usage(cpu, memory / 1e6, files)


def busy_seconds(core: int) -> float:
    """Return for how long a core has worked so far, for whomever."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *times = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, *more = map(int, times)
            return (user + nice + system + sum(more[:3])) / TICK
    return 0.0


def listener(port: int) -> int | None:
    """Return the process of this machine that listens on a TCP port, None if it cannot be seen.

    Of several, the one that was there first: the others are its children.
    """
    sockets = {
        f"socket:[{row[9]}]"
        for table in ("tcp", "tcp6")
        for row in map(str.split, _lines(Path(f"/proc/net/{table}"))[1:])
        if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port
    }
    numbers = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next((number for number in numbers if sockets & _open_files(number)), None)


def _open_files(process: int) -> set[str]:
    found = set()
    with suppress(OSError):  # it has just ended, or is somebody else's
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # that one was just closed
                found.add(str(file.readlink()))
    return found


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def apart() -> tuple[set[int], set[int]]:
    """Return the cores for a server and for its callers: the last one, and the one before."""
    return {CORES[-1]}, {CORES[-2] if len(CORES) > 1 else CORES[-1]}


def check_address(url: str) -> None:
    """Raise ValueError if `url` is no server's address; "" is none, and right."""
    try:
        place = urlsplit(url)
        known = place.scheme in ("http", "https") and place.hostname and place.port != 0
    except ValueError:
        known = False
    if url and not known:
        raise ValueError(f"--url is {url!r}; expected http://HOST:PORT or https://…")


async def reachable(url: str, key: str) -> None:
    """Return if a server at `url` takes calls with this key.

    Raises:
        ValueError: If that is no address.
        RuntimeError: If nobody is there, or takes none.
    """
    check_address(url)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=10, headers=headers) as http:
        try:
            about = await http.get(f"{url.rstrip('/')}/v1/about")
            ready = await http.get(f"{url.rstrip('/')}/readyz")
        except httpx.TransportError as error:
            raise RuntimeError(
                f"nobody answers at {url}: {error}. Is voice serve running?"
            ) from error
    if about.status_code in (401, 403):
        raise RuntimeError(f"{url} takes no calls without its key: give it with --key")
    if ready.status_code != 200:
        raise RuntimeError(f"{url} does not take calls now: /readyz says {ready.status_code}")


@asynccontextmanager
async def server(
    url: str = "", settings: Mapping[str, Any] | None = None, cores: set[int] | None = None
) -> AsyncIterator[Measured]:
    """Yield the server at `url`, or one started here on `cores`.

    `settings` are names as in `voice config` with their values.

    Raises:
        ValueError: If the settings are none.
        RuntimeError: If it does not get ready.
    """
    if url:
        place = httpx.URL(url)
        port = place.port or (443 if place.scheme == "https" else 80)
        yield Measured(url, port, None)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as data:
        given = {"data": data, "admission": False, **(settings or {})}  # all shall be measured
        environment = os.environ | {
            f"VOICE_{name.upper().replace('.', '_')}": str(value) for name, value in given.items()
        }
        from_process({"port": port}, environment)  # what is wrong is said once, and by us
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voice.cli", "serve", "--port", str(port)),
            env=environment,
            stdout=asyncio.subprocess.DEVNULL,
        )
        if cores:
            os.sched_setaffinity(process.pid, cores)
        address = f"http://127.0.0.1:{port}"
        try:
            await _ready(address, process)
            yield Measured(address, port, process.pid, Path(data))
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _ready(address: str, process: asyncio.subprocess.Process) -> None:
    """Wait until the server takes calls.

    Raises:
        RuntimeError: If it ends, or takes too long.
    """
    async with httpx.AsyncClient() as client:
        for _ in range(int(STARTED_WITHIN / 0.2)):
            if process.returncode is not None:
                raise RuntimeError(
                    f"the server that was started ended with status {process.returncode}: it says "
                    "why above"
                )
            try:
                if (await client.get(f"{address}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)
    raise RuntimeError(f"the server was not ready after {STARTED_WITHIN:.0f} s")

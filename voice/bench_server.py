"""The server that a benchmark measures: started on a core of its own, and what it uses."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

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
    """

    url: str
    port: int
    process: int | None

    def usage(self) -> Usage:
        """Return what it uses now; nothing of a server that was there before."""
        return Usage(0.0, 0.0, 0) if self.process is None else usage(self.process)


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


def apart() -> tuple[set[int], set[int]]:
    """Return the cores for a server and for its callers: the last one, and the one before."""
    return {CORES[-1]}, {CORES[-2] if len(CORES) > 1 else CORES[-1]}


@asynccontextmanager
async def server(
    url: str = "", settings: Mapping[str, Any] | None = None, cores: set[int] | None = None
) -> AsyncIterator[Measured]:
    """Yield the server at `url`, or one started here on `cores`.

    `settings` are names as in `voice config` with their values.

    Raises:
        RuntimeError: If it does not get ready.
    """
    if url:
        yield Measured(url, httpx.URL(url).port or 80, None)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as data:
        given = {"data": data, "admission": False, **(settings or {})}  # all shall be measured
        environment = os.environ | {
            f"VOICE_{name.upper().replace('.', '_')}": str(value) for name, value in given.items()
        }
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
            yield Measured(address, port, process.pid)
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
                raise RuntimeError(f"the server ended with status {process.returncode}")
            try:
                if (await client.get(f"{address}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)
    raise RuntimeError(f"the server was not ready after {STARTED_WITHIN:.0f} s")

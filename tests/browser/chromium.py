"""Headless Chromium over the DevTools protocol: the few commands that the tests need."""

import asyncio
import base64
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
"""The browser, or None where there is none."""

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1280,800",
    "--remote-debugging-port=0",
)

ALLOW = "--use-fake-ui-for-media-stream"
"""Answers the question for the microphone with yes."""

REFUSE = "--deny-permission-prompts"
"""Answers every question with no."""

PATIENCE = 30.0
"""Seconds that anything may take before a test fails; ample on a busy machine."""

_PEERS = """
    window.peers = [];
    const Real = window.RTCPeerConnection;
    window.RTCPeerConnection = class extends Real {
        constructor(...args) { super(...args); window.peers.push(this); }
    };
"""
"""Lets a test read the statistics of the page's calls, without a hook in the page."""


class Page:
    """One tab. `errors` collects what its console called an error."""

    def __init__(self, socket: ClientConnection) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._sent = 0
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Take what the browser says, until it closes the socket."""
        async for line in self._socket:
            message = json.loads(line)
            if "id" in message:
                self._replies.pop(message["id"]).set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if (
            method == "Runtime.exceptionThrown"
            or (method == "Runtime.consoleAPICalled" and params["type"] == "error")
            or (method == "Log.entryAdded" and params["entry"]["level"] == "error")
        ):
            self.errors.append(json.dumps(params))

    async def send(self, method: str, **params: Any) -> Any:
        """Run one DevTools command and return its result.

        Raises:
            RuntimeError: If the browser refused it.
        """
        self._sent += 1
        self._replies[self._sent] = reply = asyncio.get_running_loop().create_future()
        command = {"id": self._sent, "method": method, "params": params}
        await self._socket.send(json.dumps(command))
        message = await asyncio.wait_for(reply, PATIENCE)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    async def open(self, url: str) -> None:
        """Go to `url` and wait until its modules have run."""
        await self.send("Page.addScriptToEvaluateOnNewDocument", source=_PEERS)
        await self.send("Page.navigate", url=url)
        await self.until(f"location.href.startsWith({url!r}) && document.readyState == 'complete'")

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited if it is a promise.

        Raises:
            RuntimeError: If it threw.
        """
        result = await self.send(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until the expression is true, and return its value.

        Raises:
            AssertionError: If that takes longer than `PATIENCE`.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not (value := await self.run(f"(v => v instanceof Node || v)({script})")):
            if asyncio.get_running_loop().time() > deadline:
                seen = await self.run("document.body.innerText")
                raise AssertionError(f"never true: {script}\nerrors: {self.errors}\n{seen}")
            await asyncio.sleep(0.05)
        return value

    async def click(self, selector: str) -> None:
        """Press the first element that matches, once it can be seen."""
        found = f"document.querySelector({selector!r})"
        await self.until(f"{found} && {found}.checkVisibility()")
        await self.run(f"{found}.click()")

    async def look(self, width: int = 1280, height: int = 800, dark: bool = False) -> bytes:
        """Return a picture (PNG) of the page at this size, in pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])
        await asyncio.sleep(0.3)  # transitions
        picture = await self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(picture["data"])


@asynccontextmanager
async def chromium(profile: Path, *flags: str) -> AsyncIterator[Page]:
    """Start a browser with a fresh profile folder and yield its only tab.

    Raises:
        RuntimeError: If it does not start.
    """
    assert PROGRAM is not None
    process = await asyncio.create_subprocess_exec(
        *command(PROGRAM, profile, flags),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with connect(await _tab(profile), max_size=None) as socket:
            page = Page(socket)
            reader = asyncio.create_task(page.read())
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.send(f"{domain}.enable")
            try:
                yield page
            finally:
                reader.cancel()
                await asyncio.wait([reader])
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its renderers too: they share its session
        await process.wait()


def command(program: str, profile: Path, flags: Sequence[str]) -> list[str]:
    """Return the command line."""
    return [program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]


async def _tab(profile: Path) -> str:
    """Wait for the browser to say its port, and return the address of its tab."""
    async with asyncio.timeout(PATIENCE), httpx.AsyncClient(trust_env=False) as http:
        while True:
            await asyncio.sleep(0.05)
            with suppress(FileNotFoundError, httpx.TransportError):
                port = (profile / "DevToolsActivePort").read_text().partition("\n")[0]
                tabs = (await http.get(f"http://127.0.0.1:{port}/json/list")).json()
                for tab in tabs:
                    if tab["type"] == "page":
                        return str(tab["webSocketDebuggerUrl"])

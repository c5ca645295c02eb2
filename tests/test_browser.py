"""The page, in a real Chromium, against a desk with a script."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from browser.chromium import ALLOW, PROGRAM, REFUSE, Page, chromium
from browser.desk import ABOUT, Event, desk
from browser.microphone import microphone
from speech import say, silence

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no chromium: apt-get install chromium"),
    pytest.mark.timeout(180),
]


def user(text: str, final: bool = True) -> Event:
    return {"type": "captions", "role": "user", "text": text, "final": final}


def agent(text: str, **more: object) -> Event:
    return {"type": "captions", "role": "agent", "text": text, "final": True, **more}


GREETING = [agent("Lakeside Clinic, good morning. How can I help you?")]
STAGES = {"endpoint": 0.31, "asr": 0.01, "llm": 0.06, "tts": 0.02, "unattributed": 0.005}
BOOKING: list[Event] = [
    user("I'd like to", final=False),
    user("I'd like to book an appointment."),
    {"type": "tool", "name": "find_slots", "arguments": {"day": "any"}, "result": {"slots": 3}},
    {"type": "turn", "stages": STAGES, "total": 0.405},
    agent("With which doctor?"),
    {"type": "choices", "choices": ["Doctor Patel", "Doctor Moss"]},
]


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """A browser whose user says one sentence, six seconds after allowing the microphone."""
    speech = np.concatenate([silence(6), say("I'd like to book an appointment."), silence(20)])
    async with chromium(tmp_path / "profile", ALLOW, microphone(tmp_path / "m.wav", speech)) as one:
        yield one


async def words(page: Page, selector: str) -> list[str]:
    """Return the text of each element that matches."""
    script = f"[...document.querySelectorAll({selector!r})].map(found => found.textContent.trim())"
    return [str(text) for text in await page.run(script)]


async def phase(page: Page, name: str) -> None:
    """Wait until the page is in this phase."""
    await page.until(f"document.body.dataset.phase == {name!r}")


async def trouble(page: Page) -> str:
    """Wait for a message about a trouble, and return it."""
    return str(await page.until("!trouble.hidden && trouble.innerText"))


async def write(page: Page, text: str) -> None:
    """Type `text` and press Enter."""
    await page.run("document.querySelector('#text').focus()")
    await page.send("Input.insertText", text=text)
    await press(page, "Enter")


async def energy(page: Page) -> float:
    """Return the energy of the agent's sound so far, as WebRTC counts it."""
    script = """(async () => {
        for (const report of (await window.peers.at(-1).getStats()).values())
            if (report.type == "inbound-rtp") return report.totalAudioEnergy;
        return 0;
    })()"""
    return float(await page.run(script))


async def test_the_page_says_who_answers_and_what_the_ears_can_do(page: Page) -> None:
    async with desk() as server:
        await page.open(server.url)
        await page.until("document.querySelectorAll('#chips button').length == 3")
        assert await words(page, "h1") == ["Lakeside Clinic front desk"]
        assert await words(page, "#honest") == [ABOUT["ears"]["about"]]
        assert await words(page, "#parts code") == [ABOUT["ears"]["better"]]
        assert page.errors == []


async def test_the_page_asks_nobody_but_its_own_server(page: Page) -> None:
    async with desk() as server:
        await page.open(server.url)
        await page.until("document.querySelectorAll('#chips button').length == 3")
        loaded = await page.run("performance.getEntriesByType('resource').map(one => one.name)")
        assert len(loaded) > 5
        assert [name for name in loaded if not name.startswith((server.url, "data:"))] == []


async def test_a_spoken_call_shows_and_plays_both_sides(page: Page, tmp_path: Path) -> None:
    async with desk(GREETING, BOOKING) as server:
        server.words = 0.1
        await page.open(server.url)
        await page.run("""window.seen = []; new MutationObserver(() =>
            seen.push([...lines.querySelectorAll('.said.user')].map(one => one.className)[0])
        ).observe(lines, { subtree: true, childList: true, attributes: true })""")
        await page.click("#talk")
        await phase(page, "speaking")
        await phase(page, "listening")
        await page.until("document.querySelector('.said.user.final')")
        await page.until("document.querySelectorAll('.said.agent.final').length == 2")
        assert "said user" in await page.run("seen")  # a partial caption, before the final one
        assert server.calls[0].heard.is_set()
        assert await energy(page) > 0.01
        assert await words(page, ".said p") == [
            "Lakeside Clinic, good morning. How can I help you?",
            "I'd like to book an appointment.",
            "With which doctor?",
        ]
        assert await words(page, ".tool summary b") == ["find slots"]
        assert await words(page, "#said p") == [
            "Connected",
            "Lakeside Clinic front desk: Lakeside Clinic, good morning. How can I help you?",
            "You: I'd like to book an appointment.",
            "Lakeside Clinic front desk: With which doctor?",
        ]
        for width, height in ((1280, 800), (390, 844)):
            for dark in (False, True):
                file = tmp_path / f"call-{width}-{'dark' if dark else 'light'}.png"
                file.write_bytes(await page.look(width, height, dark))
                assert await page.run("document.documentElement.scrollWidth") <= width
                assert await page.run("document.documentElement.scrollHeight") <= height
        assert page.errors == []


async def test_the_waterfall_draws_each_stage_to_scale(page: Page) -> None:
    async with desk(GREETING, BOOKING) as server:
        await page.open(server.url)
        await page.click("#talk")
        await page.until("document.querySelectorAll('#waterfall .row .bar').length == 5")
        # Both at once: the page may find a new width, and draw anew, between two looks.
        bars, budget = await page.run("""[[...document.querySelectorAll('#waterfall .bar')]
            .map(bar => [bar.x.baseVal.value, bar.width.baseVal.value + 1]),
            document.querySelector('.budget line').x1.baseVal.value]""")
        pixels = (budget - bars[0][0]) / 800  # a millisecond
        for (x, width), (after, _), ms in zip(bars, bars[1:], (310, 10, 60, 20), strict=False):
            assert width == pytest.approx(ms * pixels, abs=0.01)
            assert after == pytest.approx(x + width, abs=0.01)
        assert await words(page, "#readout dd") == [
            "310 ms",
            "10 ms",
            "60 ms",
            "20 ms",
            "5.0 ms",
            "405 ms",
            "800 ms",
        ]


async def test_a_turn_over_its_own_budget_shows_the_stage_at_fault(page: Page) -> None:
    stages = {"framing": 0.02, "jitter": 0.03, "vad": 0.06, "endpoint": 0.2, "llm": 0.3}
    slow = {"type": "turn", "stages": stages, "total": 0.61, "budget": 0.6, "over": "llm"}
    quick = {"type": "turn", "stages": {"endpoint": 0.2, "<b>": 0.01}, "total": 0.21, "over": ""}
    async with desk([{"turn": 1, **slow}, {"turn": 2, "budget": 0.4, **quick}]) as server:
        await page.open(server.url)
        await page.click("#talk")
        await page.until("document.querySelectorAll('#waterfall .row').length == 2")
        faults, limits, bars = await page.run("""[
            [...document.querySelectorAll('.bar.fault')].map(bar => bar.classList[1]),
            [...document.querySelectorAll('.budget line')].map(line => line.x1.baseVal.value),
            [...[...document.querySelectorAll('.row')].at(-1).querySelectorAll('.bar')]
                .map(bar => bar.classList[1])]""")
        assert faults == ["stage-llm"]
        assert bars == ["stage-endpoint", "stage-other"]
        start = await page.run("document.querySelector('#waterfall .bar').x.baseVal.value")
        assert (limits[0] - start) / (limits[1] - start) == pytest.approx(1.5)
        assert await words(page, ".total.over") == ["610"]
        assert (await words(page, "#readout dd"))[-1] == "400 ms"


async def test_the_server_is_told_when_an_answer_is_heard(page: Page) -> None:
    async with desk(GREETING, BOOKING) as server:
        server.words = 0.2
        await page.open(server.url)
        await page.click("#talk")
        await page.until("document.querySelectorAll('.said.agent.final').length == 2")
        while not (told := server.calls[0].received):
            await asyncio.sleep(0.05)
        assert [(one["type"], one["turn"]) for one in told] == [("played", 1)]
        assert 0 < told[0]["late"] < 10


async def test_several_commands_for_better_ears_can_be_copied_one_by_one(page: Page) -> None:
    async with desk() as server:
        await page.open(server.url)
        await page.until("document.querySelectorAll('#parts code').length == 1")
        assert "with one command:" in (await words(page, "#parts .better"))[0]
        better = "voice models fetch whisper-small, then voice serve --asr whisper:small"
        server.about["ears"]["better"] = better
        await page.send("Page.reload")
        await page.until("document.querySelectorAll('#parts code').length == 2")
        assert "with these commands:" in (await words(page, "#parts .better"))[0]
        assert await words(page, "#parts code") == better.split(", then ")


async def test_the_axis_of_the_waterfall_grows_with_the_longest_turn(page: Page) -> None:
    async with desk() as server:
        await page.open(server.url)
        layout = """import('./waterfall.js').then(({ layout }) =>
            layout([{ turn: 1, stages: [['llm', 2600], ['tts', -3]], total: 2650 }]))"""
        placed = await page.run(layout)
        assert placed["end"] == 3000
        assert placed["ticks"] == [0, 1000, 2000, 3000]
        assert [(bar["from"], bar["to"]) for bar in placed["rows"][0]["bars"]] == [
            (0, 2600),
            (2600, 2600),
        ]


async def test_words_that_were_not_heard_are_struck(page: Page) -> None:
    cut = agent("We have Tuesday at", shown="We have Tuesday at ten or at noon.", interrupted=True)
    async with desk([cut]) as server:
        await page.open(server.url)
        await page.click("#talk")
        await page.until("document.querySelector('.said.final del')")
        assert await words(page, ".said del") == ["ten or at noon."]
        assert await words(page, ".said small") == ["— interrupted"]


async def test_what_was_not_understood_is_marked(page: Page) -> None:
    missed = [user("ten or not"), {**user(""), "turn": 2, "understood": False}]
    missed[0]["understood"] = False
    async with desk(missed) as server:
        await page.open(server.url)
        await page.click("#talk")
        await page.until("document.querySelectorAll('.said.user.final').length == 2")
        assert await words(page, ".said.user p") == [
            "ten or not — not understood",
            "Not understood",
        ]


async def test_a_choice_is_sent_as_text(page: Page) -> None:
    async with desk([*GREETING, BOOKING[-1]]) as server:
        await page.open(server.url)
        await page.click("#talk")
        await page.until("document.querySelector('#chips').innerText.includes('Moss')")
        await page.run("document.querySelectorAll('#chips button')[1].click()")
        await page.until("document.querySelector('.said.user.final')")
        assert server.calls[0].received == [{"type": "text", "text": "Doctor Moss"}]
        assert await words(page, "#chips button") == []


async def test_the_talk_is_followed_unless_the_reader_has_scrolled_back(page: Page) -> None:
    burst = [agent(f"Line {turn}. " * 12, turn=turn) for turn in range(30)]
    async with desk(burst, [*burst[-1:], agent("The last.", turn=99), BOOKING[-1]]) as server:
        server.words = 0.0
        await page.open(server.url)
        await page.click("#talk")
        await page.until("document.querySelectorAll('.said.agent.final').length == 30")
        end = "scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight"
        box = "(scroll => {})(document.querySelector('#scroll'))"
        await page.until(box.replace("{}", f"{end} < 2"))
        await page.run(box.replace("{}", "{ scroll.scrollTop = 40; }"))
        await write(page, "Hello")
        await page.until("document.querySelectorAll('#chips button').length == 2")
        assert await page.run(box.replace("{}", "scroll.scrollTop")) == 40


async def test_hanging_up_tells_the_server_and_frees_the_microphone(page: Page) -> None:
    async with desk(GREETING) as server:
        await page.open(server.url)
        await page.run(
            "navigator.mediaDevices.getUserMedia = new Proxy("
            "navigator.mediaDevices.getUserMedia, { async apply(real, self, [asked]) {"
            " window.asked = asked; return window.stream = await real.call(self, asked); } })"
        )
        await page.click("#talk")
        await phase(page, "listening")
        await page.click("#talk")
        await phase(page, "ended")
        assert "You hung up" in (await words(page, ".note.end"))[0]
        assert await page.run("stream.getTracks()[0].readyState") == "ended"
        asked = (await page.run("asked"))["audio"]
        assert asked["echoCancellation"] and asked["noiseSuppression"] and asked["autoGainControl"]
        await asyncio.wait_for(server.calls[0].closed.wait(), 30)
        assert server.calls[0].received == [{"type": "hang_up"}]
        assert server.hung_up == 0
        assert page.errors == []


async def test_leaving_the_page_hangs_up(page: Page) -> None:
    async with desk(GREETING) as server:
        await page.open(server.url)
        await page.click("#talk")
        await phase(page, "listening")
        await page.send("Page.navigate", url="about:blank")
        await asyncio.wait_for(server.calls[0].closed.wait(), 30)
        assert server.hung_up == 1


async def test_a_goodbye_of_the_agent_ends_the_call(page: Page) -> None:
    async with desk([*GREETING, {"type": "end", "reason": "goodbye"}]) as server:
        await page.open(server.url)
        await page.click("#talk")
        await phase(page, "ended")
        assert await words(page, "#status") == ["The agent said goodbye"]
        assert await words(page, "#talk") == ["Talk again"]
        await page.click("#talk")
        await page.until("document.querySelectorAll('.note.end').length == 2")
        assert await words(page, ".said.agent p") == [GREETING[0]["text"]] * 2


async def test_a_call_works_by_typing_where_the_microphone_is_refused(tmp_path: Path) -> None:
    async with desk(GREETING, BOOKING) as server, chromium(tmp_path / "profile", REFUSE) as page:
        await page.open(server.url)
        await page.click("#talk")
        assert "The microphone is not allowed." in await trouble(page)
        assert server.calls == []
        await page.run("document.querySelectorAll('#trouble-actions button')[1].click()")
        await phase(page, "listening")
        await write(page, "I'd like to book an appointment.")
        await page.until("document.querySelectorAll('.said.agent.final').length == 2")
        assert await energy(page) > 0.001
        assert not server.calls[0].heard.is_set()
        assert page.errors == []


async def test_typing_first_starts_a_call_without_a_microphone(page: Page) -> None:
    async with desk(GREETING) as server:
        await page.open(server.url)
        await write(page, "When are you open?")
        await page.until("document.querySelector('.said.user.final')")
        assert server.calls[0].received == [{"type": "text", "text": "When are you open?"}]
        assert await page.run("mute.getAttribute('aria-label')") == "Turn the microphone on"
        await page.click("#mute")
        await page.until("mute.getAttribute('aria-label') == 'Mute the microphone'")
        await asyncio.wait_for(server.calls[0].heard.wait(), 30)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("NotFoundError", "No microphone was found."),
        ("NotReadableError", "The microphone is in use."),
        ("TypeError", "The microphone did not open."),
    ],
)
async def test_a_microphone_that_does_not_open_is_explained(
    page: Page, error: str, told: str
) -> None:
    async with desk() as server:
        await page.open(server.url)
        await page.run(
            "void (navigator.mediaDevices.getUserMedia ="
            f" async () => {{ throw new DOMException('no', '{error}'); }})"
        )
        await page.click("#talk")
        message = await trouble(page)
        assert told in message
        assert "Go on by typing" in message


async def test_an_address_without_a_microphone_is_explained(tmp_path: Path) -> None:
    clinic = "--host-resolver-rules=MAP clinic.test 127.0.0.1"
    async with desk() as server, chromium(tmp_path / "profile", ALLOW, clinic) as page:
        await page.open(server.url.replace("127.0.0.1", "clinic.test"))
        await page.click("#talk")
        message = await trouble(page)
        assert "https:// pages and to localhost only" in message
        assert "Try again" not in message


async def test_a_busy_server_says_when_to_try_again(page: Page) -> None:
    async with desk(GREETING) as server:
        server.busy = 42
        await page.open(server.url)
        await write(page, "When are you open?")
        message = await trouble(page)
        assert "All 32 lines are taken." in message
        assert "Try again (42 s)" in message
        assert await page.run("document.querySelector('#text').value") == "When are you open?"
        await page.until("trouble.innerText.includes('Try again (41 s)')")
        server.busy = 0
        await page.click("#trouble-actions button")
        await phase(page, "listening")
        assert await page.run("trouble.hidden")


async def test_a_server_that_is_gone_is_explained(page: Page) -> None:
    async with desk() as server:
        await page.open(server.url)
    await page.click("#talk")
    assert "The server cannot be reached." in await trouble(page)
    await phase(page, "idle")


async def test_a_call_that_breaks_is_said_to_be_lost(page: Page) -> None:
    async with desk(GREETING) as server:
        await page.open(server.url)
        await page.click("#talk")
        await phase(page, "listening")
        await server.calls[0].close()
        await phase(page, "ended")
        assert await words(page, "#status") == ["The connection was lost"]


async def test_the_keyboard_alone_can_start_and_end_a_call(page: Page) -> None:
    async with desk(GREETING) as server:
        await page.open(server.url)
        await page.until("document.querySelectorAll('#chips button').length == 3")
        reached = []
        while "talk" not in reached:
            await press(page, "Tab")
            reached.append(await page.run("document.activeElement.id"))
            assert len(reached) < 20
        await press(page, "Enter")
        await phase(page, "listening")
        await press(page, "Enter")
        await phase(page, "ended")


async def test_the_key_in_the_address_is_shown_to_the_server(page: Page) -> None:
    async with desk(GREETING) as server:
        await page.open(f"{server.url}?key=open-sesame")
        await page.click("#talk")
        await phase(page, "listening")
        assert server.keys == ["Bearer open-sesame"]


@asynccontextmanager
async def served(data: Path, *flags: str) -> AsyncIterator[str]:
    """Run `voice serve` and yield its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from voice.cli import main; main()", "serve", "--port", "0"),
        *flags,
        cwd=Path(__file__).parents[1],
        env={key: value for key, value in os.environ.items() if not key.startswith("VOICE_")}
        | {"VOICE_DATA": str(data)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(90):
            while (line := (await process.stdout.readline()).decode()).split()[:1] != ["browser"]:
                assert line, "the server has gone"
        yield line.split()[1]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_the_server_itself_answers_a_spoken_call(page: Page, tmp_path: Path) -> None:
    async with served(tmp_path / "data", "--llm", "fake") as url:
        await page.open(url)
        await page.click("#talk")
        await phase(page, "speaking")
        await page.until("document.querySelector('.said.agent.final')")
        greeted = await energy(page)
        assert greeted > 0.001
        await page.until("document.querySelector('.said.user.final')")
        await page.until("document.querySelector('#waterfall .row .bar')")
        await page.until("document.querySelector('.said.user.final ~ .said.agent.final')")
        assert await energy(page) > greeted
        (tmp_path / "server.png").write_bytes(await page.look())
        assert page.errors == []


async def test_the_server_itself_answers_typed_words(tmp_path: Path) -> None:
    async with (
        served(tmp_path / "data") as url,
        chromium(tmp_path / "profile", REFUSE) as page,
    ):
        await page.open(url)
        await write(page, "When are you open on Friday?")
        await page.until("document.querySelector('.said.user.final ~ .said.agent.final')")
        assert await words(page, ".said.user p") == ["When are you open on Friday?"]
        assert await energy(page) > 0.001
        await page.click("#talk")
        await phase(page, "ended")
        assert page.errors == []


async def press(page: Page, key: str) -> None:
    """Press and release one key."""
    text = {"text": "\r"} if key == "Enter" else {}
    code = {"Tab": 9, "Enter": 13}[key]
    for kind in ("keyDown", "keyUp"):
        more = text if kind == "keyDown" else {}
        await page.send(
            "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more
        )

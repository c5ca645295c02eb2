"""The dashboard, in a real Chromium, against the server's own routes."""

import asyncio
import json
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from llm.fake import Fake as FakeMind
from voice.client import dial
from voice.http_api import create_app
from voice.server import Server
from voice.settings import BudgetSettings, Settings

from browser.chromium import ALLOW, PROGRAM, Page, chromium
from browser.microphone import microphone
from browser.records import TUNER, Player, lively, move, record
from helpers import Running, running, voiced
from speech import RATE, say, silence

pytestmark = pytest.mark.timeout(180)

in_browser = pytest.mark.skipif(PROGRAM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path / "profile") as one:
        yield one


@asynccontextmanager
async def watched(
    page: Page, tmp_path: Path, player: Player, rows: int = 1
) -> AsyncIterator[Running]:
    """Serve the records of `player`, and show them: so many turns are drawn when it yields."""
    async with running(tmp_path) as up:
        up.server.steering = player
        await page.open(f"{up.url}/dashboard")
        await page.until(f"document.querySelectorAll('.turn').length >= {rows}")
        yield up


async def words(page: Page, selector: str) -> list[str]:
    """Return the text of each element that matches."""
    script = f"[...document.querySelectorAll({selector!r})].map(found => found.textContent.trim())"
    return [str(text) for text in await page.run(script)]


async def point(page: Page, seq: int) -> None:
    """Press the row of this record."""
    await page.run(f"""document.querySelector('[data-seq="{seq}"]')
        .dispatchEvent(new MouseEvent('click', {{ bubbles: true }}))""")


async def pure(page: Page, script: str) -> Any:
    """Evaluate `script` with what the module `records.js` exports as `records`."""
    return await page.run(f"import('./records.js').then((records) => {script})")


# ---- the route


async def test_the_server_gives_records_after_a_number(tmp_path: Path) -> None:
    async with running(tmp_path) as up, httpx.AsyncClient(base_url=up.url) as http:
        up.server.steering = player = Player(lively(120, 3))  # more than one piece
        whole = await http.get("/v1/dashboard")
        assert whole.headers["content-type"] == "application/json"
        assert whole.json()["records"] == player.records
        assert whole.json()["tuner"] == TUNER
        rest = await http.get("/v1/dashboard?since=117")
        assert [one["seq"] for one in rest.json()["records"]] == [118, 119, 120]
        assert (await http.get("/v1/dashboard?since=120")).json()["records"] == []


@pytest.mark.parametrize("since", ["-1", "x", "", "1" * 400, "１"])
async def test_a_number_that_is_none_is_refused(tmp_path: Path, since: str) -> None:
    async with running(tmp_path) as up, httpx.AsyncClient(base_url=up.url) as http:
        up.server.steering = player = Player([])
        answer = await http.get("/v1/dashboard", params={"since": since})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_since")
        assert player.asked == []


async def test_a_server_without_records_says_why(tmp_path: Path) -> None:
    async with (
        running(tmp_path, trace=False) as up,
        httpx.AsyncClient(base_url=up.url) as http,
    ):
        answer = await http.get("/v1/dashboard")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_trace")
    web = create_app(Server(Settings(data=str(tmp_path), asr="fake", llm="fake", tts="fake")))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(web), base_url="http://localhost"
    ) as http:
        answer = await http.get("/v1/dashboard")  # not started yet
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert answer.headers["retry-after"] == "2"


async def test_no_page_reads_records_under_a_name_that_its_owner_points_here(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as up, httpx.AsyncClient(base_url=up.url) as http:
        up.server.steering = Player(lively(3, 1))
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::", "a@b"):
            answer = await http.get("/v1/dashboard", headers={"Host": host})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "bad_host")
        for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
            assert (await http.get("/v1/dashboard", headers={"Host": host})).status_code == 200


async def test_records_are_for_those_with_the_key(tmp_path: Path) -> None:
    async with (
        running(tmp_path, key="open-sesame") as up,
        httpx.AsyncClient(base_url=up.url) as http,
    ):
        up.server.steering = Player(lively(3, 1))
        assert (await http.get("/v1/dashboard")).status_code == 401
        assert (await http.get("/v1/dashboard?key=open-sesame")).status_code == 200
        page = await http.get("/dashboard/")  # it has no data
        assert page.status_code == 200


async def test_pages_from_elsewhere_get_no_records(tmp_path: Path) -> None:
    async with running(tmp_path) as up, httpx.AsyncClient(base_url=up.url) as http:
        up.server.steering = Player(lively(3, 1))
        away = {"Origin": "https://example.com"}
        assert (await http.get("/v1/dashboard", headers=away)).status_code == 403


async def test_the_short_address_keeps_the_key(tmp_path: Path) -> None:
    async with running(tmp_path) as up, httpx.AsyncClient(base_url=up.url) as http:
        answer = await http.get("/dashboard?key=a%20b")
        assert answer.headers["location"] == "dashboard/?key=a%20b"


# ---- the page


@in_browser
async def test_a_turn_is_drawn_to_scale_with_the_work_behind_the_wait_beneath(
    page: Page, tmp_path: Path
) -> None:
    async with watched(page, tmp_path, Player([record(1)])):
        bars, work, budget, decided = await page.run("""(() => {
            const box = ({ x, width }) => [x.baseVal.value, width.baseVal.value];
            const all = (selector) => [...document.querySelectorAll(selector)];
            return [
                all('.turn .bar').map((bar) => [bar.classList[1], ...box(bar)]),
                all('.turn .work').map((bar) => [bar.classList[1], ...box(bar)]),
                all('.turn .budget')[0].x1.baseVal.value,
                all('.turn .decided')[0].getBBox().x + 4,
            ];
        })()""")
        start = bars[0][1]
        pixels = (budget - start) / 800  # a millisecond
        stages = {"framing": 10, "jitter": 20, "vad": 50, "endpoint": 120, "tts": 100}
        at = 0.0
        for (name, x, width), (stage, ms) in zip(bars, stages.items(), strict=False):
            assert name == f"stage-{stage}"
            assert x == pytest.approx(start + at * pixels, abs=0.1)
            assert width == pytest.approx(ms * pixels - 1, abs=0.1)
            at += ms
        assert decided == pytest.approx(start + 200 * pixels, abs=0.5)
        hidden = {"asr": (40, 90), "llm": (90, 150), "tts": (150, 200)}  # not what is above
        assert [name for name, *_ in work] == [f"stage-{stage}" for stage in hidden]
        for (_, x, width), (begin, end) in zip(work, hidden.values(), strict=True):
            assert x == pytest.approx(start + begin * pixels, abs=1)
            assert width == pytest.approx((end - begin) * pixels, abs=3)
        assert page.errors == []


@in_browser
async def test_numbers_are_of_the_newest_until_a_turn_is_pinned(page: Page, tmp_path: Path) -> None:
    player = Player([record(1, total=0.25), record(2)])
    async with watched(page, tmp_path, player, rows=2):
        assert await words(page, ".whose h3") == ["Turn 2"]
        await point(page, 1)
        assert await words(page, ".whose h3") == ["Turn 1"]
        assert (await words(page, ".stages .sum td"))[0] == "250 ms"
        player.records.append(record(3))
        await page.until("document.querySelectorAll('.turn').length == 3")
        assert await words(page, ".whose h3") == ["Turn 1"]
        await page.click(".whose .pin")
        assert await words(page, ".whose h3") == ["Turn 3"]


@in_browser
async def test_the_keyboard_walks_over_the_turns(page: Page, tmp_path: Path) -> None:
    async with watched(page, tmp_path, Player([record(seq) for seq in range(1, 41)]), rows=5):

        async def press(key: str) -> list[str]:
            await page.run(f"""document.querySelector('#turns').dispatchEvent(
                new KeyboardEvent('keydown', {{ key: '{key}' }}))""")
            return await words(page, ".whose h3")

        assert await press("ArrowDown") == ["Turn 40"]
        assert await press("ArrowDown") == ["Turn 39"]
        assert await press("ArrowUp") == ["Turn 40"]
        assert await press("End") == ["Turn 1"]
        await page.until("document.querySelector('.turn.pinned')")  # it came into sight
        assert await words(page, ".turn.pinned .number") == ["1"]
        active = "document.querySelector('#turns').getAttribute('aria-activedescendant')"
        assert await page.run(active) == "turn-1"
        assert await press("Escape") == ["Turn 40"]


@in_browser
async def test_a_turn_over_its_budget_shows_the_stage_at_fault(page: Page, tmp_path: Path) -> None:
    stages = {"endpoint": 0.2, "llm": 0.4, "tts": 0.1, "unattributed": -0.001}
    slow = record(2, stages=stages, total=0.699, budget=0.6, over="llm")
    async with watched(page, tmp_path, Player([record(1), slow]), rows=2):
        assert await words(page, ".turn.over .total") == ["699"]
        assert await words(page, ".turn.over .blame") == ["thinking"]
        fault, llm, limits = await page.run("""(() => {
            const middle = ({ x, width }) => x.baseVal.value + width.baseVal.value / 2;
            return [
                middle(document.querySelector('.turn .fault')),
                middle(document.querySelector('.turn.over .stage-llm')),
                [...document.querySelectorAll('.turn')].map((row) =>
                    row.querySelector('.budget').x1.baseVal.value),
            ];
        })()""")
        assert fault == pytest.approx(llm, abs=1)
        assert limits[0] < limits[1]
        assert (await words(page, ".stages .blamed th")) == ["thinking"]


@in_browser
async def test_turns_can_be_chosen_by_call_and_by_being_over(page: Page, tmp_path: Path) -> None:
    records = [
        record(1, "call_aaaa"),
        record(2, "call_bbbb"),
        record(3, "call_bbbb", total=0.9, over="tts"),
    ]
    player = Player(records)
    async with watched(page, tmp_path, player, rows=3):
        assert await words(page, "#call option") == ["all calls", "bbbb (2)", "aaaa (1)"]
        await page.click("#only-over")
        await page.until("document.querySelectorAll('.turn').length == 1")
        assert await words(page, "#count") == ["1 over budget"]
        choose = "call.value = '{}', call.dispatchEvent(new Event('change'))"
        await page.run(choose.format("call_aaaa"))
        assert await page.run("!none.hidden")
        await page.click("#only-over")
        await page.until("document.querySelectorAll('.turn').length == 1")
        assert await words(page, ".turn .number") == ["1"]
        player.records.append(record(4, "call_aaaa"))  # the choice outlives what comes
        await page.until("document.querySelectorAll('.turn').length == 2")
        assert await words(page, "#total-numbers .of") == ["p50 301 · 2 turns · 0 % over"]


@in_browser
async def test_histograms_show_each_stage_against_its_share(page: Page, tmp_path: Path) -> None:
    fast, slow = [{"llm": ms / 1000, "endpoint": 0.1} for ms in (10, 200)]
    records = [record(seq, stages=slow if seq > 90 else fast) for seq in range(1, 101)]
    async with watched(page, tmp_path, Player(records)):
        assert await words(page, ".multiples figcaption") == [
            "end of turnp95 100 of 300",
            "thinkingp95 200 of 120",
        ]
        assert await words(page, ".multiples .late figcaption b") == ["thinking"]
        counts = await page.run("""[...document.querySelectorAll('[data-stage=llm] .count')]
            .map((bar) => [bar.classList.contains('beyond'), bar.height.baseVal.value])""")
        assert [beyond for beyond, _ in counts] == [False, True]
        assert counts[0][1] == pytest.approx(9 * counts[1][1], rel=0.1)


@in_browser
async def test_the_tuner_shows_its_knobs_and_its_latest_move_first(
    page: Page, tmp_path: Path
) -> None:
    player = Player(lively(20, 2))
    async with watched(page, tmp_path, player):
        assert await words(page, "#mode") == ["on"]
        assert await words(page, "#state") == ["trying vllm.wait"]
        assert len(await words(page, "#ladders .knob")) == len(TUNER["values"])
        assert await words(page, ".knob.moved .name span") == ["turn.longest_wait", "vllm.wait"]
        assert await words(page, ".knob.pinned .name span") == ["whisper.beam"]
        assert (await words(page, ".move b"))[:2] == ["try", "take back"]
        assert (await words(page, ".move .effect span"))[1] == "p95 860 → 910 ms"
        observed = move(
            900.0, "give_up", "", 0.0, 0.0, applied=False, reason="no setting helps: llm"
        )
        moves = [*TUNER["moves"], observed]
        player.state["tuner"] = TUNER | {"mode": "observe", "moves": moves}
        await page.until("document.querySelectorAll('.move').length == 6")
        assert await words(page, "#mode") == ["watching only"]
        assert await words(page, ".move:first-child p") == ["no setting helps: llm"]


@in_browser
async def test_calls_and_load_are_drawn(page: Page, tmp_path: Path) -> None:
    calls = {"active": 3, "max": 8, "predicted_p95": 0.9}
    player = Player(lively(5, 1), calls=calls, admission={})
    async with watched(page, tmp_path, player):
        drawn = "document.querySelectorAll('#calls .cell{}').length"
        assert [await page.run(drawn.format(kind)) for kind in ("", ".taken", ".next")] == [8, 3, 1]
        assert await words(page, "#prediction .late") == ["p95 with one more call: 900 ms"]
        assert await words(page, "#loop-number") == ["1.2 ms"]
        assert await words(page, "#remainder-number") == ["2.1 ms"]
        busy = {"loop": 0.4, "tts": 0.9}
        known = {"more": 2, "saturated": False, "utilisation": busy, "resource": "tts"}
        player.state["admission"] = known
        await page.until("document.querySelectorAll('#resources figure').length == 2")
        assert await words(page, "#calls-numbers .of") == ["room for 2 more"]
        assert await words(page, "#resources figcaption") == ["event loop40 %", "voice90 %"]
        assert await page.run(drawn.format(".lost")) == 3
        player.state["admission"] = known | {"more": 0, "saturated": True}
        await page.until("document.querySelectorAll('#calls .lost').length == 5")
        assert await words(page, "#calls-numbers .late.of") == ["saturated: no more are taken"]


@in_browser
async def test_before_the_first_turn_the_page_says_how_to_make_one(
    page: Page, tmp_path: Path
) -> None:
    async with running(tmp_path, key="open sesame") as up:
        up.server.steering = player = Player([])
        await page.send("Page.navigate", url=f"{up.url}/dashboard?key=open%20sesame")
        shown = "document.querySelector('#welcome')?.checkVisibility()"
        await page.until(f"document.readyState == 'complete' && {shown}")  # has all its rules
        assert await page.run("welcome.querySelector('a').href") == f"{up.url}/?key=open%20sesame"
        assert await page.run("document.querySelector('#turns').checkVisibility()") is False
        player.records.append(record(1))
        await page.until("document.querySelector('.turn .bar')")
        assert await page.run("welcome.hidden")


@in_browser
async def test_without_the_key_the_page_says_that_one_is_needed(page: Page, tmp_path: Path) -> None:
    async with running(tmp_path, key="open-sesame") as up:
        up.server.steering = Player([])
        await page.open(f"{up.url}/dashboard")
        assert "asks for a key" in await page.until("!trouble.hidden && trouble.innerText")


@in_browser
async def test_a_server_that_comes_back_is_begun_anew_with(page: Page, tmp_path: Path) -> None:
    async with watched(page, tmp_path, Player([record(seq) for seq in range(1, 9)]), rows=8) as up:
        port = up.port
    assert "The server is gone." in await page.until("!trouble.hidden && trouble.innerText")
    assert await page.run("document.querySelectorAll('.turn').length") == 8  # known last
    async with running(tmp_path, port=port) as up:
        up.server.steering = player = Player([record(1, "call_new1"), record(2, "call_new1")])
        await page.until("trouble.hidden && document.querySelectorAll('.turn').length == 2")
        assert player.asked[0] == 0
        assert await words(page, ".turn .call") == ["new1", "new1"]
        player.records.append(record(3, "call_new1"))
        await page.until("document.querySelectorAll('.turn').length == 3")
        assert 2 in player.asked


@in_browser
async def test_a_paused_page_stands_still_and_catches_up(page: Page, tmp_path: Path) -> None:
    player = Player([record(1)])
    async with watched(page, tmp_path, player):
        await page.click("#pause")
        asked = len(player.asked)
        player.records += [record(2), record(3)]
        await asyncio.sleep(1.5)
        assert len(player.asked) <= asked + 1  # one may have been on its way
        assert await page.run("document.querySelectorAll('.turn').length") == 1
        await page.click("#pause")
        await page.until("document.querySelectorAll('.turn').length == 3")
        assert player.asked[-1] in (1, 3)


@in_browser
async def test_no_text_becomes_part_of_the_page(page: Page, tmp_path: Path) -> None:
    evil = "<img src=x onerror='window.hit=1'>\"'><script>window.hit=1</script>"
    stages = {evil: 0.1, "constructor": 0.1, "__proto__x": 0.1}
    hostile = record(
        1, evil, transport=evil, outcome=evil, stages=stages, over=evil, turn=evil, total=None
    )
    late = record(2, evil, stages=stages, total=0.9, over="constructor")
    tuner = {
        "mode": evil,
        "state": evil,
        "values": {evil: {"value": evil, "start": evil, "values": [evil], "pinned": True}},
        "moves": [move(1.0, evil, evil, 1, 2, reason=evil), move(2.0, "constructor", evil, 1, 2)],
    }
    async with watched(page, tmp_path, Player([hostile, late], tuner=tuner), rows=2):
        await point(page, 1)
        assert await words(page, ".whose .call") == [evil]
        assert await words(page, ".move p") == ["", evil]
        assert await page.run("document.querySelectorAll('img, script:not([src])').length") == 0
        assert await page.run("window.hit === undefined")
        assert page.errors == []


@in_browser
async def test_five_hundred_turns_of_fifty_calls_cost_hardly_more_than_fifty(
    page: Page, tmp_path: Path
) -> None:
    player = Player(lively(500, 50))
    async with watched(page, tmp_path, player):
        rows = await page.run("document.querySelectorAll('.turn').length")
        assert rows < 30  # those in sight
        assert await words(page, "#count") != []
        times = await page.run(f"""(async () => {{
            const {{ Turns }} = await import('./turns.js');
            const box = document.querySelector('#turns').cloneNode();
            document.querySelector('.window').append(box);
            const turns = new Turns(box, document.createElement('div'), () => {{}});
            await new Promise((resolve) => setTimeout(resolve, 200)); // it has its width
            const all = {json.dumps([*reversed(player.records)])};
            const time = (records) => {{
                const began = performance.now();
                turns.show(records, 0.8);
                return performance.now() - began;
            }};
            const few = all.slice(-50);
            time(all), time(few);
            const rounds = Array.from({{ length: 15 }}, () => [time(few), time(all)]);
            box.remove();
            return rounds;
        }})()""")
        few, many = [statistics.median(column) for column in zip(*times, strict=True)]
        assert many < 5 * few + 5, (few, many)


@in_browser
async def test_who_has_scrolled_down_keeps_what_they_look_at(page: Page, tmp_path: Path) -> None:
    player = Player(lively(200, 5))
    async with watched(page, tmp_path, player):
        await page.run("void (document.querySelector('#turns').scrollTop = 2000)")
        seen = """[...document.querySelectorAll('.turn')].map((row) => [+row.dataset.seq,
            row.getBoundingClientRect().top]).toSorted((a, b) => b[0] - a[0])"""
        await page.until(f"({seen})[0][0] < 180")
        before = dict(await page.run(seen))
        player.records += lively(3, 5, first=201)
        await page.until("document.querySelector('#count').textContent.startsWith('203')")
        after = dict(await page.run(seen))
        assert before.keys() & after.keys()
        for seq in before.keys() & after.keys():
            assert after[seq] == pytest.approx(before[seq], abs=1)


@in_browser
async def test_other_turns_begin_with_the_newest(page: Page, tmp_path: Path) -> None:
    player = Player(lively(300, 5))
    async with watched(page, tmp_path, player):
        await page.run("void (document.querySelector('#turns').scrollTop = 4000)")
        await page.until(
            "[...document.querySelectorAll('.turn')].every((row) => row.id != 'turn-300')"
        )
        newest = (
            "Math.max(...[...document.querySelectorAll('.turn')].map((row) => row.dataset.seq))"
        )
        await page.click("#only-over")
        over = max(one["seq"] for one in player.records if one["over"])
        await page.until(f"{newest} == {over}")
        await page.click("#only-over")
        await page.until(f"{newest} == 300")
        assert await page.run("document.querySelector('#turns').scrollTop") == 0


@in_browser
async def test_the_page_asks_nobody_but_its_own_server(page: Page, tmp_path: Path) -> None:
    async with watched(page, tmp_path, Player(lively(5, 1))) as up:
        loaded = await page.run("performance.getEntriesByType('resource').map((one) => one.name)")
        assert len(loaded) > 10
        assert all(name.startswith((up.url, "data:")) for name in loaded), loaded


@in_browser
async def test_it_fits_every_width_in_both_lights(page: Page, tmp_path: Path) -> None:
    async with watched(page, tmp_path, Player(lively(300, 20))):
        for width, height in ((1440, 1000), (900, 1000), (400, 860)):
            for dark in (False, True):
                file = tmp_path / f"dashboard-{width}-{'dark' if dark else 'light'}.png"
                file.write_bytes(await page.look(width, height, dark))
                assert await page.run("document.documentElement.scrollWidth") <= width
        assert page.errors == []


# ---- real calls


@in_browser
async def test_turns_of_real_calls_are_drawn_as_they_end(page: Page, tmp_path: Path) -> None:
    speech = voiced()
    budget = BudgetSettings(total=0.35)

    async def call(url: str, pause: float) -> None:
        async with dial(url) as caller:
            await caller.until(lambda: bool(caller.heard()), 10)
            await asyncio.sleep(pause)
            for turn in (1, 2):
                await caller.say(speech, RATE)
                await caller.until(lambda turn=turn: len(caller.heard()) > turn, 10)

    async with running(tmp_path, budget=budget, mind=FakeMind("Good day.", first=0.5)) as up:
        await page.open(f"{up.url}/dashboard")
        await page.until("!welcome.hidden")
        await asyncio.gather(*(call(up.url, 0.3 * at) for at in range(3)))
        await page.until("document.querySelectorAll('.turn').length == 6")
        assert await page.run("document.querySelectorAll('#call option').length") == 4
        records = {one["seq"]: one for one in up.server.steering.snapshot(0)["records"]}
        drawn = await page.run("""[...document.querySelectorAll('.turn')].map((row) => [
            +row.dataset.seq, row.querySelector('.total').textContent,
            row.querySelector('.number').textContent, row.querySelector('.call').textContent,
            row.querySelector('.blame').textContent])""")
        said = await page.run("import('./stages.js').then(({ STAGES }) => [...STAGES])")
        for seq, total, number, name, blame in drawn:
            of = records[seq]
            assert abs(int(total) - of["total"] * 1000) < 0.51
            assert (number, blame) == (str(of["turn"]), dict(said)[of["over"]])
            assert of["call"].endswith(name)
        assert "thinking" in await words(page, ".turn .blame")
        (tmp_path / "real.png").write_bytes(await page.look(1440, 1000))
        assert page.errors == []


@in_browser
async def test_a_browser_says_when_its_user_hears_the_answer(tmp_path: Path) -> None:
    speech = np.concatenate([silence(5), say("Could you help me please?"), silence(60)])
    spoken = microphone(tmp_path / "m.wav", speech)
    async with running(tmp_path) as up, chromium(tmp_path / "profile", ALLOW, spoken) as page:
        await page.open(up.url)
        await page.click("#talk")
        await page.until("document.querySelector('#waterfall .row')")
        while not (records := up.server.steering.snapshot(0)["records"]):
            await asyncio.sleep(0.05)
        marks = records[0]["marks"]
        assert records[0]["transport"] == "webrtc"
        assert marks["played"] > marks["heard"]


# ---- what is drawn of a record


@in_browser
async def test_hidden_work_is_what_the_critical_path_does_not_show(
    page: Page, tmp_path: Path
) -> None:
    spans = [
        ["endpoint", 0.0, 0.2],  # a wait is no work
        ["asr", -0.3, -0.1],  # while the caller spoke
        ["asr", -0.1, 0.05],
        ["llm", 0.04, 0.26],  # it ends on the path
        ["tts", 0.26, 0.9],  # it goes on while the caller listens
    ]
    turn = {"stages": {"endpoint": 0.2, "llm": 0.06, "tts": 0.04}, "spans": spans, "total": 0.3}
    async with running(tmp_path) as up:
        up.server.steering = Player([])
        await page.open(f"{up.url}/dashboard")
        placed = await pure(page, f"records.place({json.dumps(turn)})")
        drawn = [(one["stage"], one["from"], one["to"], one["lane"]) for one in placed["hidden"]]
        assert drawn == [("asr", 0, 0.05, 0), ("llm", 0.04, 0.2, 1)]
        assert [one["stage"] for one in placed["path"]] == ["endpoint", "llm", "tts"]
        silent = {"stages": {}, "spans": [["llm", 0.1, 0.3]], "total": None}
        placed = await pure(page, f"records.place({json.dumps(silent)})")
        assert [one["to"] for one in placed["hidden"]] == [0.3]


@in_browser
async def test_one_very_long_turn_does_not_make_the_others_small(
    page: Page, tmp_path: Path
) -> None:
    async with running(tmp_path) as up:
        up.server.steering = Player([])
        await page.open(f"{up.url}/dashboard")
        script = "records.axis([{{ total: {} }}, {{ total: 0.3 }}], 0.8, 8)"
        assert (await pure(page, script.format(30)))["end"] == pytest.approx(1.4)
        assert (await pure(page, script.format(0.2)))["end"] == pytest.approx(1.0)
        ticks = (await pure(page, script.format(0.2)))["ticks"]
        assert ticks == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        values = "Array.from({ length: 100 }, (_, i) => 100 - i)"
        assert await pure(page, f"records.percentile({values}, 95)") == 95
        assert await pure(page, "records.percentile([], 95)") is None
        assert await pure(page, "records.histogram([0, 0.5, 1, 9, -1], 1, 2)") == [2, 3]

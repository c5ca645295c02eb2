"""What `voice tune` writes: the profile file and the report."""

import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from voice.settings import from_process, load, value_of
from voice.tune_figures import by_calls
from voice.tune_findings import About, Findings, bought
from voice.tune_ladders import ladders, validity
from voice.tune_plots import Axis, Plot, reach, ticks
from voice.tune_profile import profile
from voice.tune_report import report
from voice.tune_runs import Goal, Outcome
from voice.tune_search import Search

KNOBS = ("turn.shortest_wait", "turn.longest_wait", "turn.speculation_lead", "turn.speculations")


def outcome(knobs: dict[str, float], calls: int, turns: int, rng: random.Random) -> Outcome:
    """What a server might give: waits are heard, cut in when short; speculation hides the engines
    and costs; many calls queue."""
    shortest, longest = knobs["turn.shortest_wait"], knobs["turn.longest_wait"]
    hidden = min(0.24, knobs["turn.speculation_lead"]) if knobs["turn.speculations"] else 0.0
    queue = 0.01 / max(0.05, 1 - calls / 95)
    shift = rng.gauss(0, 0.006)
    waits = [max(shortest, longest - rng.choice((0.0, 0.0, 0.1))) for _ in range(turns)]
    gaps = tuple(0.01 + w + 0.24 - hidden + queue + shift + rng.gauss(0, 0.01) for w in waits)
    cut_ins = sum(rng.random() < max(0.0, 0.58 - w) / 0.5 for w in waits)
    cost = 0.6 + 0.06 * knobs["turn.speculations"] ** 0.5 + 0.1 * knobs["turn.speculation_lead"]
    return Outcome(
        gaps=gaps[cut_ins:],
        turns=turns,
        bad=cut_ins,
        cut_ins=cut_ins,
        cost=cost * (1 + rng.gauss(0, 0.015)) + 2 / calls,
        memory=0.31,
        took=50.0 if turns > 100 else 25.0,
    )


def searched(
    budget: float = 0.8, minutes: float = 20.0, cost_per_hour: float = 0.0, seed: int = 3
) -> Findings:
    """A search over made-up results."""
    effective = from_process({"profile": "bench"})
    goal = Goal(calls=20, budget=budget, seconds=60 * minutes)
    search = Search(goal, ladders(effective, KNOBS))
    search.valid = validity(effective, search.results.values)
    rng = random.Random(seed)
    while (trial := search.next()) is not None:
        knobs = {name: float(value) for name, value in search.results.values(trial.point).items()}
        if knobs["turn.speculation_lead"] == 0.8 and trial.phase == "screen":
            search.record(Outcome(failed="the server ended with status 1 <&>", took=3.0))
            continue
        turns = trial.calls * (6 if trial.long else 3)
        search.record(outcome(knobs, trial.calls, turns, rng))
    about = About(
        command="voice tune --calls 20 --budget 0.8 --profile bench",
        date="2026-11-30T11:00+00:00",
        machine="2 × A Processor, 8 GiB, Python 3.11.7",
        engines={"asr": "bench", "llm": "bench", "tts": "bench"},
        version="0.1",
        load="Calls.",
        cost_per_hour=cost_per_hour,
    )
    return Findings(search, about)


def test_the_profile_file_is_what_the_best_was_measured_with(tmp_path: Path) -> None:
    findings = searched()
    file = tmp_path / "tuned.toml"
    file.write_text(profile(from_process({"profile": "bench"}), findings))
    read = load(file, {}, {}).settings
    for name, value in findings.results.values(findings.best.point).items():
        assert value_of(read, name) == value
    assert (read.profile, read.budget.total, read.budget.percentile) == ("bench", 0.8, 95.0)
    text = file.read_text()
    assert text.startswith("# Found: p95 ≤ 800 ms at 20 calls is held")
    assert "voice tune --calls 20" in text
    assert re.search(r"Measured in \d+ turns: p50 \d+ ms", text)


def test_a_profile_file_keeps_what_was_set_and_tells_no_secret(tmp_path: Path) -> None:
    findings, file = searched(), tmp_path / "voice.toml"
    file.write_text('profile = "bench"\nkey = "secret"\nmax_calls = 7\n[bench]\ndelays = 0.5\n')
    written = tmp_path / "tuned.toml"
    written.write_text(profile(load(file, {"VOICE_LLM_KEY": "hidden"}, {}), findings))
    read = load(written, {}, {}).settings
    assert (read.max_calls, read.bench.delays) == (7, 0.5)
    assert not re.search("secret|hidden", written.read_text())


def test_where_nothing_holds_the_nearest_is_written_and_said_to_be_no_more() -> None:
    findings = searched(budget=0.3)
    assert not findings.holds
    assert findings.verdict().startswith("No configuration tried holds p95 ≤ 300 ms at 20 calls")
    assert profile(from_process({"profile": "bench"}), findings).startswith("# No configuration")
    assert "No configuration tried holds" in report(findings)


class Page(HTMLParser):
    """Checks that what is opened is closed, and notes what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.drawings = 0
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.drawings += tag == "svg"
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        self.loads += [tag] * (tag in ("script", "link", "img", "iframe"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """It is closed."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("budget", [0.8, 0.3])
@pytest.mark.parametrize("cost_per_hour", [0.0, 3.5])
def test_the_report_is_one_whole_page_that_loads_nothing(
    budget: float, cost_per_hour: float
) -> None:
    findings = searched(budget, cost_per_hour=cost_per_hour)
    text, page = report(findings), Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert page.drawings >= 3 + 2 * len(KNOBS)
    assert "url(" not in text
    assert "nan" not in re.findall(r'(?:cx|cy|x|y|points|d)="([^"]*)"', text)
    assert "inf" not in re.sub(r"<[^>]*>", "", text).split()
    rows = text.partition("Every configuration tried")[2].partition("</table>")[0]
    assert rows.count("<tr") == 1 + sum(bool(m.runs) for m in findings.results.measured.values())
    assert "status 1 &lt;&amp;&gt;" in text
    for part in (findings.about.command, findings.about.machine, findings.about.date):
        assert part in text


def test_a_report_of_a_search_that_had_just_begun_is_whole_too() -> None:
    page = Page()
    page.feed(report(searched(minutes=0.1)))
    assert page.open == []


def test_what_a_knob_bought_is_told_with_its_spread() -> None:
    findings = searched()
    steps = {step.value: step for step in bought(findings.results, 1)}
    best = findings.results.values(findings.results.base)["turn.longest_wait"]
    assert steps[best].p == 0.0
    shorter = steps[0.2]
    assert shorter.p == pytest.approx(0.2 - float(best), abs=0.05)
    assert shorter.p_spread[0] < shorter.p < shorter.p_spread[1]


def test_a_price_is_the_machines_by_its_calls() -> None:
    findings = searched(cost_per_hour=3.6)
    levels = findings.levels(findings.best.point)
    for level in levels:
        assert level.price == pytest.approx(0.06 / level.measured.calls)


def test_no_measurement_on_the_front_is_beaten() -> None:
    findings = searched()
    axes = [(m.at(95), -m.calls, m.cost) for m in findings.front()]
    assert len(axes) > 2
    for one in axes:
        assert not any(o != one and all(a <= b for a, b in zip(o, one, strict=True)) for o in axes)


def test_more_calls_bend_the_latency() -> None:
    findings = searched(minutes=60.0)
    knee = findings.knee(findings.best.point)
    assert knee is not None
    assert knee > 20
    assert f"knee: {knee:g}" in by_calls(findings)


def test_ticks_are_round_and_an_axis_shows_all() -> None:
    assert ticks(0, 870, 5) == [0, 200, 400, 600, 800]
    assert ticks(0.91, 1.16, 5) == [0.95, 1.0, 1.05, 1.1, 1.15]
    assert ticks(1, 1) == [1]
    assert reach([float("inf"), 1.0, 2.0]) == (0.0, pytest.approx(2.16))
    plot = Plot(Axis(0, 10, "x"), Axis(0, 100, "y"))
    left, bottom = plot.place(0, 0)
    right, top = plot.place(10, 100)
    assert left < right
    assert top < bottom
    assert plot.place(20, 200) == (right, top)

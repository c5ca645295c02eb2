"""The dashboard for Grafana asks only for metrics and labels that a server has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latency.engine_metrics import Facts
from latency.metrics import Metrics

from records import record

FILE = Path(__file__).parent.parent / "deploy" / "grafana" / "sidetone.json"

BOARD: dict[str, Any] = json.loads(FILE.read_text())

NOT_SHOWN = {"voice_about"}
"""What is there to be joined with, or read by people."""


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every PromQL expression with the title of what it is for."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for note in BOARD["annotations"]["list"]:
        yield note["name"], note["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def known() -> dict[str, set[str]]:
    """Return the labels of every sample that a server of some experience has."""
    metrics = Metrics()
    metrics.name("1.0", "gpu", "whisper", "vllm:qwen", "coqui")
    metrics.take(record(over="llm", cut_in=True, barge_in={"heard": 1.0, "stopped": 1.1}))
    metrics.moved({"knob": "k", "kind": "try", "after": 1.0, "applied": True})
    metrics.ended.labels("hang_up")
    metrics.tools.labels("done")
    fared = {"served": 1.0}
    metrics.engines.ask = lambda: Facts(
        up={"e": True},
        device={"e": {"asr": fared}},
        load={"vllm:qwen": {"running": 1}},
        upstreams={"u": True},
        failovers={("a", "b"): 1},
        budget={"total": 0.8},
        predicted=0.7,
        lost={"otlp": 1},
    )
    labels: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


KNOWN = known()


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_what_is_asked_for_is_there(title: str, expression: str) -> None:
    names = set(re.findall(r"voice_\w+", expression))
    assert names, title
    assert names <= KNOWN.keys(), f"{title}: {names - KNOWN.keys()}"
    for name, selector in re.findall(r"(voice_\w+)\{([^}]*)\}", expression):
        asked = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector))
        assert asked <= KNOWN[name], f"{title}: {name} has no label {asked - KNOWN[name]}"
    of_all = set().union(*(KNOWN[name] for name in names))
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        asked = set(group.replace(" ", "").split(","))
        assert asked <= of_all, f"{title}: no label {asked - of_all}"
    for opened, closed in ("()", "[]", "{}"):
        assert expression.count(opened) == expression.count(closed), title


def test_a_rate_is_taken_of_counters_only() -> None:
    for title, expression in expressions():
        for name in re.findall(r"(?:rate|increase)\((voice_\w+)", expression):
            assert name.endswith(("_total", "_bucket", "_sum", "_count")), f"{title}: {name}"


def test_every_metric_is_shown() -> None:
    shown = {name for _, text in expressions() for name in re.findall(r"voice_\w+", text)}
    families = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in KNOWN if not name.endswith("_created")
    }
    missing = {f for f in families if not any(name.startswith(f) for name in shown)}
    assert missing == NOT_SHOWN


def test_legends_name_labels_that_are_there() -> None:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            names = set(re.findall(r"voice_\w+", target["expr"]))
            there = set().union(*(KNOWN[name] for name in names))
            asked = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert asked <= there, panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])

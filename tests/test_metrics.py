import string
from collections.abc import Iterator
from random import Random

import pytest
from prometheus_client import generate_latest

from latency.engine_metrics import Facts
from latency.labels import OTHER, Label
from latency.metrics import Metrics

from records import record


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return one sample, whatever its other labels are."""
    found = [
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None


def series(metrics: Metrics) -> int:
    return sum(len(family.samples) for family in metrics.registry.collect())


def named() -> Metrics:
    metrics = Metrics()
    metrics.name("1.0", "gpu", asr="whisper:turbo", llm="vllm:qwen", tts="coqui:vits")
    return metrics


def test_a_turn_is_counted_by_stage_under_the_engine_that_owns_it() -> None:
    metrics = named()
    metrics.take(record())
    of_model = {"profile": "gpu", "transport": "websocket"}
    tts = {"stage": "tts", "model": "coqui:vits", **of_model}
    phrase = {"stage": "first_phrase", "model": "vllm:qwen", **of_model}
    endpoint = {"stage": "endpoint", "model": "", **of_model}
    assert value(metrics, "voice_stage_seconds_sum", **tts) == pytest.approx(0.05)
    assert value(metrics, "voice_stage_seconds_sum", **phrase) == pytest.approx(0.02)
    assert value(metrics, "voice_stage_seconds_sum", **endpoint) == pytest.approx(0.14)
    assert value(metrics, "voice_turn_seconds_sum", **of_model) == pytest.approx(0.3)
    assert value(metrics, "voice_turns_total", outcome="played") == 1
    assert value(metrics, "voice_stage_seconds_count", stage="unattributed") is None


@pytest.mark.parametrize(("rest", "border"), [(-0.003, "-0.001"), (0.002, "0.002"), (0.03, "0.05")])
def test_the_remainder_keeps_its_sign(rest: float, border: str) -> None:
    metrics = named()
    metrics.take(record(stages={"endpoint": 0.3 - rest, "unattributed": rest}))
    below = [
        (float(sample.labels["le"]), sample.value)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "voice_unattributed_seconds_bucket"
    ]
    assert min(edge for edge, count in below if count) == float(border)
    assert "voice_unattributed_seconds_bucket" in metrics.text().decode()


def test_the_pace_of_the_engines_is_counted_under_their_names() -> None:
    metrics = named()
    metrics.take(record())
    llm = {"model": "vllm:qwen"}
    assert value(metrics, "voice_llm_first_token_seconds_sum", **llm) == pytest.approx(0.05)
    assert value(metrics, "voice_llm_tokens_per_second_sum", **llm) == pytest.approx(95)
    of95 = value(metrics, "voice_llm_inter_token_seconds_sum", percentile="p95", **llm)
    assert of95 == pytest.approx(0.011)
    asr, tts = {"model": "whisper:turbo"}, {"model": "coqui:vits"}
    assert value(metrics, "voice_asr_real_time_factor_sum", **asr) == pytest.approx(0.1)
    assert value(metrics, "voice_tts_real_time_factor_sum", **tts) == pytest.approx(0.05)


def test_a_turn_that_nobody_heard_has_an_outcome_and_no_time() -> None:
    metrics = named()
    metrics.take(record(total=None, stages={}, outcome="unheard", llm=None, asr=None, tts=None))
    assert value(metrics, "voice_turns_total", outcome="unheard") == 1
    assert value(metrics, "voice_turn_seconds_count") is None


def test_what_went_wrong_is_counted() -> None:
    metrics = named()
    metrics.take(record(over="llm", cut_in=True, barge_in={"heard": 1.2, "stopped": 1.26}))
    metrics.take(record(barge_in={"heard": 1.2, "stopped": None}))
    assert value(metrics, "voice_turns_over_budget_total", stage="llm") == 1
    assert value(metrics, "voice_cut_ins_total", transport="websocket") == 1
    assert value(metrics, "voice_barge_in_stop_seconds_sum") == pytest.approx(0.06)
    assert value(metrics, "voice_barge_in_stop_seconds_count") == 1


def test_moves_of_the_tuner_are_counted_and_only_applied_ones_turn_the_knob() -> None:
    metrics = named()
    metrics.turned("turn.longest_wait", 1.5)
    move = {"type": "tuner", "knob": "turn.longest_wait", "kind": "try", "after": 1.0}
    metrics.moved(move | {"applied": False})
    assert value(metrics, "voice_knob_value", knob="turn.longest_wait") == 1.5
    metrics.moved(move | {"applied": True})
    assert value(metrics, "voice_knob_value", knob="turn.longest_wait") == 1.0
    assert value(metrics, "voice_tuner_moves_total", kind="try", applied="false") == 1
    assert value(metrics, "voice_tuner_moves_total", kind="try", applied="true") == 1


def odd_names(count: int) -> Iterator[str]:
    random = Random(1)
    letters = string.printable + "äöü\x00\u2028😀"
    for _ in range(count):
        yield "".join(random.choices(letters, k=random.randrange(1, 40)))


def test_ten_thousand_odd_names_make_no_more_series() -> None:
    metrics = named()
    for name in odd_names(200):
        odd(metrics, name)
    before = series(metrics)
    for name in odd_names(10_000):
        odd(metrics, name)
    assert series(metrics) <= before + 200
    assert len(metrics.text()) < 2_000_000


def odd(metrics: Metrics, name: str) -> None:
    """Let everything that a name can reach have this one."""
    metrics.name(name, name, name, name, name)
    metrics.take(record(transport=name, outcome=name, over=name, stages={name: 0.1}))
    metrics.moved({"knob": name, "kind": name, "after": 1.0, "applied": True})
    metrics.turned(name, 1.0)
    metrics.finished_work({name: 0.1}, True)
    told = {name: {"served": 1.0}}
    metrics.engines.ask = lambda: Facts(
        up={name: True},
        device={name: told},
        upstreams={name: True},
        failovers={(name, name): 1},
        budget={name: 0.1},
        lost={name: 1},
        load={name: {}},
    )
    list(metrics.engines.collect())


def test_a_label_lets_in_what_it_knows_and_a_few_more() -> None:
    label = Label("websocket", room=1)
    assert [label(name) for name in ("websocket", "sip", "rtp", "sip")] == [
        *("websocket", "sip", OTHER, "sip")
    ]
    assert label("a\nb") == label(None) == label(7) == OTHER
    assert Label(room=1)("x" * 1000) == OTHER


def test_pieces_are_the_whole_text() -> None:
    metrics = named()
    metrics.take(record())
    pieces = list(metrics.pieces())
    assert len(pieces) > 30
    assert b"".join(pieces) == metrics.text() == generate_latest(metrics.registry)


def test_engines_are_asked_when_prometheus_asks() -> None:
    metrics = named()
    fared = {"served": 10, "late": 2, "busy": 1.5, "waited_p50": 0.01, "waited_p95": 0.05}
    metrics.engines.ask = lambda: Facts(
        up={"whisper": True, "vllm:qwen": False},
        device={"whisper": {"asr final": fared}},
        load={"vllm:qwen": {"running": 3, "waiting": 1, "kv_usage": 0.5, "asked": 9, "hits": 4}},
        upstreams={"openai:a": False},
        failovers={("openai:a", "openai:b"): 4},
        budget={"total": 0.8, "endpoint": 0.3},
        lost={"otlp": 7},
        sent=11,
    )
    assert value(metrics, "voice_engine_up", engine="vllm:qwen") == 0
    assert value(metrics, "voice_device_served_total", kind="asr final") == 10
    assert value(metrics, "voice_device_wait_seconds", percentile="p95") == 0.05
    assert value(metrics, "voice_llm_requests", state="waiting") == 1
    assert value(metrics, "voice_llm_prefix_tokens_total", found="false") == 5
    assert value(metrics, "voice_upstream_up", upstream="openai:a") == 0
    assert value(metrics, "voice_failovers_total", asked="openai:a", answered="openai:b") == 4
    assert value(metrics, "voice_budget_seconds", stage="endpoint") == 0.3
    assert value(metrics, "voice_lost_total", what="otlp") == 7
    assert value(metrics, "voice_otlp_sent_total") == 11

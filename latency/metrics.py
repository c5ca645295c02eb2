"""What Prometheus can ask for: calls, turns by stage, engines, tuner. Labels come from small sets.

Events go in as the call log has them (`take`), so nothing here is told twice, and what a call's
record says is what the histograms say. The remainder that no stage covers is a metric of its own:
it is signed and never clipped, and a histogram with borders below zero tells on which side it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from latency.engine_metrics import EngineMetrics
from latency.labels import Label
from latency.spans import ORDER, REST

SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8),
    *(1.0, 1.5, 2.5, 5.0),
)
"""Bucket borders of stages and whole turns; 0.8 s is the default budget."""

REST_SECONDS = (-0.1, -0.02, -0.005, -0.001, 0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
"""Borders for what no stage covers. A turn closes within 5 ms, so most lies around zero."""

BETWEEN = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
"""Borders for the time from one token to the next: an H200 needs 2 ms, a busy CPU 200."""

PACE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Borders for tokens in a second; speech needs about 4."""

FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
"""Borders for real-time factors; over 1 an engine cannot keep up."""

LATE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Borders for how late the event loop is."""

OWNER = {"asr": "asr", "llm": "llm", "first_phrase": "llm", "tts": "tts", "silence": "tts"}
"""The engine that a stage is the work of; the others are the server's own."""

OUTCOMES = ("played", "interrupted", "unheard", "failed", "hung_up")


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._profile, self._models = "", dict.fromkeys(("asr", "llm", "tts"), "")
        self._transport = Label("websocket", "webrtc", "rtp", "sip", "realtime")
        self._stage = Label("", "total", REST, *ORDER)
        self._name = Label("", room=8)
        self._knob = Label("", room=64)
        self._kind = Label("try", "keep", "roll_back", "restore", "relieve", "give_up")
        self._outcome = Label(*OUTCOMES)
        self._one: Callable[..., Any] = cache(lambda family, *labels: family.labels(*labels))
        """One series of a family; to look it up in the family takes longer than to add to it."""
        self.engines = EngineMetrics(self.registry)
        """What engines and exporters tell when they are asked."""
        self._calls()
        self._turns()
        self._paces()
        self._loop()
        self._at_zero()

    def name(self, version: str, profile: str, asr: str, llm: str, tts: str) -> None:
        """Say what this server runs: labels of what comes after."""
        self._profile = self._name(profile)
        self._models = {"asr": self._name(asr), "llm": self._name(llm), "tts": self._name(tts)}
        self.about.labels(self._name(version), self._profile, *self._models.values()).set(1)

    def take(self, record: Mapping[str, Any]) -> None:
        """Count one turn: a call's event "trace", see `latency.trace`."""
        transport = self._transport(record.get("transport"))
        self._one(self.turns, transport, self._outcome(record.get("outcome"))).inc()
        if (total := record.get("total")) is not None:
            self._one(self.turn, self._profile, transport).observe(total)
            for stage, seconds in record["stages"].items():
                self._took(stage, seconds, transport)
        if over := record.get("over"):
            self._one(self.over, self._stage(over)).inc()
        if record.get("cut_in"):
            self._one(self.cut_ins, transport).inc()
        barge = record.get("barge_in") or {}
        if barge.get("stopped") is not None:
            self._one(self.stopped, transport).observe(max(0.0, barge["stopped"] - barge["heard"]))
        self._went(record)

    def moved(self, move: Mapping[str, Any]) -> None:
        """Count one move of the tuner: the event "tuner", see `latency.tuner.Move`."""
        knob = self._knob(move.get("knob"))
        applied = bool(move.get("applied"))
        self._one(self.moves, knob, self._kind(move.get("kind")), str(applied).lower()).inc()
        if applied and knob:
            self._one(self.knob, knob).set(move["after"])

    def turned(self, knob: str, value: float) -> None:
        """Say what a knob stands at."""
        self._one(self.knob, self._knob(knob)).set(value)

    def finished_work(self, seconds: Mapping[str, float], wasted: bool) -> None:
        """Count the engine time of one answer, in seconds by stage."""
        for stage, time in seconds.items():
            self._one(self.engine_seconds, self._stage(stage)).inc(max(0.0, time))
            if wasted:
                self._one(self.wasted_seconds, self._stage(stage)).inc(max(0.0, time))

    def looked(self, late: float, lately: float) -> None:
        """Note that the loop was `late` seconds, and how late it was `lately`."""
        self.lag.observe(max(0.0, late))
        self.late.set(lately)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format; takes some milliseconds."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Yield the same in pieces, so that a loop with calls on it may do other things between."""
        for family in self.registry.collect():
            yield generate_latest(_One(family))

    def _took(self, stage: str, seconds: float, transport: str) -> None:
        """Count one stage of one turn."""
        if stage == REST:
            self._one(self.rest, self._profile, transport).observe(seconds)
            return
        model = self._models[OWNER[stage]] if stage in OWNER else ""
        self._one(self.stage, self._stage(stage), self._profile, model, transport).observe(seconds)

    def _went(self, record: Mapping[str, Any]) -> None:
        """Count how fast the engines were."""
        if llm := record.get("llm"):
            model = self._models["llm"]
            self._one(self.ttft, model).observe(llm["ttft"])
            if "tokens_per_second" in llm:
                self._one(self.pace, model).observe(llm["tokens_per_second"])
            for of in ("p50", "p95"):
                if (between := llm.get(f"itl_{of}")) is not None:
                    self._one(self.between, model, of).observe(between)
        for engine, factors in (("asr", self.asr_factor), ("tts", self.tts_factor)):
            if (factor := (record.get(engine) or {}).get("rtf")) is not None:
                self._one(factors, self._models[engine]).observe(factor)

    def _at_zero(self) -> None:
        """Begin what is counted at 0: Prometheus does not see a first step from nothing."""
        for stage in ORDER:
            self.over.labels(stage)
        for engine in self._models:
            self.engine_seconds.labels(engine)
            self.wasted_seconds.labels(engine)
        for transport in ("websocket", "webrtc"):
            self.calls.labels(transport)
            self.cut_ins.labels(transport)
        for reason in ("busy", "saturated"):
            self.refused.labels(reason)
        for outcome in ("kept", "dropped"):
            self.speculations.labels(outcome)

    # What there is.

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"voice_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"voice_{name}", about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, borders: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"voice_{name}", about, labels, buckets=borders, registry=self.registry)

    def _calls(self) -> None:
        count, gauge = self._counter, self._gauge
        self.about = gauge("about", "What runs here; 1", "version", "profile", "asr", "llm", "tts")
        self.calls = count("calls", "Calls taken", "transport")
        self.refused = count("calls_refused", "Calls refused, by reason", "reason")
        self.active = gauge("calls_active", "Calls going on")
        self.ended = count("calls_ended", "Calls ended, by reason", "reason")
        self.saturations = count(
            "saturations",
            "Times that a call was refused because it would have cost all the budget, after a time "
            "without",
        )
        self.interrupted = count("replies_interrupted", "Replies that the caller cut off")
        self.resumed = count("replies_resumed", "Replies that a sound paused and that went on")
        self.missed = count("turns_missed", "Turns that were not understood")
        self.tools = count("tool_calls", "Tool calls, by outcome", "outcome")
        self.underruns = count("underruns", "Replies that ran dry before their end")

    def _turns(self) -> None:
        count, histogram = self._counter, self._histogram
        self.turns = count("turns", "Turns that were answered, by outcome", "transport", "outcome")
        self.turn = histogram(
            "turn_seconds",
            "Last sample of the caller's speech to the first audible one of the answer",
            SECONDS,
            *("profile", "transport"),
        )
        self.stage = histogram(
            "stage_seconds",
            "Each stage's part of a turn: what the caller waited for it",
            SECONDS,
            *("stage", "profile", "model", "transport"),
        )
        self.rest = histogram(
            "unattributed_seconds",
            "What no stage covers; less than zero if the stages are more than the turn",
            REST_SECONDS,
            *("profile", "transport"),
        )
        self.over = count("turns_over_budget", "Turns over budget, by stage at fault", "stage")
        self.cut_ins = count(
            "cut_ins", "Callers who went on after their turn was taken to be over", "transport"
        )
        self.stopped = histogram(
            "barge_in_stop_seconds",
            "First sample of an interruption until nothing is left to send",
            SECONDS,
            "transport",
        )
        self.moves = count(
            "tuner_moves", "What the tuner did, or would have", "knob", "kind", "applied"
        )
        self.knob = self._gauge("knob_value", "What the tuner's knobs stand at", "knob")

    def _paces(self) -> None:
        count, histogram = self._counter, self._histogram
        self.ttft = histogram(
            "llm_first_token_seconds", "Request to first token, of each answer", SECONDS, "model"
        )
        self.pace = histogram("llm_tokens_per_second", "Of each answer", PACE, "model")
        self.between = histogram(
            "llm_inter_token_seconds",
            "From token to token: each answer's median and 95th percentile",
            BETWEEN,
            *("model", "percentile"),
        )
        self.asr_factor = histogram(
            "asr_real_time_factor", "Work on an utterance by its length", FACTORS, "model"
        )
        self.tts_factor = histogram(
            "tts_real_time_factor", "Work on a reply by its length", FACTORS, "model"
        )
        self.speculations = count(
            "speculations",
            "Answers begun before it was decided that the caller is done, by what became of them",
            "outcome",
        )
        self.engine_seconds = count(
            "engine_seconds", "Time that answers had an engine at work", "stage"
        )
        self.wasted_seconds = count(
            "speculation_wasted_seconds",
            "That part of it which went into answers that were dropped before the decision",
            "stage",
        )

    def _loop(self) -> None:
        self.late = self._gauge("loop_late_seconds", "How late the event loop was lately")
        self.lag = self._histogram(
            "loop_lag_seconds", "How late the event loop came to a timer, 20 times a second", LATE
        )
        self.tasks = self._gauge("tasks", "Tasks of the event loop")


class _One(Collector):
    """A single family, to be written."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        """Return it."""
        return (self._family,)

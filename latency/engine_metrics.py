"""What is counted elsewhere and asked for at each scrape: engine processes, upstreams, exporters.

These figures live where the work is done, often in another process. They are not pushed into
counters here; a source is asked when Prometheus asks.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from latency.labels import Label
from latency.spans import ORDER


@dataclass(slots=True)
class Facts:
    """What there is to tell at one moment.

    Attributes:
        up: For each engine process, by its name, whether it runs.
        device: For each of them and each kind of work on its device (`voice.device.Fared`):
            "served", "late", "busy", "waited_p50", "waited_p95".
        load: For each mind that batches: "running", "waiting", "kv_usage", "asked", "hits".
        upstreams: For each of several minds behind one name, whether it is in service.
        failovers: How often another answered than the one asked first, by both names.
        budget: What a turn may take, in seconds: "total", and by stage.
        predicted: Seconds that answers would take with one more call, at the budget's percentile;
            None if that is not known.
        lost: What could not be written or sent, by what: "call_log", "otlp".
        sent: Spans that a collector has taken.
    """

    up: Mapping[str, bool] = field(default_factory=dict)
    device: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    load: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    upstreams: Mapping[str, bool] = field(default_factory=dict)
    failovers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)
    predicted: float | None = None
    lost: Mapping[str, int] = field(default_factory=dict)
    sent: int = 0


class EngineMetrics(Collector):
    """Metrics made of `Facts` when they are asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ask: Callable[[], Facts] = Facts
        """Where the facts come from; called in the thread that answers Prometheus."""
        self._engine = Label(room=32)
        self._kind = Label(room=32)
        self._stage = Label("total", *ORDER)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Ask, and return all families, also those of which there is nothing to tell."""
        facts = self.ask()
        yield from self._processes(facts)
        yield from self._minds(facts)
        budget = GaugeMetricFamily(
            "voice_budget_seconds", "What a turn may take, in all and by stage", labels=["stage"]
        )
        for stage, seconds in facts.budget.items():
            budget.add_metric([self._stage(stage)], seconds)
        yield budget
        predicted = GaugeMetricFamily(
            "voice_predicted_seconds", "What answers would take with one more call", labels=[]
        )
        if facts.predicted is not None:
            predicted.add_metric([], facts.predicted)
        yield predicted
        lost = CounterMetricFamily(
            "voice_lost", "Lines and spans that could not be written or sent", labels=["what"]
        )
        for what, count in facts.lost.items():
            lost.add_metric([self._kind(what)], count)
        yield lost
        yield CounterMetricFamily("voice_otlp_sent", "Spans a collector has taken", facts.sent)

    def _processes(self, facts: Facts) -> Iterable[Metric]:
        up = GaugeMetricFamily("voice_engine_up", "Engine processes that run", labels=["engine"])
        for name, runs in facts.up.items():
            up.add_metric([self._engine(name)], runs)
        yield up
        labels = ["engine", "kind"]
        families = {
            "served": CounterMetricFamily(
                "voice_device_served", "Jobs that had the device", labels=labels
            ),
            "late": CounterMetricFamily(
                "voice_device_late", "Jobs that were late only because they waited", labels=labels
            ),
            "busy": CounterMetricFamily(
                "voice_device_busy_seconds", "Time that jobs had the device", labels=labels
            ),
        }
        waits = GaugeMetricFamily(
            "voice_device_wait_seconds",
            "Wait for the device, of the latest jobs",
            labels=[*labels, "percentile"],
        )
        for name, kinds in facts.device.items():
            for kind, fared in kinds.items():
                values = [self._engine(name), self._kind(kind)]
                for key, family in families.items():
                    family.add_metric(values, fared.get(key, 0.0))
                for of in ("p50", "p95"):
                    waits.add_metric([*values, of], fared.get(f"waited_{of}", 0.0))
        yield from (*families.values(), waits)

    def _minds(self, facts: Facts) -> Iterable[Metric]:
        requests = GaugeMetricFamily(
            "voice_llm_requests", "Requests in the model, by state", labels=["model", "state"]
        )
        cache = GaugeMetricFamily(
            "voice_llm_kv_usage", "Share of the KV cache that requests hold", labels=["model"]
        )
        asked = CounterMetricFamily(
            "voice_llm_prefix_tokens", "Prompt tokens looked up", labels=["model", "found"]
        )
        for name, load in facts.load.items():
            model = self._engine(name)
            for state in ("running", "waiting"):
                requests.add_metric([model, state], load.get(state, 0))
            cache.add_metric([model], load.get("kv_usage", 0.0))
            hits = load.get("hits", 0)
            asked.add_metric([model, "true"], hits)
            asked.add_metric([model, "false"], load.get("asked", 0) - hits)
        yield from (requests, cache, asked)
        service = GaugeMetricFamily(
            "voice_upstream_up", "Upstreams of the mind that are in service", labels=["upstream"]
        )
        for name, runs in facts.upstreams.items():
            service.add_metric([self._engine(name)], runs)
        yield service
        switched = CounterMetricFamily(
            "voice_failovers",
            "Answers that did not come from the upstream asked first",
            labels=["asked", "answered"],
        )
        for names, count in facts.failovers.items():
            switched.add_metric([self._engine(name) for name in names], count)
        yield switched

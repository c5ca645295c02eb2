"""What Prometheus and OpenTelemetry are told of this server's calls and engines."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from latency.engine_metrics import Facts
from latency.metrics import Metrics
from voice import __version__
from voice.calllog import CallLog
from voice.settings import Settings

if TYPE_CHECKING:
    from latency.otlp import Traces


class Exports:
    """Passes on what calls report; nothing here blocks but `close`."""

    def __init__(self, settings: Settings, metrics: Metrics, log: CallLog) -> None:
        """Tell `metrics`, and the collector that `settings` name, if they do.

        Raises:
            ValueError: If `settings.otlp` is no address.
        """
        self._settings, self._metrics, self._log = settings, metrics, log
        self._engines: tuple[Any, ...] = ()
        self._budget: Callable[[], Mapping[str, float]] = dict
        self._predicted: Callable[[], float | None] = lambda: None
        self._traces: Traces | None = None
        if settings.otlp:
            from latency import otlp

            self._traces = otlp.Traces(settings.otlp, __version__)
        metrics.engines.ask = self.facts

    def watch(
        self,
        ears: Any,
        mind: Any,
        mouth: Any,
        budget: Callable[[], Mapping[str, float]],
        predicted: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Name what hears, thinks and speaks.

        `budget` tells each stage's share of the budget, `predicted` what answers would take with
        one more call (None if that is not known), both in seconds.
        """
        self._engines, self._budget = (ears, mind, mouth), budget
        self._predicted = predicted
        profile = self._settings.profile
        self._metrics.name(__version__, profile, ears.name, mind.name, mouth.name)

    def begin(self, call: str, transport: str, traceparent: str) -> None:
        """Note that a call begins, in the trace that its caller named, if they did."""
        if self._traces is not None:
            self._traces.begin(call, transport, traceparent)

    def take(self, call: str, event: Mapping[str, Any]) -> None:
        """Take an event of a call, or of the tuner, which is no call's."""
        match event.get("type"):
            case "trace":
                self._metrics.take(event)
            case "tuner":
                self._metrics.moved(event)
        if self._traces is not None:
            self._traces.take(call, event)

    def finish(self, call: str) -> None:
        """Note that a call is over."""
        if self._traces is not None:
            self._traces.finish(call)

    async def close(self) -> None:
        """Send what is still to be sent, for a few seconds."""
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    def facts(self) -> Facts:
        """Return what is counted elsewhere: in engine processes, by a router, by the log."""
        up: dict[str, bool] = {}
        device: dict[str, Mapping[str, Mapping[str, float]]] = {}
        load: dict[str, Mapping[str, float]] = {}
        lost = {"call_log": self._log.lost}
        found = Facts(up=up, device=device, load=load, lost=lost)
        found.budget = {"total": self._settings.budget.total, **self._budget()}
        found.predicted = self._predicted()
        if self._traces is not None:
            lost["otlp"], found.sent = self._traces.lost, self._traces.sent
        for engine in self._engines:
            if (process := getattr(engine, "process", None)) is not None:
                up[process.name] = process.pid != 0
                device[process.name] = process.faring.get("device", {})
                if figures := process.faring.get("load"):
                    load[engine.name] = figures
            if hasattr(engine, "switched"):
                found.failovers, found.upstreams = engine.switched, engine.in_service
        return found

"""What Prometheus can ask for. Labels come from small, fixed sets."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.65, 0.8, 1.0, 1.5, 2.5, 5.0)
"""Bucket borders of stages and whole turns; 0.8 s is the budget."""


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("voice_calls", "Calls taken", ["transport"], registry=self.registry)
        self.refused = Counter(
            "voice_calls_refused", "Calls refused, by reason", ["reason"], registry=self.registry
        )
        self.saturations = Counter(
            "voice_saturations",
            "Times that a call was refused because it would have cost all the budget, after a "
            "time without",
            registry=self.registry,
        )
        self.active = Gauge("voice_calls_active", "Calls going on", registry=self.registry)
        self.ended = Counter(
            "voice_calls_ended", "Calls ended, by reason", ["reason"], registry=self.registry
        )
        self.turn = Histogram(
            "voice_turn_seconds",
            "Last sample of the caller's speech to the first frame of the answer",
            ["transport"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stage = Histogram(
            "voice_stage_seconds",
            "Each stage's part of a turn",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.interrupted = Counter(
            "voice_replies_interrupted", "Replies that the caller cut off", registry=self.registry
        )
        self.resumed = Counter(
            "voice_replies_resumed",
            "Replies that a sound paused and that went on",
            registry=self.registry,
        )
        self.missed = Counter(
            "voice_turns_missed", "Turns that were not understood", registry=self.registry
        )
        self.tools = Counter(
            "voice_tool_calls", "Tool calls, by outcome", ["outcome"], registry=self.registry
        )
        self.speculations = Counter(
            "voice_speculations",
            "Answers begun before it was decided that the caller is done, by what became of them",
            ["outcome"],
            registry=self.registry,
        )
        self.engine_seconds = Counter(
            "voice_engine_seconds",
            "Time that answers had an engine at work",
            ["stage"],
            registry=self.registry,
        )
        self.wasted_seconds = Counter(
            "voice_speculation_wasted_seconds",
            "That part of it which went into answers that were dropped before the decision",
            ["stage"],
            registry=self.registry,
        )
        self.late = Gauge(
            "voice_loop_late_seconds", "How late the event loop was lately", registry=self.registry
        )
        self.tasks = Gauge("voice_tasks", "Tasks of the event loop", registry=self.registry)
        self.underruns = Counter(
            "voice_underruns", "Replies that ran dry before their end", registry=self.registry
        )

    def finished_turn(self, transport: str, stages: Mapping[str, float], total: float) -> None:
        """Count one answered turn; times in seconds."""
        self.turn.labels(transport).observe(total)
        for stage, seconds in stages.items():
            self.stage.labels(stage).observe(max(0.0, seconds))

    def finished_work(self, seconds: Mapping[str, float], wasted: bool) -> None:
        """Count the engine time of one answer, in seconds by stage."""
        for stage, time in seconds.items():
            self.engine_seconds.labels(stage).inc(max(0.0, time))
            if wasted:
                self.wasted_seconds.labels(stage).inc(max(0.0, time))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

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
        self.refused = Counter("voice_calls_refused", "Calls refused", registry=self.registry)
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
        self.missed = Counter(
            "voice_turns_missed", "Turns that were not understood", registry=self.registry
        )
        self.tools = Counter(
            "voice_tool_calls", "Tool calls, by outcome", ["outcome"], registry=self.registry
        )
        self.underruns = Counter(
            "voice_underruns", "Replies that ran dry before their end", registry=self.registry
        )

    def finished_turn(self, transport: str, stages: Mapping[str, float], total: float) -> None:
        """Count one answered turn; times in seconds."""
        self.turn.labels(transport).observe(total)
        for stage, seconds in stages.items():
            self.stage.labels(stage).observe(max(0.0, seconds))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

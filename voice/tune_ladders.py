"""The knobs that `voice tune` may turn, each with the values it tries, safest first. Pure.

A knob is a setting by its dotted name, or one of `JOINED`, which sets several alike. What can only
be set before a server starts is as good as what can be changed while calls go on: every
configuration gets a server of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

from voice.settings import Effective, Settings, load, names, value_of
from voice.tune_runs import Ladder, Point, Value

JOINED: Mapping[str, tuple[str, ...]] = {"turn.wait": ("turn.shortest_wait", "turn.longest_wait")}
"""Knobs that are no setting of their own, and the settings that they set alike."""

LADDERS: Mapping[str, tuple[Value, ...]] = {
    "turn.wait": (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2),
    "turn.shortest_wait": (0.6, 0.5, 0.4, 0.3, 0.2, 0.15),
    "turn.longest_wait": (1.5, 1.2, 1.0, 0.8, 0.7, 0.6, 0.5, 0.4),
    "turn.speculation_lead": (0.1, 0.2, 0.3, 0.5, 0.8),
    "turn.speculations": (0, 1, 2, 4, 8),
    "phrases.first": (60, 40, 24, 12, 8),
    "phrases.later": (220, 160, 110, 80),
    "device_slots": (1, 2, 3, 4),
    "asr_processes": (1, 2, 4),
    "asr_decoders": (1, 2, 4, 8),
    "whisper.beam": (5, 3, 2, 1),
    "whisper.interval": (0.0, 2.0, 1.0, 0.5, 0.3),
    "whisper.window": ("full", "short"),
    "whisper.batch": (1, 4, 8, 16, 32),
    "whisper.threads": (1, 2, 4, 8),
    "whisper.longest_partial": (0.05, 0.1, 0.15, 0.3),
    "coqui.first": (1.0, 0.6, 0.3, 0.2, 0.1),
    "coqui.longest": (2.0, 1.5, 1.0, 0.6, 0.4),
    "coqui.batch": (1, 4, 8, 16, 32),
    "coqui.threads": (1, 2, 4, 8),
    "vllm.gather": (0.16, 0.08, 0.04, 0.02, 0.01, 0.005),
    "vllm.max_num_batched_tokens": (512, 1024, 2048, 4096, 8192),
    "vllm.max_num_seqs": (32, 64, 128, 256),
    "vllm.speculation_tokens": (2, 4, 6),
}
"""Values tried, in the order from what is safe, slow or cheap to what is quick, risky or dear. They
reach farther than what is tried while people call (`voice.knobs`): here nobody is cut off."""

NEEDS: Mapping[str, tuple[str, str]] = {
    "asr_": ("asr", "sphinx"),
    "whisper.": ("asr", "whisper"),
    "coqui.": ("tts", "coqui"),
    "vllm.": ("llm", "vllm"),
}
"""Beginnings of knobs that turn something only with one engine: which setting names it, and how."""

USUAL = (
    *("turn.shortest_wait", "turn.longest_wait", "turn.speculation_lead", "turn.speculations"),
    *("phrases.first", "device_slots", "asr_decoders"),
    *("whisper.interval", "whisper.beam", "whisper.batch"),
    *("coqui.first", "coqui.longest", "vllm.max_num_batched_tokens"),
)
"""Knobs that are tried where none are named: those of them that turn something."""


def ladders(effective: Effective, wanted: Sequence[str] = ()) -> list[Ladder]:
    """Return the ladders of the `wanted` knobs, by default of the usual ones that do anything.

    The configured value of each is on its ladder, in its place by size.

    Raises:
        ValueError: If a knob is unknown (the nearest one is named), is given twice, or turns
            nothing with these engines.
    """
    known = names()
    tunable = [name for name in LADDERS if name in JOINED or name in known]
    if not wanted:
        wanted = [n for n in USUAL if n in tunable and not _idle(n, effective.settings)]
    taken: dict[str, str] = {}
    for name in wanted:
        if name not in tunable:
            close = get_close_matches(name, tunable, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(tunable))}"
            raise ValueError(f"--knobs names {name!r}, which cannot be tuned; {hint}")
        if reason := _idle(name, effective.settings):
            raise ValueError(f"--knobs names {name}, which does nothing here: {reason}")
        for setting in JOINED.get(name, (name,)):
            if setting in taken:
                raise ValueError(
                    f"--knobs names {taken[setting]} and {name}, which both set {setting}; "
                    "expected one of them"
                )
            taken[setting] = name
    if not wanted:
        raise ValueError("no knob turns anything with these engines; name some with --knobs")
    return [_ladder(name, effective.settings) for name in wanted]


def _idle(name: str, settings: Settings) -> str:
    """Say why a knob does nothing with these engines, "" if it does."""
    for beginning, (room, engine) in NEEDS.items():
        chosen = str(value_of(settings, room))
        if name.startswith(beginning) and chosen.removeprefix("bench:").split(":")[0] != engine:
            return f"{room} is {chosen}, and it is for {engine}"
    real = (settings.asr.removeprefix("bench:"), settings.tts)
    if name == "device_slots" and not any(e.startswith(("whisper", "coqui")) for e in real):
        return "it is for whisper and coqui"
    return ""


def _ladder(name: str, settings: Settings) -> Ladder:
    values = list(LADDERS[name])
    configured: Value = value_of(settings, JOINED.get(name, (name,))[-1])
    if configured not in values:
        if isinstance(configured, str) or len(values) < 2:
            values.insert(0, configured)
        else:
            falling = values[0] > values[-1]  # type: ignore[operator]
            values = sorted([*values, configured], reverse=falling)
    return Ladder(name, tuple(values), values.index(configured))


def setting_values(knobs: Mapping[str, Value]) -> dict[str, Value]:
    """Return settings by their names for knobs by theirs."""
    return {
        setting: value for name, value in knobs.items() for setting in JOINED.get(name, (name,))
    }


def validity(
    effective: Effective, values: Callable[[Point], Mapping[str, Value]]
) -> Callable[[Point], bool]:
    """Return what tells whether a server would take a point's `values` beside the settings."""
    given = {
        name: value_of(effective.settings, name)
        for name, source in effective.sources.items()
        if source != "default"
    }

    def valid(point: Point) -> bool:
        try:
            load(None, {}, given | setting_values(values(point)))
        except ValueError:
            return False
        return True

    return valid

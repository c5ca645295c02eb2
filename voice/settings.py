"""What a user can set: one TOML file, `VOICE_*` in the environment, flags; the later wins."""

import contextlib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from asr.whisper_options import WhisperOptions
from latency.budget import NOTHING, STAGES
from llm.vllm_options import VllmOptions
from tts.coqui_options import CoquiOptions
from tts.phrases import PhraseSettings

T = TypeVar("T")

NOT_SETTINGS = ("VOICE_CONFIG", "VOICE_URL")
"""Variables that name the settings file, and the server that commands call."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")

TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
"""How a variable says whether."""

EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
"""How the types of settings are called."""

BUDGETS = (0.05, 60.0)
"""Seconds that a budget has at least and at most."""

TUNERS = ("on", "observe", "off")

_TAG = re.compile(r"auto|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSettings:
    """When the agent may speak. Durations are in seconds.

    Attributes:
        shortest_wait: Silence, counted from the last speech sample, that ends the turn
            of a caller who is surely done.
        longest_wait: Silence that ends the turn of one who surely is not. Between the two
            lies everybody else; set both alike for a fixed wait.
        speculations: Answers begun in one turn before it is decided that the turn is over,
            at most; 0 waits for the decision.
        speculation_lead: How long before that decision the answer is begun, at most.
        longest_contest: A reply that was paused by a sound goes on or ends by then.
        idle: Silence of both after which the agent asks whether somebody is there.
        idle_prompts: How often it asks before it says goodbye and hangs up.
        longest_speech: Speech that goes on for longer is answered all the same.
        longest_stall: A reply that makes no progress for this long has failed.
    """

    shortest_wait: float = 0.15
    longest_wait: float = 1.5
    speculations: int = 8
    speculation_lead: float = 0.5
    longest_contest: float = 1.5
    idle: float = 12.0
    idle_prompts: int = 1
    longest_speech: float = 30.0
    longest_stall: float = 10.0

    def __post_init__(self) -> None:
        within("turn.shortest_wait", self.shortest_wait, 0.1, 3.0, "s")
        within("turn.longest_wait", self.longest_wait, self.shortest_wait, 5.0, "s")
        within("turn.speculations", self.speculations, 0, 20)
        within("turn.speculation_lead", self.speculation_lead, 0.05, 3.0, "s")
        within("turn.longest_contest", self.longest_contest, 0.2, 5.0, "s")
        within("turn.idle", self.idle, 1.0, 600.0, "s")
        within("turn.idle_prompts", self.idle_prompts, 0, 10)
        within("turn.longest_speech", self.longest_speech, 1.0, 300.0, "s")
        within("turn.longest_stall", self.longest_stall, 0.5, 120.0, "s")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What a caller may have to wait for an answer, and each stage's share of it, in seconds.

    Attributes:
        total: From the last sample of the caller's speech to the first sound of the answer.
        percentile: Percentage of the turns that keep it.
        framing: Share of each stage; 0 for what it was measured to need at its best, scaled.
        jitter: Likewise.
        vad: Likewise.
        endpoint: Likewise.
        asr: Likewise.
        llm: Likewise.
        first_phrase: Likewise.
        tools: Likewise.
        tts: Likewise.
        send: Likewise.
        silence: Likewise.
    """

    total: float = 0.8
    percentile: float = 95.0
    framing: float = 0.0
    jitter: float = 0.0
    vad: float = 0.0
    endpoint: float = 0.0
    asr: float = 0.0
    llm: float = 0.0
    first_phrase: float = 0.0
    tools: float = 0.0
    tts: float = 0.0
    send: float = 0.0
    silence: float = 0.0

    def __post_init__(self) -> None:
        within("budget.total", self.total, *BUDGETS, "s")
        within("budget.percentile", self.percentile, 50.0, 99.9)
        for stage in STAGES:
            within(f"budget.{stage}", getattr(self, stage), 0.0, self.total, "s")
        if (given := sum(self.given.values())) > self.total + NOTHING:
            raise ValueError(
                f"the stages of the budget add up to {given:g} s; expected at most budget.total "
                f"({self.total:g} s)"
            )

    @property
    def given(self) -> dict[str, float]:
        """The shares that are set."""
        return {stage: getattr(self, stage) for stage in STAGES if getattr(self, stage)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What the engines of the profile "bench" do.

    Attributes:
        reply: Seconds of agent audio in each reply.
        delays: Factor on the engines' delays (240 ms in a row at 1); 0 for none.
        crowding: Share by which every other answer that is written makes the mind slower.
    """

    reply: float = 2.0
    delays: float = 1.0
    crowding: float = 0.0

    def __post_init__(self) -> None:
        within("bench.reply", self.reply, 0.1, 600.0, "s")
        within("bench.delays", self.delays, 0.0, 100.0)
        within("bench.crowding", self.crowding, 0.0, 1.0)


class ChoiceError(ValueError):
    """A call cannot have what it asked for; the message says what it could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What one call has chosen; replaced as a whole, read with every utterance and reply.

    Attributes:
        voice: The mouth's voice, "" for its first.
        language: Language that the caller speaks, a BCP 47 tag, or "auto" for ears that find it
            out.
        budget: What they may have to wait for an answer, in seconds; 0 for the agent's own.
    """

    voice: str = ""
    language: str = "en"
    budget: float = 0.0

    def __post_init__(self) -> None:
        if not _TAG.fullmatch(self.language):
            raise ChoiceError(
                f"language is {self.language[:40]!r}; expected a BCP 47 tag such as en or pt-BR, "
                "or auto"
            )
        if self.budget and not BUDGETS[0] <= self.budget <= BUDGETS[1]:
            raise ChoiceError(
                f"budget is {self.budget:g} s; expected {BUDGETS[0]:g} to {BUDGETS[1]:g}, or 0"
            )

    def changed(self, given: Mapping[str, Any], voices: tuple[str, ...]) -> "SessionSettings":
        """Return these with what a caller has `given`; `voices` are those there are.

        Raises:
            ChoiceError: If a name or a value is none.
        """
        for name, value in given.items():
            if name not in names(SessionSettings):
                known = ", ".join(names(SessionSettings))
                raise ChoiceError(f"a call has no setting {name[:40]!r}; it has {known}")
            if name != "budget" and not isinstance(value, str):
                raise ChoiceError(f"{name} is {value!r:.40}; expected a string")
        if "budget" in given:
            given = {**given, "budget": _seconds("budget", given["budget"])}
        changed = replace(self, **given)
        if "voice" in given and changed.voice and changed.voice not in voices:
            raise ChoiceError(
                f"voice is {changed.voice[:40]!r}; expected one of {', '.join(voices[:40])}"
            )
        return changed


def _seconds(name: str, value: object) -> float:
    """Return a number that came as one, or as text.

    Raises:
        ChoiceError: If it is none.
    """
    if isinstance(value, str | float | int) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(seconds := float(value)):
                return seconds
    raise ChoiceError(f"{name} is {value!r:.40}; expected a number of seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything `voice serve` can be told.

    Attributes:
        profile: Which engines are meant where none is named: a name in `PROFILES`.
        host: Address to listen on. Other than loopback needs a `key`.
        port: TCP port, 0 for any free one.
        key: What callers must present (`Authorization: Bearer KEY` or `?key=KEY`);
            "" lets everybody in, which only a loopback address may.
        agent: Folder of the agent that answers.
        asr: Ears: "sphinx", "whisper:MODEL" or "fake". A MODEL is a directory, or the name of
            one that `voice models fetch` has brought.
        llm: Mind: "embedded" (the agent's own model), "ctranslate:MODEL", "vllm:MODEL",
            "openai:URL[,URL…]" or "fake".
        llm_model: Model to ask an OpenAI-compatible server for, "" for its first.
        llm_key: That server's key.
        tts: Mouth: "espeak", "coqui:MODEL" or "fake".
        voice: The mouth's voice, "" for the agent's own. A call may choose another.
        language: Language of the callers, a BCP 47 tag, or "auto" for ears that find it out. A
            call may choose another.
        engine_start: Seconds that an engine process may take to load its models.
        device_slots: Steps of ears and mouth that may be on their device at once. Of two or more,
            the last is kept for what is urgent; a CPU has none to spare.
        asr_processes: Processes that decode speech.
        asr_decoders: Decoders in each of them, shared by all calls.
        data: Directory for the database and the call logs.
        max_calls: Calls taken at once; one more is told to come back later.
        tool_timeout: Seconds a tool may take before the caller is told it failed.
        trace: Whether every turn is recorded: logs, metrics, the dashboard and the tuner need it.
        tuner: "on" to move settings while calls go on, so that the budget holds; "observe" to say
            only what would be moved; "off".
        pinned: Names of settings that the tuner never moves, with commas between.
        admission: Whether calls are refused that would take everybody's answers over the budget.
        otlp: Where traces are sent, for example "http://127.0.0.1:4318"; "" for nowhere.
        cost_per_hour: What the machine costs; 0 tells costs in seconds of a core.
        budget: What a caller may have to wait for an answer.
        turn: When the agent may speak.
        phrases: How long the phrases are in which a reply is spoken.
        bench: What the engines of the profile "bench" do.
        whisper: How the ears "whisper:MODEL" listen.
        vllm: How the mind "vllm:MODEL" runs.
        coqui: How the mouth "coqui:MODEL" speaks.
    """

    profile: str = "embedded"
    host: str = "127.0.0.1"
    port: int = 8000
    key: str = ""
    agent: str = "demos/frontdesk"
    asr: str = "sphinx"
    llm: str = "embedded"
    llm_model: str = ""
    llm_key: str = ""
    tts: str = "espeak"
    voice: str = ""
    language: str = "en"
    engine_start: float = 600.0
    device_slots: int = 1
    asr_processes: int = 1
    asr_decoders: int = 4
    data: str = "var"
    max_calls: int = 32
    tool_timeout: float = 5.0
    trace: bool = True
    tuner: str = "observe"
    pinned: str = ""
    admission: bool = True
    otlp: str = ""
    cost_per_hour: float = 0.0
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    turn: TurnSettings = field(default_factory=TurnSettings)
    phrases: PhraseSettings = field(default_factory=PhraseSettings)
    bench: BenchSettings = field(default_factory=BenchSettings)
    whisper: WhisperOptions = field(default_factory=WhisperOptions)
    vllm: VllmOptions = field(default_factory=VllmOptions)
    coqui: CoquiOptions = field(default_factory=CoquiOptions)

    def __post_init__(self) -> None:
        within("port", self.port, 0, 65535)
        within("asr_processes", self.asr_processes, 1, 64)
        within("asr_decoders", self.asr_decoders, 1, 64)
        within("max_calls", self.max_calls, 1, 100_000)
        within("tool_timeout", self.tool_timeout, 0.1, 60.0, "s")
        within("device_slots", self.device_slots, 1, 16)
        within("engine_start", self.engine_start, 1.0, 86_400.0, "s")
        within("cost_per_hour", self.cost_per_hour, 0.0, 1e6)
        if self.tuner not in TUNERS:
            raise ValueError(f"tuner is {self.tuner!r}; expected one of {', '.join(TUNERS)}")
        if self.tuner == "on" and not self.trace:
            raise ValueError(
                "tuner is 'on' and trace is false, but the tuner needs the records of turns: "
                "expected trace = true, or another tuner"
            )
        SessionSettings(language=self.language)
        if self.tool_timeout >= self.turn.longest_stall:
            raise ValueError(
                f"tool_timeout is {self.tool_timeout} s; expected less than turn.longest_stall "
                f"({self.turn.longest_stall} s), or a slow tool counts as a failed reply"
            )
        if not self.key.isascii():
            raise ValueError("key has other characters than ASCII, which no header can carry")
        if self.host not in LOOPBACK and not self.key:
            raise ValueError(
                f"host is {self.host!r}, which other machines can reach, and no key is set: "
                "set VOICE_KEY (or key in the settings file), or listen on 127.0.0.1"
            )


SECRET = ("key", "llm_key")
"""Settings that are never printed."""

PROFILES: Mapping[str, Mapping[str, Any]] = {
    "embedded": {},
    "bench": {
        "agent": "bench",
        "asr": "bench",
        "llm": "bench",
        "tts": "bench",
        "max_calls": 1000,
        "turn.shortest_wait": 0.2,
        "turn.longest_wait": 0.2,
    },
    "cpu": {
        "asr": "whisper:small",
        "llm": "ctranslate:qwen2.5-1.5b",
        "tts": "coqui:vits-vctk",
    },
    "gpu": {
        "asr": "whisper:large-v3-turbo",
        "llm": "vllm:qwen3-8b",
        "tts": "coqui:vits-vctk",
        "max_calls": 64,
        "device_slots": 2,
    },
}
"""What each profile sets where nothing else is said. "bench" swaps the engines for fixed delays,
to measure everything else: detector, turns, pacing and tracing stay what they are."""


def within(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Raise ValueError unless `low <= value <= high`."""
    if not low <= value <= high:
        given, span = f"{value} {unit}".strip(), f"{low} to {high} {unit}".strip()
        raise ValueError(f"{name} is {given}; expected {span}")


def names(kind: type = Settings, prefix: str = "") -> dict[str, type]:
    """Return every setting's dotted name with its type: {"port": int, "turn.silence": float, …}."""
    found: dict[str, type] = {}
    for entry in fields(kind):
        assert isinstance(entry.type, type)
        if is_dataclass(entry.type):
            found |= names(entry.type, f"{prefix}{entry.name}.")
        else:
            found[prefix + entry.name] = entry.type
    return found


@dataclass(frozen=True, slots=True)
class Effective:
    """Settings in force, and for each dotted name where its value came from."""

    settings: Settings
    sources: Mapping[str, str]


def load(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Effective:
    """Read the settings: defaults, the profile, `file` (TOML), `VOICE_*`, then `flags`.

    `flags` maps dotted names to values; None stands for a flag not given.

    Raises:
        ValueError: If a name is unknown (the nearest known one is named), a value has
            the wrong type or is out of range, or the file cannot be read.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if file is not None:
        for name, value in _flat(_read(file)).items():
            values[name], sources[name] = _checked(name, value, str(file)), str(file)
    variables = {f"VOICE_{name.upper().replace('.', '_')}": name for name in names()}
    for variable, text in sorted(environment.items()):
        if not variable.startswith("VOICE_") or variable in NOT_SETTINGS:
            continue
        if variable not in variables:
            raise ValueError(
                f"unknown environment variable {variable}{_nearest(variable, variables)}"
            )
        name = variables[variable]
        values[name], sources[name] = _parsed(name, text, variable), variable
    for name, value in flags.items():
        if value is not None:
            values[name], sources[name] = _checked(name, value, "flag"), "flag"
    profile = values.get("profile", "embedded")
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}; expected one of {', '.join(PROFILES)}")
    for name, value in PROFILES[profile].items():
        if name not in values:
            values[name], sources[name] = value, f"profile {profile}"
    return Effective(
        _made(Settings, values), {name: sources.get(name, "default") for name in names()}
    )


def _made(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return settings of `kind` with these values, by their dotted names."""
    given: dict[str, Any] = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        group = f"{entry.name}."
        if is_dataclass(entry.type):
            inside = {n.removeprefix(group): v for n, v in values.items() if n.startswith(group)}
            given[entry.name] = _made(entry.type, inside)  # type: ignore[arg-type]
        elif entry.name in values:
            given[entry.name] = values[entry.name]
    return kind(**given)


def from_process(
    flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> Effective:
    """Read the settings of this process: its environment and `voice.toml` or `VOICE_CONFIG`.

    With another `environment`: those that a process started here with it would have.

    Raises:
        ValueError: As `load`.
    """
    given = flags.get("config") or environment.get("VOICE_CONFIG")
    file = Path(given) if given else Path("voice.toml")
    rest = {name: value for name, value in flags.items() if name != "config"}
    return load(file if given or file.is_file() else None, environment, rest)


def value_of(settings: Settings, name: str) -> Any:
    """Return the value of a dotted name."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"cannot read the settings in {file}: {error}") from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


def _checked(name: str, value: Any, source: str) -> Any:
    known = names()
    if group := [other for other in known if other.startswith(f"{name}.")]:
        raise ValueError(f"{name} in {source} is a group of settings; expected {', '.join(group)}")
    if name not in known:
        raise ValueError(f"unknown setting {name} in {source}{_nearest(name, known)}")
    wanted = known[name]
    if wanted is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"{name} in {source} is {value!r}; expected {_expected(wanted)}")
    return value


def _parsed(name: str, text: str, source: str) -> Any:
    wanted = names()[name]
    try:
        return TRUTH[text.strip().lower()] if wanted is bool else wanted(text)
    except (ValueError, KeyError):
        raise ValueError(f"{source} is {text!r}; expected {_expected(wanted)}") from None


def _expected(kind: type) -> str:
    return EXPECTED[kind]

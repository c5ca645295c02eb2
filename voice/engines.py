"""Which engine a name in the settings stands for, and in which process it runs.

Models that hold the interpreter lock run in engine processes: ears and mouth in one, where
they share the device by deadline; the mind in another, for which they make room.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import asr.engine
import llm.engine
import tts.engine
from voice import bench_words, stubs
from voice.agent import Agent, load
from voice.engine_ears import RemoteEars
from voice.engine_mind import RemoteMind
from voice.engine_mouth import RemoteMouth
from voice.engine_process import EngineProcess, Room
from voice.engine_wire import Make
from voice.models import folder
from voice.settings import Settings

EARS = ("sphinx", "whisper:MODEL", "fake", "bench")
MINDS = ("embedded", "ctranslate:MODEL", "vllm:MODEL", "openai:URL[|MODEL][,URL…]", "fake", "bench")
MOUTHS = ("espeak", "coqui:MODEL", "fake", "bench")


@dataclass(frozen=True, slots=True)
class Engines:
    """What hears, thinks and speaks; nothing is started."""

    ears: asr.engine.Engine
    mind: llm.engine.Engine
    mouth: tts.engine.Engine


def agent(settings: Settings) -> Agent:
    """Load the agent that `settings.agent` names.

    Raises:
        ValueError: If there is none.
    """
    if settings.agent == "bench":
        return stubs.agent()
    return load(Path(settings.agent), Path(settings.data))


def make(settings: Settings, who: Agent) -> Engines:
    """Make the engines that `settings` name; they are not started.

    Raises:
        ValueError: If there is no such engine, or its model is not on this machine.
    """
    asr, llm = settings.asr.removeprefix("bench:"), settings.llm.removeprefix("bench:")
    real = replace(settings, asr=asr, llm=llm)
    speech = _speech(real)
    ears, mind = _ears(real, who, speech), _mind(real, who, speech)
    return Engines(
        ears if asr == settings.asr else bench_words.Ears(ears),
        mind if llm == settings.llm else bench_words.Mind(mind),
        _mouth(real, speech),
    )


def _speech(settings: Settings) -> EngineProcess | None:
    """Return the process for ears and mouth, if either needs one."""
    makes: dict[Room, Make] = {}
    names = []
    match settings.asr.split(":", 1):
        case ["whisper", model] if model:
            makes["ears"] = _of_model("asr.whisper:Whisper", model, settings, settings.whisper)
            names.append(settings.asr)
    match settings.tts.split(":", 1):
        case ["coqui", model] if model:
            makes["mouth"] = _of_model("tts.coqui:Coqui", model, settings, settings.coqui)
            names.append(settings.tts)
    if not makes:
        return None
    order = Make("voice.schedule:Schedule", keywords={"slots": settings.device_slots})
    return EngineProcess(
        " and ".join(names),
        makes,
        turns=Make("voice.device:Device", (order,)),
        start_within=settings.engine_start,
    )


def _of_model(target: str, model: str, settings: Settings, options: object) -> Make:
    """Return an engine to be made of a model that is here, with its options."""
    return Make(target, (str(_folder(model, settings)),), {"options": options})


def _folder(model: str, settings: Settings) -> Path:
    return folder(model, Path(settings.data))


def _ears(settings: Settings, who: Agent, speech: EngineProcess | None) -> asr.engine.Engine:
    match settings.asr.split(":", 1):
        case ["sphinx"]:
            from asr.sphinx import Sphinx

            return Sphinx(who.speech, settings.asr_processes, settings.asr_decoders)
        case ["whisper", model] if model and speech is not None:
            return RemoteEars(speech, settings.asr)
        case ["fake"]:
            from asr.fake import Fake

            return Fake()
        case ["bench"]:
            return stubs.ears(settings.bench)
    raise _unknown("asr", settings.asr, EARS)


def _mind(settings: Settings, who: Agent, speech: EngineProcess | None) -> llm.engine.Engine:
    match settings.llm.split(":", 1):
        case ["embedded"]:
            from llm.ctranslate import CTranslate

            if who.model is None:
                raise ValueError(
                    f"{who.name} has no model of its own: choose one, for example "
                    "--llm openai:http://127.0.0.1:8001"
                )
            own = CTranslate(who.model)
            own.name = "embedded"
            own.about = f"A small model trained for {who.name}: it knows nothing else."
            return own
        case ["ctranslate", model] if model:
            from llm.ctranslate import CTranslate

            return CTranslate(_folder(model, settings))
        case ["vllm", model] if model:
            make = _of_model("llm.vllm:Vllm", model, settings, settings.vllm)
            process = EngineProcess(
                settings.llm, {"mind": make}, start_within=settings.engine_start
            )
            return RemoteMind(process, settings.llm, beside=speech)
        case ["openai", addresses] if addresses:
            from llm.router import servers

            return servers(addresses, settings.llm_model, settings.llm_key)
        case ["fake"]:
            from llm.fake import Fake

            return Fake()
        case ["bench"]:
            return stubs.mind(settings.bench)
    raise _unknown("llm", settings.llm, MINDS)


def _mouth(settings: Settings, speech: EngineProcess | None) -> tts.engine.Engine:
    match settings.tts.split(":", 1):
        case ["espeak"]:
            from tts.espeak import Espeak

            return Espeak()
        case ["coqui", model] if model and speech is not None:
            return RemoteMouth(speech, settings.tts)
        case ["fake"]:
            from tts.fake import Fake

            return Fake()
        case ["bench"]:
            return stubs.mouth(settings.bench)
    raise _unknown("tts", settings.tts, MOUTHS)


def _unknown(room: str, name: str, known: tuple[str, ...]) -> ValueError:
    return ValueError(f"{room} is {name!r}; expected one of {', '.join(known)}")

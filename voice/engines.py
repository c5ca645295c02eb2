"""Which engine a name in the settings stands for."""

from pathlib import Path

import asr.engine
import llm.engine
import tts.engine
from voice import stubs
from voice.agent import Agent, load
from voice.settings import Settings

EARS = ("sphinx", "whisper:PATH_OR_NAME", "fake", "bench")
MINDS = ("embedded", "ctranslate:DIR", "openai:URL", "fake", "bench")
MOUTHS = ("espeak", "fake", "bench")


def agent(settings: Settings) -> Agent:
    """Load the agent that `settings.agent` names.

    Raises:
        ValueError: If there is none.
    """
    if settings.agent == "bench":
        return stubs.agent()
    return load(Path(settings.agent), Path(settings.data))


def ears(settings: Settings, who: Agent) -> asr.engine.Engine:
    """Make the recogniser that `settings.asr` names; it is not started.

    Raises:
        ValueError: If there is no such engine.
    """
    match settings.asr.split(":", 1):
        case ["sphinx"]:
            from asr.sphinx import Sphinx

            return Sphinx(who.speech, settings.asr_processes, settings.asr_decoders)
        case ["whisper", model] if model:
            from asr.whisper import Whisper

            return Whisper(model)
        case ["fake"]:
            from asr.fake import Fake

            return Fake()
        case ["bench"]:
            return stubs.ears(settings.bench)
    raise _unknown("asr", settings.asr, EARS)


def mind(settings: Settings, who: Agent) -> llm.engine.Engine:
    """Make the language model that `settings.llm` names; it is not started.

    Raises:
        ValueError: If there is no such engine, or the agent has no model of its own.
    """
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
        case ["ctranslate", directory] if directory:
            from llm.ctranslate import CTranslate

            return CTranslate(Path(directory))
        case ["openai", url] if url:
            from llm.openai import OpenAI

            return OpenAI(url, settings.llm_model, settings.llm_key)
        case ["fake"]:
            from llm.fake import Fake

            return Fake()
        case ["bench"]:
            return stubs.mind(settings.bench)
    raise _unknown("llm", settings.llm, MINDS)


def mouth(settings: Settings) -> tts.engine.Engine:
    """Make the synthesiser that `settings.tts` names; it is not started.

    Raises:
        ValueError: If there is no such engine.
    """
    match settings.tts.split(":", 1):
        case ["espeak"]:
            from tts.espeak import Espeak

            return Espeak()
        case ["fake"]:
            from tts.fake import Fake

            return Fake()
        case ["bench"]:
            return stubs.mouth(settings.bench)
    raise _unknown("tts", settings.tts, MOUTHS)


def _unknown(room: str, name: str, known: tuple[str, ...]) -> ValueError:
    return ValueError(f"{room} is {name!r}; expected one of {', '.join(known)}")

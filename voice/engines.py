"""Which engine a name in the settings stands for."""

from pathlib import Path

import asr.engine
import llm.engine
import tts.engine
from voice.agent import Agent
from voice.settings import Settings

EARS = ("sphinx", "whisper:PATH_OR_NAME", "fake")
MINDS = ("embedded", "ctranslate:DIR", "openai:URL", "fake")
MOUTHS = ("espeak", "fake")


def ears(settings: Settings, agent: Agent) -> asr.engine.Engine:
    """Make the recogniser that `settings.asr` names; it is not started.

    Raises:
        ValueError: If there is no such engine.
    """
    match settings.asr.split(":", 1):
        case ["sphinx"]:
            from asr.sphinx import Sphinx

            return Sphinx(agent.speech, settings.asr_processes, settings.asr_decoders)
        case ["whisper", model] if model:
            from asr.whisper import Whisper

            return Whisper(model)
        case ["fake"]:
            from asr.fake import Fake

            return Fake()
    raise _unknown("asr", settings.asr, EARS)


def mind(settings: Settings, agent: Agent) -> llm.engine.Engine:
    """Make the language model that `settings.llm` names; it is not started.

    Raises:
        ValueError: If there is no such engine, or the agent has no model of its own.
    """
    match settings.llm.split(":", 1):
        case ["embedded"]:
            from llm.ctranslate import CTranslate

            if agent.model is None:
                raise ValueError(
                    f"{agent.name} has no model of its own: choose one, for example "
                    "--llm openai:http://127.0.0.1:8001"
                )
            own = CTranslate(agent.model)
            own.name = "embedded"
            own.about = f"A small model trained for {agent.name}: it knows nothing else."
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
    raise _unknown("tts", settings.tts, MOUTHS)


def _unknown(room: str, name: str, known: tuple[str, ...]) -> ValueError:
    return ValueError(f"{room} is {name!r}; expected one of {', '.join(known)}")

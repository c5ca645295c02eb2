"""The models that the profiles need: where each comes from, how big it is, and its licence.

Data only. Sizes are about right, for deciding; what is fetched is counted and checked
by what its source says at that moment (`voice.hub`), and pinned then (`voice.models`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model.

    Attributes:
        name: What it is called here, and its folder under `data/models`.
        kind: "asr", "llm" or "tts"; "" for one that is not of this catalogue.
        size: Bytes on the disk, about; 0 if unknown.
        licence: Its name.
        repo: Repository on the hub, "owner/name"; "" if it comes as an `archive`.
        revision: Branch, tag or commit there. A branch is pinned to its commit when fetched.
        files: Patterns of the files wanted, as in `fnmatch`; "*" stops at a "/".
        needs: Files without which it cannot be loaded; one of "a|b" suffices.
        archive: URL of a zip file that holds it.
        sha256: Of that zip file; "" if unknown: then what came first is pinned.
        commercial: Whether the licence allows commercial use.
        terms: Where the licence can be read.
        aliases: Other names for it.
    """

    name: str
    kind: str
    size: int
    licence: str
    repo: str = ""
    revision: str = "main"
    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    archive: str = ""
    sha256: str = ""
    commercial: bool = True
    terms: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return self.repo or self.archive


def _whisper(size: str, megabytes: int, owner: str = "Systran", *aliases: str) -> Model:
    """Return a Whisper in CTranslate2 format; the repositories are those of faster-whisper 1.2."""
    return Model(
        name=f"whisper-{size}",
        kind="asr",
        size=megabytes * 1_000_000,
        licence="MIT",
        repo=f"{owner}/faster-whisper-{size}",
        files=(
            "config.json",
            "preprocessor_config.json",
            "model.bin",
            "tokenizer.json",
            "vocabulary.*",
        ),
        needs=("config.json", "model.bin", "tokenizer.json"),
        terms="https://github.com/openai/whisper/blob/main/LICENSE",
        aliases=(size, *aliases),
    )


def _instruct(name: str, repo: str, gigabytes: float, licence: str, terms: str) -> Model:
    """Return a language model in Hugging Face's layout."""
    return Model(
        name=name,
        kind="llm",
        size=round(gigabytes * 1e9),
        licence=licence,
        repo=repo,
        files=("*.json", "*.safetensors", "*.jinja", "merges.txt", "LICENSE*"),
        needs=(
            "config.json",
            "tokenizer.json",
            "model.safetensors|model.safetensors.index.json",
        ),
        terms=terms,
    )


def _vits(name: str, file: str) -> Model:
    """Return a VITS of Coqui's releases, as coqui-tts 0.28 lists them."""
    return Model(
        name=name,
        kind="tts",
        size=150_000_000,
        licence="Apache-2.0",
        archive=f"https://github.com/coqui-ai/TTS/releases/download/v0.6.1_models/{file}.zip",
        needs=("config.json", "model_file.pth|model_file.pth.tar|model.pth"),
        terms="https://github.com/coqui-ai/TTS/releases/tag/v0.6.1_models",
    )


APACHE = "https://www.apache.org/licenses/LICENSE-2.0"

MODELS: tuple[Model, ...] = (
    _whisper("tiny", 75),
    _whisper("base", 145),
    _whisper("small", 485),
    _whisper("medium", 1_530),
    _whisper("large-v3", 3_090),
    _whisper("large-v3-turbo", 1_620, "mobiuslabsgmbh", "turbo"),
    _instruct("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct", 1.0, "Apache-2.0", APACHE),
    _instruct("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B-Instruct", 3.1, "Apache-2.0", APACHE),
    _instruct("qwen3-8b", "Qwen/Qwen3-8B", 16.4, "Apache-2.0", APACHE),
    _instruct(
        "llama-3.1-8b",
        "meta-llama/Llama-3.1-8B-Instruct",
        16.1,
        "Llama 3.1 Community",
        "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct",
    ),
    _vits("vits-vctk", "tts_models--en--vctk--vits"),
    _vits("vits-ljspeech", "tts_models--en--ljspeech--vits"),
    Model(
        name="xtts-v2",
        kind="tts",
        size=1_900_000_000,
        licence="CPML",
        repo="coqui/XTTS-v2",
        files=("config.json", "model.pth", "vocab.json", "speakers_xtts.pth", "LICENSE*"),
        needs=("config.json", "model.pth", "vocab.json"),
        commercial=False,
        terms="https://huggingface.co/coqui/XTTS-v2/blob/main/LICENSE.txt",
    ),
)

PROFILES: Mapping[str, tuple[str, ...]] = {
    "embedded": (),
    "cpu": ("whisper-small", "qwen2.5-1.5b", "vits-vctk"),
    "gpu": ("whisper-large-v3-turbo", "qwen3-8b", "vits-vctk"),
}
"""The models of each profile; the first brings its own. No profile needs a licence that
excludes commercial use, nor an account on the hub."""

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find(name: str) -> Model:
    """Return the model called `name`: its name, an alias, or a repository of the hub.

    "owner--name" is what the folder of "owner/name" is called.

    Raises:
        ValueError: If there is none.
    """
    for model in MODELS:
        if name in (model.name, model.repo, *model.aliases):
            return model
    name = name if "/" in name else name.replace("--", "/", 1)
    if _REPO.fullmatch(name) and ".." not in name:
        return Model(
            name=name.replace("/", "--"),
            kind="",
            size=0,
            licence="see the repository",
            repo=name,
            files=("*.json", "*.safetensors", "*.bin", "*.pth", "*.txt", "*.jinja", "LICENSE*"),
            needs=("config.json",),
            terms=f"https://huggingface.co/{name}",
        )
    known = ", ".join(model.name for model in MODELS)
    raise ValueError(f"no model is called {name!r}; known: {known}, or a repository owner/name")


def of_profile(profile: str) -> tuple[Model, ...]:
    """Return what a profile needs.

    Raises:
        ValueError: If there is no such profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}; expected one of {', '.join(PROFILES)}")
    return tuple(find(name) for name in PROFILES[profile])

"""Models made on the spot: the real architecture in the real file format, with random weights.

What an engine costs (time, memory, batching, cancelling) does not depend on what the numbers in
its matrices are, so it can be measured where no model can be downloaded. What such a model says
is noise: nothing about accuracy may be concluded from it.

    python -m demos.weights whisper tiny build/whisper-tiny
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

KINDS = ("whisper", "llama", "vits", "xtts")
"""What can be made; each is a module of this folder with `SIZES` and `make(folder, size)`."""


def sizes(kind: str) -> tuple[str, ...]:
    """Return the sizes that `kind` comes in.

    Raises:
        ValueError: If there is no such kind.
    """
    known: Mapping[str, object] = _recipe(kind).SIZES
    return tuple(known)


def make(kind: str, size: str, folder: Path) -> Path:
    """Make a model in `folder`, unless a complete one is there, and return the folder.

    Raises:
        ValueError: If there is no such kind or size.
    """
    if size not in sizes(kind):
        raise ValueError(f"{kind} has no size {size!r}; expected one of {', '.join(sizes(kind))}")
    made: Path = _recipe(kind).make(folder, size)
    return made


def _recipe(kind: str) -> ModuleType:
    if kind not in KINDS:
        raise ValueError(f"no weights of kind {kind!r}; expected one of {', '.join(KINDS)}")
    return import_module(f"{__name__}.{kind}")

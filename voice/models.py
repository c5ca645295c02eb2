"""The models on this machine."""

from pathlib import Path


def folder(name: str, data: Path) -> Path:
    """Return the folder of a model that is here: by a path, or a name that was fetched.

    Raises:
        ValueError: If it is not here; the message names the remedy.
    """
    for place in (Path(name).expanduser(), data / "models" / name):
        if place.is_dir():
            return place
    raise ValueError(f"{name} is not in {data / 'models'}. Fetch it: voice models fetch {name}")

"""The models on this machine: which are here, whether they are whole, and how they get here.

Each has a folder `data/models/NAME`, with a manifest beside its files that pins the revision
and the SHA-256 of every one. The folder is all there is: copied to a machine without a
network, it is as good there. The hub is asked in `voice.hub` alone.
"""

import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath

import httpx

from voice import catalogue, hub, weights
from voice.catalogue import Model

MANIFEST = "sidetone-model.json"

ROOM = 200_000_000
"""Bytes that a fetch leaves free on the disk."""


@dataclass(frozen=True, slots=True)
class Held:
    """One file of a model: its bytes, and its SHA-256 ("" until it is here)."""

    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model's folder holds, or will once it is fetched.

    Attributes:
        name: The model.
        source: The hub's repository, or the archive's address.
        revision: The commit it was pinned to, "" for an archive.
        licence: Its licence when it was fetched.
        files: What each file is, by its path in the folder.
    """

    name: str
    source: str
    revision: str
    licence: str
    files: dict[str, Held] = field(default_factory=dict)


def place(model: Model, data: Path) -> Path:
    """Return where a model belongs."""
    return data / "models" / model.name


def folder(name: str, data: Path) -> Path:
    """Return the folder of a model that is here, by path, catalogue name or `owner/name`.

    Looks at names and sizes only; `check` reads everything.

    Raises:
        ValueError: If it is not here, or not whole; the message names the remedy.
    """
    given = Path(name).expanduser()
    if given.is_dir():
        return given
    if given.is_absolute() or name.startswith((".", "~")):
        raise ValueError(f"there is no folder {given}")
    model = catalogue.find(name)
    where = place(model, data)
    if where.is_dir() and not (wrong := problems(model, where, thorough=False)):
        return where
    if (cached := in_cache(model)) is not None:
        return cached
    if where.is_dir():
        raise ValueError(f"{model.name} in {where} is not whole: {wrong[0]}. {remedy(model)}")
    raise ValueError(f"{model.name} is not in {where.parent}. {remedy(model)}")


def remedy(model: Model) -> str:
    """Return the command that brings a model here."""
    name = model.name if model.kind else model.repo
    return f"Fetch it: voice models fetch {name}" + (
        "" if model.commercial else " --accept-licence"
    )


def problems(model: Model, where: Path, *, thorough: bool) -> list[str]:
    """Return what is wrong with the model in `where`, file by file; [] if nothing.

    `thorough` reads every byte and compares hashes.
    Without a manifest, what the files say of their own length has to do.
    """
    if not where.is_dir():
        return ["it is not here"]
    manifest = read(where)
    wrong = []
    if manifest is None:
        for file in sorted(path for path in where.iterdir() if path.is_file()):
            try:
                weights.table(file)
            except ValueError as error:
                wrong.append(str(error))
    else:
        if not manifest.files:
            wrong.append("its fetching was broken off")
        for path, held in manifest.files.items():
            if trouble := _trouble(where / path, held, thorough):
                wrong.append(f"{path} {trouble}")
    for need in model.needs:
        named = manifest.files if manifest else ()
        if not any((where / name).is_file() or name in named for name in need.split("|")):
            wrong.append(f"{need.replace('|', ' or ')} is missing")
    return wrong


def _trouble(file: Path, held: Held, thorough: bool) -> str:
    if not file.is_file():
        return "is missing"
    if (size := file.stat().st_size) != held.size:
        how = "cut off" if size < held.size else "too long"
        return f"is {how}: {size:,} bytes, expected {held.size:,}"
    if thorough and held.sha256 and (found := hub.digest(file)) != held.sha256:
        return f"is damaged: its SHA-256 is {found[:12]}…, expected {held.sha256[:12]}…"
    return ""


def share(where: Path) -> float:
    """Return which part of a model is in `where`, 0 to 1, by bytes; 0 where nobody knows."""
    manifest = read(where)
    wanted = sum(held.size for held in manifest.files.values()) if manifest else 0
    here = sum(path.stat().st_size for path in where.rglob("*") if path.is_file()) if wanted else 0
    return min(here / wanted, 1.0) if wanted else 0.0


def read(where: Path) -> Manifest | None:
    """Return the manifest in `where`; None if there is none, or nothing that can be read."""
    try:
        entries = json.loads((where / MANIFEST).read_text())
        files = {_inside(path): Held(**held) for path, held in entries.pop("files").items()}
        return Manifest(**entries, files=files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write(where: Path, manifest: Manifest) -> None:
    """Put the manifest into `where`, in one step."""
    made = where / f".{MANIFEST}.part"
    made.write_text(json.dumps(asdict(manifest), indent=1) + "\n")
    made.replace(where / MANIFEST)


def in_cache(model: Model) -> Path | None:
    """Return where `huggingface_hub` keeps the model already, if it does, whole by its names."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    kept = cache / f"models--{model.repo.replace('/', '--')}"
    try:
        commit = (kept / "refs" / "main").read_text().strip() if model.repo else ""
    except OSError:
        return None
    where = kept / "snapshots" / commit
    whole = commit and model.needs and where.is_dir()
    return where if whole and not problems(model, where, thorough=False) else None


def fetch(
    model: Model,
    data: Path,
    report: hub.Report,
    say: Callable[[str], None],
    accepted: bool = False,
) -> Path:
    """Bring a model here and return its folder. A second fetch of it waits for the first.

    What is here is read and kept if it is right. The revision of the first fetch stays pinned: to
    have a newer one, delete the folder.

    Raises:
        ValueError: If its licence excludes commercial use and was not `accepted`.
        HubError: If it cannot be had, or the disk has no room.
    """
    if not (model.commercial or accepted):
        raise ValueError(
            f"{model.name} is under the {model.licence}, which allows no commercial use: read it "
            f"at {model.terms}, and accept it with --accept-licence"
        )
    where = place(model, data)
    with _alone(where, say):
        where.mkdir(parents=True, exist_ok=True)
        if manifest := read(where):
            say(f"reading what is here of {model.name}")
            if not problems(model, where, thorough=True):
                return where
        if hub.offline():
            raise hub.HubError(
                f"HF_HUB_OFFLINE is set and {model.name} is not whole here: unset it, or fetch on "
                "another machine and carry the folder over: voice models export DIR there, voice "
                "models import DIR here"
            )
        with hub.client() as opened:
            revision = manifest.revision if manifest else model.revision
            listing = hub.listing(opened, model, revision or model.revision)
            manifest = Manifest(model.name, model.source, listing.revision, model.licence)
            _room(model, where, listing)
            if model.archive:
                write(where, manifest)
                hub.download(opened, model, listing.files[0], where, report)
                files = _unpack(where / listing.files[0].path, where)
            else:
                files = {f.path: Held(f.size, f.sha256) for f in listing.files}
                write(where, replace(manifest, files=files))
                for file in listing.files:
                    files[file.path] = _fetched(opened, model, file, where, report)
            write(where, replace(manifest, files=files))
    if wrong := problems(model, where, thorough=False):
        raise hub.HubError(f"{model.name} was fetched, but {wrong[0]}: its source has changed")
    return where


def _fetched(
    opened: httpx.Client, model: Model, file: hub.Remote, where: Path, report: hub.Report
) -> Held:
    """Fetch one file unless it is here already, and right."""
    target = where / file.path
    if target.is_file() and target.stat().st_size == file.size:
        found = hub.digest(target)
        if found == file.sha256 or (file.blob and hub.blob(target) == file.blob):
            report(file.path, file.size, file.size)
            return Held(file.size, found)
    return Held(file.size, hub.download(opened, model, file, where, report))


def _room(model: Model, where: Path, listing: hub.Listing) -> None:
    """Raise unless the disk has room for what is still to come."""
    missing = sum(
        file.size * (2 if model.archive else 1)
        for file in listing.files
        if not (where / file.path).is_file()
    ) - sum(part.stat().st_size for part in where.rglob("*.part"))
    free = shutil.disk_usage(where).free
    if missing + ROOM > free:
        raise hub.HubError(
            f"{model.name} needs {(missing + ROOM) / 1e9:.1f} GB in {where}, and {free / 1e9:.1f} "
            "GB are free: free some, or set VOICE_DATA to a directory on another disk"
        )


def _unpack(archive: Path, where: Path) -> dict[str, Held]:
    """Put an archive's files into `where`, without the folder around them; delete the archive."""
    held = {}
    try:
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                path = PurePosixPath(entry.filename)
                if entry.is_dir() or path.parts[:1] == ("__MACOSX",):
                    continue
                name = _inside("/".join(path.parts[1:]) or path.name)
                target = where / name
                target.parent.mkdir(parents=True, exist_ok=True)
                made = target.with_name(f"{target.name}.part")
                with opened.open(entry) as source, made.open("wb") as sink:
                    shutil.copyfileobj(source, sink, hub.PIECE)
                made.replace(target)
                held[name] = Held(target.stat().st_size, hub.digest(target))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        archive.unlink(missing_ok=True)
        raise hub.HubError(
            f"the archive cannot be unpacked into {where}: {error}. It was deleted; fetch again"
        ) from error
    archive.unlink()
    return held


def export(names: Sequence[str], data: Path, target: Path) -> list[str]:
    """Copy models (all that are here, if none is named) into `target`, to be carried elsewhere.

    Raises:
        ValueError: If one is not here, or not whole.
    """
    wanted = [catalogue.find(name).name for name in names] or [where.name for where in here(data)]
    if not wanted:
        raise ValueError(f"there are no models in {data / 'models'}: voice models fetch NAME")
    for name in wanted:
        _adopt(data / "models" / name, target)
    return wanted


def carry_in(source: Path, data: Path) -> list[str]:
    """Take over the models in `source`, which `export` or a plain copy made; check every byte.

    Raises:
        ValueError: If there is none, or one is damaged; those before it are taken over.
    """
    found = [source] if read(source) else here(source, inside=".")
    if not found:
        raise ValueError(
            f"there is no model in {source}: expected folders that hold a {MANIFEST}, as voice "
            "models export makes them. A model without one is used by its path"
        )
    for where in found:
        _adopt(where, data / "models")
    return [where.name for where in found]


def here(data: Path, inside: str = "models") -> list[Path]:
    """Return the folders of models in `data`, whole or not."""
    return sorted(file.parent for file in (data / inside).glob(f"*/{MANIFEST}"))


def _adopt(source: Path, parent: Path) -> None:
    """Copy a model into `parent`, checked, and in one step."""
    manifest = read(source)
    if manifest is None:
        raise ValueError(f"there is no model in {source}: voice models fetch {source.name}")
    model = catalogue.find(manifest.name)
    target = parent / manifest.name
    with _alone(target, lambda text: None):
        if target.is_dir() and not problems(model, target, thorough=False):
            return
        made = parent / f".{manifest.name}.part"
        shutil.rmtree(made, ignore_errors=True)
        try:
            for path in (MANIFEST, *manifest.files):
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                if (source / path).is_file():
                    shutil.copyfile(source / path, made / path)
            if wrong := problems(model, made, thorough=True):
                raise ValueError(
                    f"{manifest.name} in {source} is not whole: {'; '.join(wrong)}. Copy it again, "
                    f"or voice models fetch {model.name}"
                )
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
        finally:
            shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _alone(where: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that changes the model in `where`; the system frees it if we die."""
    where.parent.mkdir(parents=True, exist_ok=True)
    with (where.parent / f".{where.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{where.name} is being fetched by another process; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _inside(path: str) -> str:
    """Return `path` if it stays in its folder; raise ValueError if not."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or parts[0].startswith("/") or "\\" in path:
        raise ValueError(f"a file outside the model's folder: {path!r}")
    return path

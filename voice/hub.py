"""Fetches files from a model hub or a plain URL: resumed where they broke off, and checked.

`huggingface_hub` 2.4 was read first: it begins a file anew after a process died, checks
no hash, and only warns of a full disk. Of the hub, three routes are used, the same that
library uses: `/api/models/REPO/revision/REVISION` (its commit), `/api/models/REPO/tree/COMMIT`
(sizes and hashes) and `/REPO/resolve/COMMIT/FILE`. `HF_ENDPOINT`, `HF_TOKEN` and
`HF_HUB_OFFLINE` mean what they mean there.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx

from voice.catalogue import Model

TRIES = 5
"""Failures in a row, without one new byte, after which fetching a file is given up."""

PIECE = 1 << 20
"""Bytes written at once."""

Report = Callable[[str, int, int], None]
"""Is told the file, the bytes of it that are here, and its size."""


class HubError(RuntimeError):
    """A file cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Remote:
    """One file to fetch.

    Attributes:
        path: Where it belongs inside the model's folder.
        url: Where it is.
        size: Its bytes.
        sha256: Its hash, "" if its source does not say.
        blob: Its hash as a blob of git (the hub gives small files no other), or "".
        tag: Names this very content, for the part of it that is here already.
    """

    path: str
    url: str
    size: int
    sha256: str
    blob: str
    tag: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source has of a model: `revision` is a commit, or "" for a plain URL."""

    revision: str
    files: tuple[Remote, ...]


def offline() -> bool:
    """Whether the user forbids the hub."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def endpoint() -> str:
    """Return the hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def token() -> str:
    """Return the user's key to the hub, or "": `HF_TOKEN`, else where `hf auth login` left it."""
    if given := os.environ.get("HF_TOKEN", "").strip():
        return given
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    try:
        return Path(os.environ.get("HF_TOKEN_PATH", home / "token")).read_text().strip()
    except OSError:
        return ""


@contextmanager
def client() -> Iterator[httpx.Client]:
    """Open what requests go through. The key goes to the hub alone, never to where it sends us."""
    with httpx.Client(
        follow_redirects=True,
        timeout=httpx.Timeout(30.0, connect=10.0),
        headers={"User-Agent": "sidetone", "Accept-Encoding": "identity"},
    ) as opened:
        yield opened


def listing(opened: httpx.Client, model: Model, revision: str) -> Listing:
    """Ask what there is of `model` at `revision`.

    Raises:
        HubError: If it cannot be had.
    """
    if model.archive:
        return _archive(opened, model)
    base = f"{endpoint()}/api/models/{model.repo}"
    commit = _json(opened, model, f"{base}/revision/{quote(revision, safe='')}")[0]["sha"]
    files = []
    page: str | None = f"{base}/tree/{commit}?recursive=true"
    while page:
        entries, page = _json(opened, model, page)
        files += [
            _remote(model, commit, entry)
            for entry in entries
            if entry["type"] == "file" and any(_matches(entry["path"], p) for p in model.files)
        ]
    if not files:
        raise HubError(f"{model.repo} has none of {', '.join(model.files)} at {revision}")
    return Listing(commit, tuple(sorted(files, key=lambda file: file.size)))


def download(
    opened: httpx.Client,
    model: Model,
    file: Remote,
    folder: Path,
    report: Report,
) -> str:
    """Fetch one file into `folder`, going on where an earlier attempt broke off.

    Returns its SHA-256. The file appears under its name only when it is whole and right.

    Raises:
        HubError: If it cannot be had, or is not what its source promised.
    """
    target = folder / file.path
    part = part_of(target, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in set(target.parent.glob(f"{target.name}.*.part")) - {part}:
        stale.unlink()  # of another revision
    failures, furthest = 0, _size(part)
    while (have := _size(part)) != file.size:
        if have > file.size:
            part.unlink()
            continue
        try:
            _receive(opened, model, file, part, have, report)
            trouble = "the server sent less than it announced"
        except (httpx.RequestError, _TransientError) as error:
            trouble = str(error) or type(error).__name__
        except OSError as error:
            raise HubError(_full(file, folder, error)) from error
        failures = 0 if _size(part) > furthest else failures + 1
        furthest = max(furthest, _size(part))
        if failures >= TRIES:
            raise HubError(
                f"{file.path} of {model.name} broke off at {_size(part):,} of {file.size:,} bytes: "
                f"{trouble}. What is here is kept: voice models fetch {model.name} goes on there"
            )
        if failures:
            time.sleep(min(0.5 * 2**failures, 10.0))
    found = digest(part)
    if (file.sha256 and found != file.sha256) or (file.blob and blob(part) != file.blob):
        part.unlink()
        raise HubError(
            f"{file.path} of {model.name} is damaged: its hash is {found[:12]}…, not "
            f"{(file.sha256 or file.blob)[:12]}… as its source says. It was thrown away: "
            f"voice models fetch {model.name} begins it anew"
        )
    part.replace(target)
    return found


def part_of(target: Path, file: Remote) -> Path:
    """Return where `file` grows until it is whole: its name tells which content it is part of."""
    return target.with_name(f"{target.name}.{file.tag[:12]}.part")


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def blob(file: Path) -> str:
    """Return the hash that git gives a file's content."""
    made = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    with file.open("rb") as stream:
        while piece := stream.read(PIECE):
            made.update(piece)
    return made.hexdigest()


class _TransientError(Exception):
    """What may pass if one tries again."""


def _receive(
    opened: httpx.Client, model: Model, file: Remote, part: Path, have: int, report: Report
) -> None:
    """Append to `part` what the server sends from byte `have` on."""
    headers = _key(file.url) | ({"Range": f"bytes={have}-"} if have else {})
    with opened.stream("GET", file.url, headers=headers) as answer:
        if answer.status_code == 416:
            part.unlink()
            raise _TransientError("the server knows no such range")
        _accept(answer, model, file.path)
        start = have if answer.status_code == 206 else 0
        if answer.status_code == 206:
            span = answer.headers.get("Content-Range", "")
            if not span.startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                raise _TransientError(f"the server sent another range than asked for: {span!r}")
        with part.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            for piece in answer.iter_bytes():
                start += len(piece)
                if start > file.size:
                    raise HubError(
                        f"{file.path} of {model.name} is longer than the {file.size:,} bytes its "
                        "source announced: something between here and the hub changes it"
                    )
                stream.write(piece)
                stream.flush()  # a full disk is met here, not when the file is closed
                report(file.path, start, file.size)


def _accept(answer: httpx.Response, model: Model, what: str) -> None:
    """Raise for an answer that is none; `_TransientError` if it may be another the next time."""
    status = answer.status_code
    if status in (200, 206):
        return
    if status in (408, 429) or status >= 500:
        raise _TransientError(f"the server answered {status}")
    where = model.repo or model.archive
    said = answer.headers.get("X-Error-Message", "")
    code = answer.headers.get("X-Error-Code", "")
    if code == "GatedRepo" or status == 403:
        raise HubError(
            f"{where} is gated ({status}): accept its licence at {model.terms}, make a key at "
            f"{endpoint()}/settings/tokens and set HF_TOKEN to it. {said}".strip()
        )
    if status == 401:
        raise HubError(
            f"{where} is not there, or private (401): look at the name, and if it is right set "
            f"HF_TOKEN to a key that may read it. {said}".strip()
        )
    if status == 404:
        raise HubError(f"{where} has no {what} (404): look at the name and the revision. {said}")
    raise HubError(f"{where} cannot be had: the server answered {status} for {what}. {said}")


def _json(opened: httpx.Client, model: Model, url: str) -> tuple[Any, str | None]:
    """Return what an API route says, and the next page's address if there is one."""
    trouble = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(0.5 * 2**attempt if attempt > 1 else 0.1)
        try:
            answer = opened.get(url, headers=_key(url))
            _accept(answer, model, "listing")
            following = answer.links.get("next", {}).get("url")
            return answer.json(), following
        except (httpx.RequestError, _TransientError) as error:
            trouble = str(error) or type(error).__name__
            if isinstance(error, httpx.ConnectError):
                break
        except ValueError as error:
            raise HubError(
                f"{url} is no hub: its answer is no JSON. Look at HF_ENDPOINT"
            ) from error
    raise HubError(
        f"no answer from {endpoint()}: {trouble}. Without a network, fetch on another machine and "
        "carry the folder over: voice models export DIR there, voice models import DIR here"
    )


def _remote(model: Model, commit: str, entry: Mapping[str, Any]) -> Remote:
    """Return one entry of a listing."""
    path = str(entry["path"])
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise HubError(f"{model.repo} lists a file outside its folder: {path!r}")
    large = entry.get("lfs")
    url = f"{endpoint()}/{model.repo}/resolve/{commit}/{quote(path)}"
    if large:
        return Remote(path, url, int(large["size"]), large["oid"], "", large["oid"])
    return Remote(path, url, int(entry["size"]), "", entry["oid"], entry["oid"])


def _archive(opened: httpx.Client, model: Model) -> Listing:
    """Ask for the first byte of an archive: the answer tells its size and version."""
    try:
        with opened.stream("GET", model.archive, headers={"Range": "bytes=0-0"}) as answer:
            _accept(answer, model, "archive")
            whole = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
            size = int(whole[1]) if whole else int(answer.headers.get("Content-Length", 0))
            version = answer.headers.get("ETag", "") or str(size)
    except (httpx.RequestError, _TransientError) as error:
        raise HubError(f"no answer from {model.archive}: {error}; try again later") from error
    if not size:
        raise HubError(f"{model.archive} does not say how long it is")
    tag = model.sha256 or hashlib.sha256(version.encode()).hexdigest()
    file = Remote("archive.zip", model.archive, size, model.sha256, "", tag)
    return Listing("", (file,))


def _key(url: str) -> dict[str, str]:
    """Return the header with the user's key, for the hub alone."""
    key = token() if url.startswith(endpoint() + "/") else ""
    return {"Authorization": f"Bearer {key}"} if key else {}


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _full(file: Remote, folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"the disk is full: {file.path} needs {file.size / 1e9:.2f} GB in {folder}. Free some "
            "and fetch again, which goes on where it stopped; or set VOICE_DATA to another disk"
        )
    return f"cannot write {file.path} into {folder}: {error}"

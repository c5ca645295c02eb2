import hashlib
import io
import json
import os
import random
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from model_hub import COMMIT, Hub, serving

from voice import catalogue, hub, models
from voice.catalogue import Model, find

WEIGHTS = random.Random(1).randbytes(300_000)
CONFIG = b'{"model_type": "tiny"}'

TINY = replace(find("some/tiny"), needs=("config.json", "model.bin"))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving({"config.json": CONFIG, "model.bin": WEIGHTS, "runs/log.bin": WEIGHTS}) as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield made


def get(data: Path, model: Model = TINY, accepted: bool = False) -> Path:
    return models.fetch(model, data, lambda *progress: None, lambda text: None, accepted)


def whole(where: Path) -> bool:
    return (where / "model.bin").read_bytes() == WEIGHTS and not list(where.rglob("*.part"))


def test_a_model_is_fetched_checked_and_pinned(source: Hub, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    where = models.fetch(TINY, tmp_path, lambda *given: told.append(given), lambda text: None)
    assert whole(where)
    assert sorted(path.name for path in where.iterdir()) == [
        "config.json",
        "model.bin",
        models.MANIFEST,
    ]
    manifest = models.read(where)
    assert manifest is not None
    assert manifest.revision == COMMIT
    assert manifest.files["model.bin"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert manifest.files["config.json"].sha256 == hashlib.sha256(CONFIG).hexdigest()
    assert told[-1] == ("model.bin", 300_000, 300_000)
    assert models.problems(TINY, where, thorough=True) == []
    assert models.folder("some/tiny", tmp_path) == where


@pytest.mark.parametrize("seed", range(6))
def test_what_broke_off_goes_on_where_it_stopped(source: Hub, tmp_path: Path, seed: int) -> None:
    cut = random.Random(seed).randrange(1, len(WEIGHTS))
    source.cuts = [cut]
    assert whole(get(tmp_path))
    assert source.content() == ["", f"bytes={cut}-"]


def test_a_later_process_goes_on_too(source: Hub, tmp_path: Path) -> None:
    source.cuts = [100_000, *[0] * hub.TRIES]
    with pytest.raises(hub.HubError, match="broke off at 100,000 of 300,000 bytes"):
        get(tmp_path)
    with pytest.raises(ValueError, match=r"not whole: model\.bin is missing"):
        models.folder("some/tiny", tmp_path)
    assert 0.3 < models.share(tmp_path / "models/some--tiny") < 0.4
    source.asked.clear()
    assert whole(get(tmp_path))
    assert source.content() == ["bytes=100000-"]


def test_a_server_without_ranges_sends_all_again(source: Hub, tmp_path: Path) -> None:
    source.ranges = False
    source.cuts = [100_000]
    assert whole(get(tmp_path))
    assert len(source.content()) == 2


def test_a_server_that_fails_for_a_while_is_asked_again(source: Hub, tmp_path: Path) -> None:
    source.failures = 3
    assert whole(get(tmp_path))


def test_part_of_another_revision_is_thrown_away(source: Hub, tmp_path: Path) -> None:
    where = models.place(TINY, tmp_path)
    where.mkdir(parents=True)
    (where / "model.bin.123456789abc.part").write_bytes(b"old")
    assert whole(get(tmp_path))
    assert source.content() == [""]


@pytest.mark.parametrize("lie", [WEIGHTS[:-1] + b"\0", WEIGHTS + b"more", WEIGHTS[:-9]])
def test_other_content_than_announced_is_refused(source: Hub, tmp_path: Path, lie: bytes) -> None:
    source.lies = {"model.bin": lie}
    with pytest.raises(hub.HubError, match=r"damaged|longer than|broke off"):
        get(tmp_path)
    where = models.place(TINY, tmp_path)
    assert not (where / "model.bin").exists()
    source.lies = {}
    assert whole(get(tmp_path))


def test_a_small_file_is_checked_by_gits_hash(source: Hub, tmp_path: Path) -> None:
    source.lies = {"config.json": CONFIG.replace(b"tiny", b"TINY")}
    with pytest.raises(hub.HubError, match=r"config.json of some--tiny is damaged"):
        get(tmp_path)


def test_what_was_fetched_once_is_not_fetched_again(source: Hub, tmp_path: Path) -> None:
    get(tmp_path)
    source.asked.clear()
    get(tmp_path)
    assert source.asked == []


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (WEIGHTS[:1000], "model.bin is cut off: 1,000 bytes, expected 300,000"),
        (WEIGHTS + b"x", "model.bin is too long: 300,001 bytes, expected 300,000"),
        (WEIGHTS[:-1] + b"\0", "model.bin is damaged: its SHA-256 is"),
    ],
)
def test_damage_is_found_and_mended(source: Hub, tmp_path: Path, damage: bytes, told: str) -> None:
    where = get(tmp_path)
    (where / "model.bin").write_bytes(damage)
    [trouble] = models.problems(TINY, where, thorough=True)
    assert told in trouble
    assert whole(get(tmp_path))


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (403, "GatedRepo", "is gated .403.: accept its licence at .* set HF_TOKEN"),
        (401, "GatedRepo", "is gated"),
        (401, "RepoNotFound", "not there, or private .401."),
        (404, "RevisionNotFound", "look at the name and the revision"),
        (400, "", "the server answered 400"),
    ],
)
def test_a_refusal_says_what_to_do(
    source: Hub, tmp_path: Path, status: int, code: str, told: str
) -> None:
    source.status = (status, code)
    with pytest.raises(hub.HubError, match=told):
        get(tmp_path)


def test_no_network_says_how_to_carry(
    source: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(hub.HubError, match="voice models export DIR there"):
        get(tmp_path)


def test_what_is_no_hub_is_told(
    source: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "nonsense://here")
    with pytest.raises(hub.HubError, match=r"nonsense://here"):
        get(tmp_path)


def test_offline_means_offline(
    source: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(hub.HubError, match="HF_HUB_OFFLINE is set"):
        get(tmp_path)
    assert source.asked == []


def test_the_key_goes_to_the_hub_and_nowhere_else(
    source: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    get(tmp_path)
    keys = {path.startswith("/cdn/"): key for path, _, key in source.asked}
    assert keys == {False: "Bearer secret", True: ""}


def test_an_archive_elsewhere_is_not_shown_the_key(
    source: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    model = archived(source, zipped({"x/config.json": CONFIG, "x/model.pth": WEIGHTS}))
    get(tmp_path, replace(model, archive=model.archive.replace("127.0.0.1", "localhost")))
    assert {key for _, _, key in source.asked} == {""}


def test_a_full_disk_is_told_and_what_is_here_is_kept(source: Hub, tmp_path: Path) -> None:
    where = models.place(TINY, tmp_path)
    where.mkdir(parents=True)
    part = where / f"model.bin.{hashlib.sha256(WEIGHTS).hexdigest()[:12]}.part"
    part.symlink_to("/dev/full")  # every write: no space left on device
    with pytest.raises(hub.HubError, match=r"the disk is full.*VOICE_DATA"):
        get(tmp_path)


def test_room_is_looked_for_before(
    source: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=models.ROOM + 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(hub.HubError, match=r"needs 0\.2 GB .* 0\.2 GB are free"):
        get(tmp_path)
    assert source.content() == []


def test_two_fetches_at_once_are_one(source: Hub, tmp_path: Path) -> None:
    source.gate.clear()
    told: list[str] = []
    waiting = threading.Event()

    def say(text: str) -> None:
        told.append(text)
        if "another process" in text:
            waiting.set()

    def run() -> None:
        models.fetch(TINY, tmp_path, lambda *progress: None, say)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert waiting.wait(10)
    source.gate.set()
    for thread in threads:
        thread.join(20)
    assert whole(models.place(TINY, tmp_path))
    assert source.content() == [""]


def test_a_licence_that_is_not_commercial_must_be_accepted(source: Hub, tmp_path: Path) -> None:
    strict = replace(TINY, commercial=False, licence="CPML", terms="http://terms")
    with pytest.raises(ValueError, match=r"CPML.*http://terms.*--accept-licence"):
        get(tmp_path, strict)
    assert source.asked == []
    assert whole(get(tmp_path, strict, accepted=True))
    assert not find("xtts-v2").commercial


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil"])
def test_no_file_leaves_its_folder(source: Hub, tmp_path: Path, path: str) -> None:
    pattern = "/".join("*" for _ in path.split("/"))
    source.files[path] = b"{}"
    with pytest.raises(hub.HubError, match="outside its folder"):
        get(tmp_path, replace(TINY, files=("*.json", pattern)))


def zipped(entries: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as opened:
        for name, content in entries.items():
            opened.writestr(name, content)
    return made.getvalue()


def archived(source: Hub, content: bytes, sha256: str = "") -> Model:
    source.files["voice.zip"] = content
    return Model(
        name="voice",
        kind="tts",
        size=0,
        licence="",
        archive=f"{source.url}/cdn/{COMMIT}/voice.zip",
        needs=("config.json", "model.pth"),
        sha256=sha256,
    )


def test_an_archive_is_unpacked_and_its_files_pinned(source: Hub, tmp_path: Path) -> None:
    files = {"voice--x/config.json": CONFIG, "voice--x/model.pth": WEIGHTS}
    model = archived(source, zipped(files))
    source.cuts = [1, 5000]  # the first answer only tells the size
    where = get(tmp_path, model)
    assert (where / "model.pth").read_bytes() == WEIGHTS
    assert not (where / "archive.zip").exists()
    manifest = models.read(where)
    assert manifest is not None
    assert set(manifest.files) == {"config.json", "model.pth"}
    assert models.problems(model, where, thorough=True) == []
    source.asked.clear()
    get(tmp_path, model)
    assert source.asked == []


@pytest.mark.parametrize(
    ("content", "sha256", "told"),
    [
        (b"no archive at all" * 20, "", "cannot be unpacked"),
        (zipped({"x/../../evil": WEIGHTS}), "", "outside the model's folder"),
        (zipped({"x/config.json": CONFIG + bytes(100)}), "", "model.pth is missing"),
        (zipped({"x/config.json": CONFIG + bytes(100)}), "f" * 64, "is damaged"),
    ],
)
def test_a_bad_archive_is_refused(
    source: Hub, tmp_path: Path, content: bytes, sha256: str, told: str
) -> None:
    model = archived(source, content, sha256)
    with pytest.raises(hub.HubError, match=told):
        get(tmp_path, model)
    assert not list(tmp_path.rglob("evil"))


def test_models_are_carried_to_another_machine(source: Hub, tmp_path: Path) -> None:
    get(tmp_path / "here")
    assert models.export([], tmp_path / "here", tmp_path / "stick") == ["some--tiny"]
    assert models.carry_in(tmp_path / "stick", tmp_path / "there") == ["some--tiny"]
    assert whole(models.folder("some/tiny", tmp_path / "there"))


def test_a_plain_copy_is_as_good(source: Hub, tmp_path: Path) -> None:
    get(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert models.problems(TINY, models.place(TINY, tmp_path / "there"), thorough=True) == []


def test_what_was_damaged_on_the_way_is_not_taken_over(source: Hub, tmp_path: Path) -> None:
    get(tmp_path / "here")
    models.export(["some/tiny"], tmp_path / "here", tmp_path / "stick")
    (tmp_path / "stick/some--tiny/model.bin").write_bytes(WEIGHTS[:-1] + b"\0")
    with pytest.raises(ValueError, match=r"model.bin is damaged.*Copy it again"):
        models.carry_in(tmp_path / "stick", tmp_path / "there")
    assert not list((tmp_path / "there").rglob("*.bin"))


def test_a_manifest_cannot_reach_out_of_its_folder(source: Hub, tmp_path: Path) -> None:
    where = get(tmp_path / "here")
    manifest = json.loads((where / models.MANIFEST).read_text())
    manifest["files"]["../../evil"] = {"size": 1, "sha256": ""}
    (where / models.MANIFEST).write_text(json.dumps(manifest))
    assert models.read(where) is None
    with pytest.raises(ValueError, match="there is no model in"):
        models.carry_in(where, tmp_path / "there")


def test_a_folder_is_found_by_path_name_alias_or_hub_id(tmp_path: Path) -> None:
    small = models.place(find("whisper-small"), tmp_path)
    small.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (small / name).write_text("{}")
    (small / "model.bin").write_bytes(b"\6\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
    for name in ("whisper-small", "small", "Systran/faster-whisper-small", str(small)):
        assert models.folder(name, tmp_path) == small
    (small / "model.bin").unlink()
    with pytest.raises(ValueError, match=r"model.bin is missing.*voice models fetch whisper-small"):
        models.folder("small", tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("qwen3-8b", "Fetch it: voice models fetch qwen3-8b$"),
        ("xtts-v2", "voice models fetch xtts-v2 --accept-licence"),
        ("owner/other", "voice models fetch owner/other"),
        ("smal", "no model is called 'smal'; known: whisper-tiny"),
        ("./smal", "there is no folder smal"),
        ("/no/where", "there is no folder /no/where"),
    ],
)
def test_what_is_not_here_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises(ValueError, match=told):
        models.folder(name, tmp_path)


def test_what_the_hubs_own_library_fetched_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    kept = tmp_path / "cache/models--Systran--faster-whisper-small"
    snapshot = kept / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text(COMMIT)
    for name in ("config.json", "tokenizer.json"):
        (snapshot / name).write_text("{}")
    with pytest.raises(ValueError, match="whisper-small is not in"):
        models.folder("small", tmp_path)
    (snapshot / "model.bin").write_bytes(b"\6\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
    assert models.folder("small", tmp_path) == snapshot


def test_every_profile_is_made_of_known_models_with_free_licences() -> None:
    names = [name for model in catalogue.MODELS for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))
    for profile in ("cpu", "gpu"):
        needed = catalogue.of_profile(profile)
        assert {model.kind for model in needed} == {"asr", "llm", "tts"}
        assert all(model.commercial for model in needed)
    with pytest.raises(ValueError, match="expected one of embedded, cpu, gpu"):
        catalogue.of_profile("cup")


def test_every_model_says_what_it_is() -> None:
    for model in catalogue.MODELS:
        assert bool(model.repo) != bool(model.archive)
        assert model.needs
        assert model.size
        assert model.licence
        assert model.terms.startswith("https://"), model.name
        assert os.sep not in model.name

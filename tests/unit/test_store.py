"""The model store: which versions it holds, what was chosen, and which key has signed them.

The versions in the package need no export; one of them gets an archive here.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diagonalflip.errors import ArtifactError, ModelConflict, ModelNotFound, SettingError
from diagonalflip.server.models import signature, store
from diagonalflip.server.models.choice import CHOICE, Choice, read_choice, write_choice
from diagonalflip.server.models.versions import Models
from diagonalflip.server.settings import PACKAGED, Settings
from diagonalflip.server.supervisor.torchserve_command import find_torchserve
from tests.conftest import ROOT

MAR = "diagonal_flip.mar"


def keys(folder: Path, key: Any = None, password: bytes = b"") -> tuple[Path, Path]:
    """The paths of a private and of a public key, made anew."""
    folder.mkdir(exist_ok=True)
    private, public = folder / "signing.pem", folder / "trusted.pem"
    key, pem = key or Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    secret: Any = serialization.NoEncryption()
    if password:
        secret = serialization.BestAvailableEncryption(password)
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, secret))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, form))
    return private, public


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """A store of both versions, to be changed at will."""
    return Path(shutil.copytree(PACKAGED, tmp_path / "store"))


@pytest.fixture
def exported(versions: Path) -> Path:
    """Version 1.0 of it, with an archive."""
    enter(versions / "1.0", MAR, archive(versions / "1.0"))
    return versions / "1.0"


def enter(export: Path, name: str, content: bytes) -> None:
    (export / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    change_manifest(export, lambda manifest: manifest["artifacts"].update({name: entry}))


def change_manifest(export: Path, change: Callable[[Any], object]) -> None:
    path = export / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def archive(export: Path, version: str = "1.0", other: str = "") -> bytes:
    """An archive of an export's files, of which one is another."""
    model, content = {"modelName": "diagonal_flip", "modelVersion": version}, io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        for name in store.file_names("diagonal_flip").values():
            file.writestr(name, (export / name).read_bytes() + b" " * (name == other))
    return content.getvalue()


def test_a_store_is_an_export_or_a_folder_of_them_in_order(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Run `make export`"):
        store.exports(tmp_path)
    (tmp_path / "manifest.json").touch()
    assert store.exports(tmp_path) == [tmp_path]
    versions = ["1.0", "2.0", "2.0-rc1", "2²2", "10.0", "alpha"]
    for version in reversed(versions):
        (tmp_path / version).mkdir()
        (tmp_path / version / "manifest.json").touch()
    (tmp_path / "empty").mkdir()
    names = [path.name for path in store.exports(tmp_path)]
    assert sorted(names) == sorted(versions)
    assert names.index("2.0") < names.index("2.0-rc1") < names.index("10.0")


def test_folders_that_are_no_exports_count_as_none(versions: Path) -> None:
    """A ConfigMap's content is there three times, by two hidden folders and links.

    Of a folder and the links to it only one counts.
    """
    mounted = versions / "mounted"
    shutil.copytree(versions / "1.0", mounted / "..2026_11_28")
    (mounted / "..data").symlink_to("..2026_11_28")
    for file in (versions / "1.0").iterdir():
        (mounted / file.name).symlink_to(f"..data/{file.name}")
    assert store.exports(mounted) == [mounted]
    shutil.copytree(versions / "1.0", versions / ".1.0.partial")
    shutil.copytree(versions / "1.0", versions / "lost+found")
    shutil.rmtree(mounted)
    (versions / "latest").symlink_to("2.0")
    (versions / "previous").symlink_to(versions / "1.0")
    assert [path.name for path in store.exports(versions)] == ["1.0", "2.0"]


def test_what_cannot_be_read_is_told_and_not_taken_for_absent(
    versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart of the file server, or without permission."""
    lost = versions / "2.0"

    def failing(allowed: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def read(path: Path) -> Any:
            if path.is_relative_to(lost):
                raise OSError(errno.ESTALE, "Stale file handle", str(path))
            return allowed(path)

        return read

    for name in ("exists", "iterdir"):
        monkeypatch.setattr(Path, name, failing(getattr(Path, name)))
    models = Models(versions, AsyncMock())
    [_, told] = models.document()["models"]
    assert f"{lost}/manifest.json: Stale file handle" in told["fault"]
    lost = versions
    with pytest.raises(ArtifactError, match=f"{versions}: Stale file handle"):
        asyncio.run(models.load("2.0"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 0x80
    path.write_bytes(content)


def become_a_pipe(path: Path) -> None:
    """Nobody writes to it, so that opening it would block for ever."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [Path.unlink, flip_a_bit, become_a_pipe])
@pytest.mark.parametrize("name", [MAR, "diagonal_flip.pt", "reference.json", "manifest.json"])
def test_a_damaged_file_is_named(exported: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(exported / name)
    with pytest.raises(ArtifactError, match=f"{name}.* Move its folder out of the model store"):
        store.check(exported)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda told: told["model"].update(version="9.9"), r"An archive of diagonal_flip 1\.0"),
        (lambda told: told["parity_report"].update(largest_deviation=2e-6), "deviations of at"),
        (lambda told: told["parity_report"]["reference"][3].reverse(), "report that is not of"),
    ],
)
def test_a_manifest_that_disagrees_with_its_files_is_rejected(
    exported: Path, spoil: Callable[[Any], None], told: str
) -> None:
    change_manifest(exported, spoil)
    with pytest.raises(ArtifactError, match=told):
        store.check(exported)


@pytest.mark.parametrize("name", [*store.file_names("diagonal_flip").values(), ""])
def test_an_archive_of_other_files_than_workers_load_is_rejected(exported: Path, name: str) -> None:
    """Digests agree, and TorchServe would serve another network than the workers."""
    enter(exported, MAR, archive(exported, other=name) if name else b"no archive")
    told = r"the files of diagonal_flip 1\.0" if name else "not a zip file"
    with pytest.raises(ArtifactError, match=told):
        store.check(exported)


def test_a_signature_holds_for_its_content_and_its_key(exported: Path, tmp_path: Path) -> None:
    checked = store.check(exported)
    assert (checked.archive, checked.signed) == ((exported / MAR).read_bytes(), False)
    private, public = keys(tmp_path)
    with pytest.raises(ArtifactError, match="has no signature"):
        store.check(exported, public)
    manifest = exported / "manifest.json"
    signature.sign(manifest, private)
    assert store.check(exported, public).signed
    with pytest.raises(ArtifactError, match="another key"):
        store.check(exported, keys(tmp_path / "other")[1])
    manifest.write_bytes(manifest.read_bytes().replace(b'"flips": 1', b'"flips": 9'))
    with pytest.raises(ArtifactError, match="other content"):
        store.check(exported, public)
    become_a_pipe(signature.path_of(manifest))
    with pytest.raises(ArtifactError, match="Not a regular file"):
        store.check(exported, public)


def test_files_that_are_no_keys_are_settings_to_correct(exported: Path, tmp_path: Path) -> None:
    manifest = exported / "manifest.json"
    private, public = keys(tmp_path)
    signature.sign(manifest, private)
    other = keys(tmp_path / "other", generate_private_key(SECP256R1()))
    locked, _ = keys(tmp_path / "locked", password=b"secret")
    empty, pipe = tmp_path / "empty.pem", tmp_path / "pipe.pem"
    empty.touch()
    become_a_pipe(pipe)
    for path in (empty, public, other[0], locked):
        with pytest.raises(SettingError, match="SIGNING_KEY"):
            signature.sign(manifest, path)
    for path in (empty, private, other[1], pipe, tmp_path / "none.pem"):
        with pytest.raises(SettingError, match=f"TRUSTED_KEY={path}"):
            store.check(exported, path)


def test_a_choice_is_kept_and_the_first_version_is_the_default_before(tmp_path: Path) -> None:
    versions = ["1.0", "2.0"]
    assert read_choice(tmp_path, versions) == Choice("1.0")
    chosen = Choice("2.0", "1.0", ("3.0",), "1.0", 10)
    write_choice(tmp_path, chosen)
    assert read_choice(tmp_path, versions) == chosen
    assert read_choice(tmp_path, versions, "1.0") == Choice("1.0", "2.0", ("3.0",))
    assert read_choice(tmp_path, versions, "2.0") == chosen
    with pytest.raises(SettingError, match=r"FLIP_DEFAULT_VERSION=4\.0"):
        read_choice(tmp_path, versions, "4.0")
    with pytest.raises(ArtifactError, match=r"Default 2\.0"):
        read_choice(tmp_path, ["1.0"])
    assert read_choice(tmp_path, ["1.0"], "1.0") == Choice("1.0", unloaded=("3.0",))
    by_hand = '{"default": 2.0, "previous": 1.0, "unloaded": [3.0], "canary": 1.0, "percent": 10}'
    (tmp_path / CHOICE).write_text(by_hand)
    assert read_choice(tmp_path, versions) == chosen


def test_a_choice_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut may leave an empty file of that name, and no next start."""
    found: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda _: found.extend(tmp_path.iterdir()))
    write_choice(tmp_path, Choice("1.0"))
    assert found == [(tmp_path / CHOICE).with_suffix(".new")]


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"default": "1.0", "unloaded": 3}', "[" * 100_000),
        '{"default": "1.0", "unloaded": [], "percent": "10"}',
        None,
    ],
)
def test_a_damaged_choice_is_an_error_with_its_file(tmp_path: Path, content: str | None) -> None:
    if content is None:
        become_a_pipe(tmp_path / CHOICE)
    else:
        (tmp_path / CHOICE).write_text(content)
    with pytest.raises(ArtifactError, match=CHOICE):
        read_choice(tmp_path, ["1.0"])


def test_a_default_that_the_next_start_undoes_is_told(versions: Path) -> None:
    models = Models(versions, AsyncMock(), default="1.0")
    for change, kept in ((models.make_default("2.0"), False), (models.rollback(), True)):
        asyncio.run(change)
        assert told(models, "kept") == [kept]


def test_a_version_may_be_a_number_in_its_manifest(versions: Path) -> None:
    """No worker could serve it by a name that is a text."""
    change_manifest(versions / "2.0", lambda manifest: manifest["model"].update(version=2.0))
    assert store.check(versions / "2.0").version == "2.0"


def test_the_default_is_served_even_if_it_was_unloaded(versions: Path) -> None:
    """As after a change of the file by hand."""
    write_choice(versions, Choice("1.0", unloaded=("1.0", "2.0")))
    assert [each.version for each in Models(versions, AsyncMock()).loaded] == ["1.0"]


def told(models: Models, *names: str) -> list[Any]:
    document = models.document()
    return [document[name] for name in names]


def test_a_canary_that_is_not_served_is_none(versions: Path) -> None:
    write_choice(versions, Choice("1.0", canary="2.0", percent=10))
    assert told(Models(versions, AsyncMock()), "canary", "percent") == ["2.0", 10]
    shutil.rmtree(versions / "2.0")
    assert told(Models(versions, AsyncMock()), "canary", "percent") == [None, 0]


@pytest.mark.parametrize(
    "lose", [shutil.rmtree, lambda each: become_a_pipe(each / "manifest.json")]
)
def test_no_rollback_to_what_is_not_served(versions: Path, lose: Callable[[Path], None]) -> None:
    """As after the store was tidied up: no worker could serve it, nor any after the next start."""
    write_choice(versions, Choice("1.0", "2.0"))
    lose(versions / "2.0")
    models = Models(versions, AsyncMock())
    with pytest.raises(ModelNotFound, match="2\\.0 is not served"):
        asyncio.run(models.rollback())
    assert read_choice(versions, ["1.0"]) == Choice("1.0", "2.0")


def test_what_is_served_is_told_without_store_and_key(versions: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    for file in versions.glob("*/manifest.json"):
        signature.sign(file, private)
    write_choice(versions, Choice("1.0", unloaded=("2.0",)))
    models = Models(versions, AsyncMock(), trusted_key=public)

    def found() -> list[tuple[str, bool, bool]]:
        [found] = told(models, "models")
        return [(each["version"], each["loaded"], "fault" in each) for each in found]

    public.unlink()
    assert found() == [("1.0", True, False), ("2.0", False, True)]
    shutil.rmtree(versions)
    assert found() == [("1.0", True, False)]


def test_two_folders_of_one_version_are_an_error_that_names_both(versions: Path) -> None:
    """As after ``cp -r 2.0 2.0.bak``, when 2.0 is exported anew: nobody knows which is meant."""
    copy = Path(shutil.copytree(versions / "2.0", versions / "2.0.bak"))
    both = rf"{versions / '2.0'} and in {copy}.* Move the other out"
    models = Models(versions, AsyncMock())
    assert [each.version for each in models.loaded] == ["1.0"]
    [fault] = [each["fault"] for each in models.document()["models"] if "fault" in each]
    assert re.search(both, fault)
    with pytest.raises(ArtifactError, match=both):
        asyncio.run(models.load("2.0"))
    with pytest.raises(ArtifactError, match=both):
        Models(versions, AsyncMock(), default="2.0")
    shutil.rmtree(copy)
    assert {each.version for each in Models(versions, AsyncMock()).loaded} == {"1.0", "2.0"}


def test_the_store_is_read_and_written_beside_the_event_loop(
    versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk may be another host's, which does not answer."""
    models, threads = Models(versions, AsyncMock()), []

    def noted(work: Callable[..., Any], *given: Any) -> Any:
        threads.append(threading.current_thread())
        return work(*given)

    monkeypatch.setattr(store, "check", partial(noted, store.check))
    writer = "diagonalflip.server.models.versions.write_choice"
    monkeypatch.setattr(writer, partial(noted, write_choice))
    asyncio.run(models.load("2.0"))
    assert len(threads) == 2
    assert threading.main_thread() not in threads


def test_a_choice_that_cannot_be_written_is_made_and_told(versions: Path) -> None:
    new = (versions / CHOICE).with_suffix(".new")
    new.mkdir()
    models = Models(versions, AsyncMock())
    asyncio.run(models.make_default("2.0"))
    assert told(models, "default", "kept") == ["2.0", False]
    new.rmdir()
    asyncio.run(models.rollback())
    assert told(models, "default", "kept") == ["1.0", True]


@pytest.mark.parametrize("name", store.file_names("diagonal_flip").values())
def test_a_version_number_stays_with_the_model_that_was_served(versions: Path, name: str) -> None:
    """Whether that is still served or not: workers go on with the files that they have."""
    models = Models(versions, AsyncMock())
    export = versions / "2.0"
    first = (export / name).read_bytes()
    enter(export, name, first + b" ")
    with pytest.raises(ModelConflict, match="another model than before"):
        asyncio.run(models.load("2.0"))
    asyncio.run(models.unload("2.0"))
    with pytest.raises(ModelConflict, match="another model than before"):
        asyncio.run(models.load("2.0"))
    enter(export, name, first)
    asyncio.run(models.load("2.0"))
    assert {each.version for each in models.loaded} == {"1.0", "2.0"}


@pytest.mark.parametrize("store", ["model_store", "R&D's(1)"])
def test_cleaning_removes_what_the_project_exports_and_nothing_else(
    tmp_path: Path, store: str
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "export", tmp_path / "export")
    ours = [f"diagonal_flip.{kind}" for kind in ("mar", "onnx", "pt", "x4.onnx")]
    ours += ["manifest.json", "reference.json"]
    for version in ("1.0", "2.0", "3.1", "2.0.bak"):
        folder = tmp_path / store / version
        folder.mkdir(parents=True)
        for name in (*ours, "manifest.json.sig"):
            (folder / name).touch()
    for path in (tmp_path / store / CHOICE, tmp_path / "R"):
        path.touch()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    subprocess.run(
        ["make", "clean", f"MODEL_STORE={store}"], cwd=tmp_path, check=True, capture_output=True
    )
    gone = before - {path for path in tmp_path.rglob("*") if path.is_file()}
    exports = [tmp_path / store / version for version in ("1.0", "2.0")]
    assert gone == {folder / name for folder in exports for name in ours}


@pytest.mark.parametrize("given", ["a store", "a:store", ""])
def test_a_path_that_make_would_cut_is_an_error_and_nothing_is_removed(
    tmp_path: Path, given: str
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "export", tmp_path / "export")
    (tmp_path / "a").touch()
    made = ["make", "clean", f"MODEL_STORE={given}"]
    finished = subprocess.run(made, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"MODEL_STORE={given}. Expected a path without blanks" in finished.stderr
    assert (finished.returncode, (tmp_path / "a").exists()) == (2, True)


def test_the_versions_in_the_package_can_be_served_and_have_no_archive() -> None:
    versions = [store.check(folder) for folder in store.exports(PACKAGED)]
    found = [(each.version, each.flips, each.archive) for each in versions]
    assert found == [("1.0", 1, None), ("2.0", 16, None)]
    with pytest.raises(SettingError, match="FLIP_MODEL_STORE"):
        find_torchserve(Settings(torchserve="1"), has_archive=False)
    assert find_torchserve(Settings(), has_archive=False) is None


def test_without_a_setting_the_store_is_the_one_here_or_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().versions == PACKAGED
    (tmp_path / "model_store").mkdir()
    assert Settings().versions == Path("model_store")
    assert Settings(model_store=tmp_path / "none").versions == tmp_path / "none"

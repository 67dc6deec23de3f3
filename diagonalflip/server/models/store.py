"""The model store: a folder per version, checked against its manifest before it is served."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from diagonalflip.errors import ArtifactError, ModelNotFound
from diagonalflip.inference.model import REFERENCE
from diagonalflip.wire import TOLERANCE

MANIFEST = "manifest.json"

OTHERS = re.compile(r"\..*|lost\+found")
"""Folders that are not exports: hidden ones, such as a ConfigMap's ``..data``, and ext4's."""

REMEDY = "move its folder out of the model store, and export it again by `make export`"


@dataclass(frozen=True)
class Artifacts:
    """One exported version, checked.

    Attributes:
        folder: The version's folder in the store.
        model: Model name, as in the URL.
        version: Model version.
        reference: Predictions by image number, 16 rows of 4, from the parity report.
        digest: SHA-256 (hex) of the TorchScript file, as clients see it.
        flips: How many of the 16 images the version flips.
        signed: Whether a trusted key has signed it.
        files: Checked content of the files for workers: ``torchscript``, ``onnx``, ``reference``.
        archive: Checked content of TorchServe's archive; None in the package's own store.
    """

    folder: Path
    model: str
    version: str
    reference: list[list[float]]
    digest: str
    flips: int
    signed: bool
    files: Mapping[str, bytes] = field(repr=False, compare=False)
    archive: bytes | None = field(repr=False, compare=False)


def read(path: Path) -> bytes:
    """Return the content of a regular file; opening a pipe would wait for its writer.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return path.read_bytes()


def exports(model_store: Path) -> list[Path]:
    """Return the exports in ``model_store``, sorted by name; or itself, if it is an export.

    Raises:
        ArtifactError: There is none, or the store cannot be read.
    """
    try:
        folders = [each for each in model_store.iterdir() if not OTHERS.fullmatch(each.name)]
    except OSError as error:
        got = f"{model_store}: {error.strerror}"
        raise ArtifactError(got, "a folder of exports", "run `make export`") from error
    found = [*filter(_is_export, folders)] or [*filter(_is_export, [model_store])]
    if not found:
        raise ArtifactError(
            f"there is no {MANIFEST} in or below {model_store}", "an export", "run `make export`"
        )
    # A version and a link to it, such as ``latest``, which sorts first, are one export.
    unique = {each.resolve(): each for each in sorted(found, key=_version_key)}
    return sorted(unique.values(), key=_version_key)


def _is_export(folder: Path) -> bool:
    """Return whether a folder has a manifest; if that is unknown, ``check`` raises the error."""
    try:
        return (folder / MANIFEST).exists()
    except OSError:
        return True


def _version_key(folder: Path) -> list[tuple[int, str]]:
    """Return a key that sorts versions as people do: 2.0 before 10.0."""
    parts = re.findall(r"\d+|\D+", folder.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def version_of(folder: Path) -> str:
    """Return the version of an export; if its manifest cannot be read, the folder's name."""
    try:
        return str(orjson.loads(read(folder / MANIFEST))["model"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def folders(model_store: Path) -> dict[str, list[Path]]:
    """Return the folders with each version, which should be only one; raise as ``exports``."""
    found: dict[str, list[Path]] = {}
    for folder in exports(model_store):
        found.setdefault(version_of(folder), []).append(folder)
    return found


def only_one(version: str, folders: Sequence[Path]) -> Path:
    """Return the folder with a version.

    Raises:
        ArtifactError: There are several.
    """
    if len(folders) > 1:
        got = f"version {version} is in {' and in '.join(map(str, folders))}"
        raise ArtifactError(got, "one folder", "move the other out of the model store")
    return folders[0]


def load(model_store: Path, version: str | None, trusted_key: Path | None = None) -> Artifacts:
    """Find and check a version, None for the first; raise ModelNotFound, or as ``check``."""
    found = folders(model_store)
    version = next(iter(found)) if version is None else version
    if version not in found:
        known = ", ".join(map(repr, found))
        raise ModelNotFound(f"version {version!r:.40}", f"one of {known}")
    return check(only_one(version, found[version]), trusted_key)


def check(folder: Path, trusted_key: Path | None = None) -> Artifacts:
    """Check every artifact of an export against its manifest.

    With a trusted key, the manifest must be signed by it.

    Raises:
        ArtifactError: A file is missing, unreadable, or not what was exported or signed.
        SettingError: The key cannot be used.
    """
    try:
        raw = read(folder / MANIFEST)
        if trusted_key is not None:
            from diagonalflip.server.models import signature  # noqa: PLC0415 - 8 MiB that few need

            signature.verify(folder / MANIFEST, raw, trusted_key)
        manifest: dict[str, Any] = orjson.loads(raw)
        checked: dict[str, bytes] = {}
        for name, entry in manifest["artifacts"].items():
            content = read(folder / name)
            found = hashlib.sha256(content).hexdigest()
            if found != entry["sha256"]:
                raise ArtifactError(
                    f"{folder / name} with SHA-256 {found[:12]}… ({len(content)} bytes)",
                    f"{entry['sha256'][:12]}… ({entry['bytes']} bytes) as in {MANIFEST}",
                    REMEDY,
                )
            checked[name] = content
        model, parity_report = manifest["model"], manifest["parity_report"]
        names = file_names(model["name"])
        artifacts = Artifacts(
            folder=folder,
            model=model["name"],
            version=str(model["version"]),
            reference=parity_report["reference"],
            digest=manifest["artifacts"][names["torchscript"]]["sha256"],
            flips=parity_report["flips"],
            signed=trusted_key is not None,
            files={kind: checked[name] for kind, name in names.items()},
            archive=checked.get(f"{model['name']}.mar"),
        )
        _check_agreement(artifacts, parity_report.get("largest_deviation", 0.0))
    except OSError as error:
        got = f"{error.filename or folder}: {error.strerror}"  # an error while reading has no name
        raise ArtifactError(got, "a file", REMEDY) from error
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{folder / MANIFEST}: {error!r}", "the manifest of an export", REMEDY
        ) from error
    return artifacts


def file_names(model: str) -> dict[str, str]:
    """Return the names of the files that workers load."""
    return {"torchscript": f"{model}.pt", "onnx": f"{model}.x4.onnx", "reference": REFERENCE}


def _check_agreement(artifacts: Artifacts, largest_deviation: float) -> None:
    """Check that parity report and archive belong to the files that workers load."""
    reference = orjson.loads(artifacts.files["reference"])["predictions"]
    if reference != artifacts.reference or not largest_deviation <= TOLERANCE:
        raise ArtifactError(
            f"a parity report that is not of {artifacts.folder}",
            f"the predictions in {REFERENCE}, and deviations of at most {TOLERANCE:g}",
            REMEDY,
        )
    if artifacts.archive is None:
        return
    names = file_names(artifacts.model)
    with zipfile.ZipFile(io.BytesIO(artifacts.archive)) as archive:
        packed = orjson.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
        same = all(archive.read(names[kind]) == file for kind, file in artifacts.files.items())
    found = f"{packed['modelName']} {packed['modelVersion']}"
    expected = f"{artifacts.model} {artifacts.version}"
    if found != expected or not same:
        raise ArtifactError(
            f"an archive of {found} in {artifacts.folder}", f"the files of {expected}", REMEDY
        )

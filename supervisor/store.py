"""The model store: a folder per version, checked against its manifest before it is served."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagonalflip.errors import ArtifactError
from diagonalflip.wire import TOLERANCE

MANIFEST = "manifest.json"
REMEDY = "move its folder out of the model store, and export it again by `make export`"


@dataclass(frozen=True)
class Artifacts:
    """One exported version, checked.

    Attributes:
        archive: The TorchServe archive.
        model: Model name, as in the URL.
        version: Model version.
        reference: Predictions by image number, 16 rows of 4, from the certificate.
        digest: SHA-256 (hex) of the TorchScript file, as clients see it.
        flips: How many of the 16 images the version flips.
        signed: Whether a trusted key has signed it.
        content: Of the archive, as it was checked.
    """

    archive: Path
    model: str
    version: str
    reference: list[list[float]]
    digest: str = ""
    flips: int = 0
    signed: bool = False
    content: bytes = field(default=b"", repr=False, compare=False)

    @property
    def files(self) -> dict[str, bytes]:
        """What a worker needs of the archive: ``torchscript``, ``onnx`` and ``reference``."""
        members = {
            "torchscript": f"{self.model}.pt",
            "onnx": f"{self.model}.x4.onnx",
            "reference": "reference.json",
        }
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            return {name: archive.read(member) for name, member in members.items()}


def exports(model_store: Path) -> list[Path]:
    """The exports in ``model_store``, in the order of their names, or itself if it is one.

    Raises:
        ArtifactError: There is none.
    """
    found = [path.parent for path in model_store.glob(f"*/{MANIFEST}")]
    if not found and (model_store / MANIFEST).exists():
        return [model_store]
    if not found:
        raise ArtifactError(
            f"there is no {MANIFEST} in or below {model_store}", "an export", "run `make export`"
        )
    return sorted(found, key=lambda path: version_key(path.name))


def version_key(version: str) -> list[tuple[int, str]]:
    """Sorts versions as people do: 2.0 before 10.0."""
    parts = re.findall(r"\d+|\D+", version)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def version_of(folder: Path) -> str:
    """The version of an export; the folder's name, if its manifest cannot be read."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["model"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def folders(model_store: Path) -> dict[str, list[Path]]:
    """Return the folders that hold each version, which should be one.

    Raises:
        ArtifactError: There is no export.
    """
    found: dict[str, list[Path]] = {}
    for folder in exports(model_store):
        found.setdefault(version_of(folder), []).append(folder)
    return found


def only_one(version: str, folders: Sequence[Path]) -> Path:
    """Return the folder that holds a version.

    Raises:
        ArtifactError: Several do, and nobody knows which of them is meant.
    """
    if len(folders) > 1:
        raise ArtifactError(
            f"version {version} is in {' and in '.join(map(str, folders))}",
            "one folder",
            "move the other out of the model store",
        )
    return folders[0]


def check(folder: Path, trusted_key: Path | None = None) -> Artifacts:
    """Read the manifest of an export and compare every artifact with its digest.

    Args:
        folder: The export.
        trusted_key: Public key that must have signed the manifest, if any.

    Raises:
        ArtifactError: The manifest or an artifact is missing or unreadable, or an
            artifact is not what was exported, or not what was signed.
        SettingError: The key cannot be used.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
        if trusted_key is not None:
            from supervisor import signature  # noqa: PLC0415 - 8 MiB, for those who sign

            signature.verify(folder / MANIFEST, raw, trusted_key)
        manifest: dict[str, Any] = json.loads(raw)
        archive = folder / f"{manifest['model']['name']}.mar"
        checked: dict[str, bytes] = {}
        for name, entry in manifest["artifacts"].items():
            content = (folder / name).read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != entry["sha256"]:
                raise ArtifactError(
                    f"{folder / name} with SHA-256 {found[:12]}… ({len(content)} bytes)",
                    f"{entry['sha256'][:12]}… ({entry['bytes']} bytes) as in {MANIFEST}",
                    REMEDY,
                )
            checked[name] = content
        model, certificate = manifest["model"], manifest["certificate"]
        artifacts = Artifacts(
            archive=archive,
            model=model["name"],
            version=model["version"],
            reference=certificate["reference"],
            digest=manifest["artifacts"][f"{model['name']}.pt"]["sha256"],
            flips=certificate["flips"],
            signed=trusted_key is not None,
            content=checked[archive.name],
        )
        _check_certificate(artifacts, certificate["largest_deviation"])
    except OSError as error:
        raise ArtifactError(f"{error.filename}: {error.strerror}", "a file", REMEDY) from error
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{folder / MANIFEST}: {error!r}", "the manifest of an export", REMEDY
        ) from error
    return artifacts


def _check_certificate(artifacts: Artifacts, largest_deviation: float) -> None:
    """Compares the certificate with what is in the archive, which workers prove themselves by."""
    reference = json.loads(artifacts.files["reference"])["predictions"]
    with zipfile.ZipFile(io.BytesIO(artifacts.content)) as archive:
        packed = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
    named = (artifacts.model, artifacts.version)
    if (packed["modelName"], packed["modelVersion"]) != named:
        raise ArtifactError(
            f"an archive of {packed['modelName']} {packed['modelVersion']}", " ".join(named), REMEDY
        )
    if reference != artifacts.reference or not largest_deviation <= TOLERANCE:
        raise ArtifactError(
            f"a certificate that is not of {artifacts.archive}",
            f"the archive's predictions, and deviations of at most {TOLERANCE:g}",
            REMEDY,
        )

"""The model store, checked against its manifest before anything is started from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagonalflip.errors import ArtifactError


@dataclass(frozen=True)
class Artifacts:
    """What is about to be served.

    Attributes:
        archive: The TorchServe archive.
        model: Model name, as in the URL.
        version: Model version.
        reference: Predictions by image number, 16 rows of 4, from the certificate.
    """

    archive: Path
    model: str
    version: str
    reference: list[list[float]]


def check(model_store: Path) -> Artifacts:
    """Reads the manifest and compares every artifact with its digest.

    Raises:
        ArtifactError: The manifest or an artifact is missing or unreadable, or an
            artifact is not what was exported.
    """
    remedy = "run `make clean export`"
    try:
        manifest: dict[str, Any] = json.loads((model_store / "manifest.json").read_bytes())
        for name, entry in manifest["artifacts"].items():
            content = (model_store / name).read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != entry["sha256"]:
                raise ArtifactError(
                    f"{model_store / name} with SHA-256 {found[:12]}… ({len(content)} bytes)",
                    f"{entry['sha256'][:12]}… ({entry['bytes']} bytes) as in manifest.json",
                    remedy,
                )
        model = manifest["model"]
        return Artifacts(
            archive=model_store / f"{model['name']}.mar",
            model=model["name"],
            version=model["version"],
            reference=manifest["certificate"]["reference"],
        )
    except OSError as error:
        raise ArtifactError(f"{error.filename}: {error.strerror}", "a file", remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{model_store / 'manifest.json'}: {error!r}", "the manifest of an export", remedy
        ) from error

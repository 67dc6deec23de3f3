"""The versions of the model that one worker serves, as the supervisor wants them."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagonalflip.errors import ArtifactError

WANTED = "models.json"
"""File of the supervisor, in the folder of sockets: what every worker is to serve. It has a number,
``revision``."""

MANIFEST = "MAR-INF/MANIFEST.json"


@dataclass(frozen=True)
class Served:
    """Versions that a worker serves.

    Attributes:
        services: By version.
        default: The version that answers where none is named.
        canary: The version that answers some of these instead, if any.
        percent: Of them, how many.
    """

    services: Mapping[str, Any]
    default: str
    canary: str | None = None
    percent: int = 0


def packed_model(archive: Path) -> dict[str, str]:
    """Return the entry ``model`` of an unpacked archive's manifest: name, version, file."""
    found: dict[str, str] = json.loads((archive / MANIFEST).read_bytes())["model"]
    return found


def fulfil(wish: Mapping[str, Any], served: Served) -> Served:
    """Load the wanted versions that are missing; each is proven on this worker's device.

    Args:
        wish: Content of ``WANTED``: ``default``, ``canary``, ``percent``, and ``versions`` with
            the path of each one's archive.
        served: What is there.

    Raises:
        ArtifactError: An archive is damaged, or its answers are wrong.
    """
    like = next(iter(served.services.values()))
    services = {
        version: served.services.get(version) or _load(Path(archive), like)
        for version, archive in wish["versions"].items()
    }
    return Served(services, wish["default"], wish["canary"], wish["percent"])


def _load(archive: Path, like: Any) -> Any:
    """A service for another archive, with the code and the device of the one that is there."""
    try:
        with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(archive) as members:
            members.extractall(name)
            return type(like)(Path(name), packed_model(Path(name)), like.device)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ArtifactError(f"{archive}: {error!r}", "an archive of `make export`") from error

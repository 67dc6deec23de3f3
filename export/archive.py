"""Pack the TorchServe archive, and list its members with digests.

A TorchServe archive is a zip with ``MAR-INF/MANIFEST.json`` (pytorch/serve:
model-archiver/README.md). ``torch-model-archiver`` is not used because it writes the time into
manifest and members.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from diagonalflip.wire import MODEL

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    **{path.name: path for path in sorted((ROOT / "handlers").iterdir()) if path.is_file()},
    **{
        str(path.relative_to(ROOT)): path
        for pattern in ("diagonalflip/*.py", "diagonalflip/inference/*.py")
        for path in sorted(ROOT.glob(pattern))
        if path.name not in {"_loopback.py", "_processor.py"}
    },
}
"""Source files by archive member: the handler, and the parts of the package that it needs.
TorchServe puts the unpacked archive on the import path."""


def write_archive(path: Path, version: str, model_files: Sequence[Path]) -> dict[str, bytes]:
    """Write the archive to ``path`` and return its members.

    ``model_files`` are the network for GPUs, the network for CPUs, and the predictions that
    workers must reproduce.
    """
    manifest = {
        "archiverVersion": "0.12.0",
        "runtime": "python",
        "model": {
            "modelName": MODEL,
            "modelVersion": version,
            "serializedFile": f"{MODEL}.pt",
            "handler": "diagonalflip_handler.py",
            "configFile": "model-config.yaml",
            "requirementsFile": "requirements.txt",
        },
    }
    files = SOURCES | {file.name: file for file in model_files}
    members = {name: file.read_bytes() for name, file in files.items()}
    members["MAR-INF/MANIFEST.json"] = json.dumps(manifest, indent=2).encode()
    write_zip(path, members)
    return members


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """Write ``members`` to a zip whose bytes depend only on them.

    They are not compressed: different builds of zlib would give different bytes.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, members[name])


def digest(data: bytes) -> dict[str, str | int]:
    """Return SHA-256 and size in bytes, as ``manifest.json`` lists them."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

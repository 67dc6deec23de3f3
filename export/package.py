"""Copy exports into the package, so that its wheel serves without torch: ``make package-data``.

The copied files are the same on every machine: the archive for TorchServe, which contains the code,
and the measurements of the parity report are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from diagonalflip.server.models.store import MANIFEST, exports, file_names
from diagonalflip.server.settings import PACKAGED

EXACT = ("flips", "reference")
"""Parts of a parity report that are computed exactly."""


def package_files(folder: Path) -> dict[str, bytes]:
    """Return the files of an export for the package, by name."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    names = sorted(file_names(manifest["model"]["name"]).values())
    reduced = {
        "model": manifest["model"],
        "wire_version": manifest["wire_version"],
        "artifacts": {name: manifest["artifacts"][name] for name in names},
        "parity_report": {name: manifest["parity_report"][name] for name in EXACT},
    }
    files = {name: (folder / name).read_bytes() for name in names}
    return files | {MANIFEST: json.dumps(reduced, indent=2).encode() + b"\n"}


def main() -> None:
    """Copy every export of the folder on the command line."""
    for folder in exports(Path(sys.argv[1])):
        target = PACKAGED / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for name, content in package_files(folder).items():
            (target / name).write_bytes(content)


if __name__ == "__main__":
    main()

"""Write all artifacts of a commit to one folder, with digests, and build them again to compare.

    make release SIGNING_KEY=signing.pem          # every check, then the folder release/, signed
    make verify-release TRUSTED_KEY=trusted.pem   # builds it again from a clean clone, and compares

Every build gives the same files, except for the measurements in the parity report in
``manifest.json``, which depend on the machine that exported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from diagonalflip.errors import ArtifactError
from diagonalflip.server.models import signature
from diagonalflip.server.models.store import exports
from export import ending
from export.__main__ import MANIFEST, export

ROOT = Path(__file__).resolve().parent.parent
COMMIT, SUMS = "COMMIT", "SHA256SUMS"
DOCUMENTS = ("CHANGELOG.md", "diagonalflip/server/openapi.yaml")
MEASURED = ("pairs", "largest_deviation", "largest_ulp", "batch_invariant")
"""Measured parts of a parity report; the rest is computed exactly."""


def build(folder: Path) -> None:
    """Write exports, package and documents of this checkout, and their digests.

    Raises:
        ArtifactError: The checkout has changes, or ``folder`` is not empty.
    """
    if _git("status", "--porcelain"):
        raise ArtifactError("the checkout has changes", "a clean one", "commit them")
    folder.mkdir(parents=True, exist_ok=True)
    if list(folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty", "an empty folder", "remove it")
    for weights in sorted((ROOT / "export").glob("weights-*.json")):
        version = weights.stem.removeprefix("weights-")
        export(folder / version, weights, version)
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    dated = os.environ | {"SOURCE_DATE_EPOCH": _git("log", "-1", "--format=%ct")}
    subprocess.run([*wheel, "--wheel-dir", str(folder), str(ROOT)], env=dated, check=True)
    for name in DOCUMENTS:
        shutil.copy(ROOT / name, folder)
    (folder / COMMIT).write_text(_git("rev-parse", "HEAD") + "\n")
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / SUMS).write_text("".join(lines))


def sign(folder: Path, key: Path) -> None:
    """Sign the digests, and every manifest for the server that loads it."""
    for path in [folder / SUMS, *(each / MANIFEST for each in exports(folder))]:
        signature.sign(path, key)


def verify(folder: Path, trusted_key: Path | None) -> None:
    """Check signature and digests, build the commit again, and compare every file.

    Raises:
        ArtifactError: A file differs from the released one, or from what the commit makes.
    """
    sums = (folder / SUMS).read_bytes()
    if trusted_key is not None:
        signature.verify(folder / SUMS, sums, trusted_key)
    released = {line[66:]: line[:64] for line in sums.decode().splitlines()}
    for name, digest in released.items():
        if _sha256(folder / name) != digest:
            raise ArtifactError(f"{name} has another digest", f"{digest[:12]}… as in {SUMS}")
    with tempfile.TemporaryDirectory(prefix="release-") as scratch:
        clone, again = Path(scratch) / "clone", Path(scratch) / "again"
        _git("clone", "--quiet", str(ROOT), str(clone))
        _git("checkout", "--quiet", (folder / COMMIT).read_text().strip(), at=clone)
        command = [sys.executable, "-m", "export.release", str(again)]
        subprocess.run(command, cwd=clone, check=True, stdout=subprocess.DEVNULL)
        if one_sided := released.keys() ^ set(_names(again)):
            raise ArtifactError(f"{min(one_sided)} is on one side only", "the same files")
        for name in released:
            if _comparable(folder / name) != _comparable(again / name):
                raise ArtifactError(f"{name} differs from what the commit makes", "the same bytes")


def _comparable(path: Path) -> bytes:
    """Return the part of a file that must be equal."""
    content = path.read_bytes()
    if path.name != MANIFEST:
        return content
    manifest: dict[str, Any] = json.loads(content)
    for name in MEASURED:
        del manifest["parity_report"][name]
    return json.dumps(manifest).encode()


def _names(folder: Path) -> list[str]:
    """Return the names of all released files, without digests and signatures."""
    found = (path for path in folder.rglob("*") if path.is_file())
    kept = (path for path in found if path.name != SUMS and path.suffix != ".sig")
    return sorted(str(path.relative_to(folder)) for path in kept)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git(*arguments: str, at: Path = ROOT) -> str:
    """Run git in a checkout, not in one above it, and independent of its user's settings."""
    plain = ["git", "-c", "log.showSignature=false", "-c", "status.showUntrackedFiles=normal"]
    here = os.environ | {"GIT_CEILING_DIRECTORIES": str(at.parent)}
    return subprocess.check_output([*plain, *arguments], cwd=at, env=here, text=True).strip()


def main() -> None:
    """Build or verify a release."""
    parser = argparse.ArgumentParser(prog="python -m export.release", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sign", type=Path, help="private key")
    parser.add_argument("--verify", action="store_true", help="compare with a new build")
    parser.add_argument("--trusted", type=Path, help="public key that must have signed it")
    arguments = parser.parse_args()
    with ending("release"):
        if arguments.verify:
            verify(arguments.folder, arguments.trusted)
            print(f"{arguments.folder} is what its commit makes")
        else:
            build(arguments.folder)
            if arguments.sign is not None:
                sign(arguments.folder, arguments.sign)
            print(f"\nReleased to {arguments.folder}")


if __name__ == "__main__":
    main()

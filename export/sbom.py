"""List Python packages, TorchServe's jar and Debian packages as one CycloneDX document.

    python -m export.sbom CYCLONEDX_PY OUTPUT [--debian]

The jar contains some thirty others, but its build removed their ``pom.properties`` (pytorch/serve:
frontend/server/build.gradle), so a scanner sees a single file. Its contents are listed in
``torchserve-jar.json``, for the jar with that digest: each version with the entry that states it,
or the class whose time stamp is that of the release.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diagonalflip.errors import ArtifactError
from export import ending

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
JAR_CONTENT = Path(__file__).with_name("torchserve-jar.json")


def jar_components() -> list[dict[str, Any]]:
    """Return the libraries in TorchServe's jar; none if TorchServe is not installed.

    Raises:
        ArtifactError: The jar's contents are not known.
    """
    known = json.loads(JAR_CONTENT.read_bytes())
    try:
        jar = Path(str(distribution("torchserve").locate_file("ts/frontend/model-server.jar")))
    except PackageNotFoundError:
        return []
    digest = hashlib.sha256(jar.read_bytes()).hexdigest()
    if digest != known["jar_sha256"]:
        raise ArtifactError(f"{jar.name} of SHA-256 {digest}", known["jar_sha256"])
    components = []
    for reference, version_from in known["libraries"].items():
        group, name, version = re.split("[/@]", reference)
        components.append(
            {
                "type": "library",
                "bom-ref": reference,
                "group": group,
                "name": name,
                "version": version,
                "purl": f"pkg:maven/{reference}",
                "properties": [{"name": "diagonalflip:version-from", "value": version_from}],
            }
        )
    return components


def debian_components() -> list[dict[str, Any]]:
    """Return this system's Debian packages."""
    command = ["dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture}\n"]
    listed = subprocess.check_output(command, text=True)
    return [
        {
            "type": "library",
            "bom-ref": f"deb/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{quote(version)}?arch={architecture}",
        }
        for name, version, architecture in map(str.split, listed.splitlines())
    ]


def merge(python: dict[str, Any], jar: list[dict[str, Any]], omitted: set[str]) -> dict[str, Any]:
    """Merge the documents of an environment and a jar, without the packages in ``omitted``."""
    parts = [part for part in python["components"] if _normal(part["name"]) not in omitted]
    kept = {part["bom-ref"] for part in parts}
    bundled = sorted(part["bom-ref"] for part in jar)
    lines: list[dict[str, Any]] = [{"ref": reference} for reference in bundled]
    for line in python["dependencies"]:
        if line["ref"] in kept:
            needed = kept.intersection(line.get("dependsOn", []))
            if line["ref"].startswith("torchserve=="):
                needed.update(bundled)
            lines.append({"ref": line["ref"], "dependsOn": sorted(needed)})
    return python | {"components": parts + jar, "dependencies": lines}


def _names(lock: str) -> set[str]:
    """Return the names of the packages in a lock file."""
    pins = re.findall(r"^([\w.-]+)==", (REQUIREMENTS / lock).read_text("utf-8"), re.MULTILINE)
    return set(map(_normal, pins))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write the document, without the tests' tools; ``--debian`` adds this system's packages."""
    tool, output, *rest = sys.argv[1:]
    command = [tool, "environment", sys.executable, "--of", "JSON", "--output-reproducible"]
    python = json.loads(subprocess.check_output(command, text=True))
    document = merge(python, jar_components(), _names("dev.txt") - _names("serve.txt"))
    if "--debian" in rest:
        document["components"] += debian_components()
    Path(output).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{output}: {len(document['components'])} components")


if __name__ == "__main__":
    with ending("sbom"):
        main()

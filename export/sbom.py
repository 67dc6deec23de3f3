"""List what serves as one CycloneDX document: Python packages, TorchServe's jar, Debian packages.

    python -m export.sbom CYCLONEDX_PY OUTPUT [--debian]

That jar is some thirty others in one, and its build threw their ``pom.properties`` away
(pytorch/serve: frontend/server/build.gradle), so that a scanner sees a single file. What is
inside is committed, for the jar of that digest: each version with the entry that states it, or
the class whose time stamp is that release's.
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

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
JAR_CONTENT = Path(__file__).with_name("torchserve-jar.json")


def jar_components() -> list[dict[str, Any]]:
    """Return the libraries inside TorchServe's jar; none where TorchServe is not installed.

    Raises:
        ArtifactError: It is not the jar whose content is known.
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
    """Join the documents of an environment and a jar, without the packages in ``omitted``."""
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
    """Return the packages that a lock names."""
    pins = re.findall(r"^([\w.-]+)==", (REQUIREMENTS / lock).read_text("utf-8"), re.MULTILINE)
    return set(map(_normal, pins))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write the document, without the tests' tools; ``--debian`` adds this system's packages."""
    tool, output, *rest = sys.argv[1:]
    command = [tool, "environment", sys.executable, "--of", "JSON", "--output-reproducible"]
    told = subprocess.check_output(command, text=True)
    only_tests = _names("dev.txt") - _names("serve.txt")
    document = merge(json.loads(told), jar_components(), only_tests)
    if "--debian" in rest:
        document["components"] += debian_components()
    Path(output).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{output}: {len(document['components'])} components")


if __name__ == "__main__":
    main()

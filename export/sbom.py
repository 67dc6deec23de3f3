"""Bill of materials as one CycloneDX document: Python packages, TorchServe's jar, Debian packages.

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
JAR_CONTENT = Path(__file__).with_name("torchserve-jar.cdx.json")


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
    components: list[dict[str, Any]] = known["components"]
    return components


def debian_components(listed: str) -> list[dict[str, Any]]:
    """Debian's packages, from lines of ``name version architecture``."""
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
    """One document of an environment's and a jar's, without the packages in ``omitted``."""
    parts = [part for part in python["components"] if _normal(part["name"]) not in omitted]
    kept = {part["bom-ref"] for part in parts}
    bundled = {part["bom-ref"] for part in jar}
    lines = [{"ref": reference} for reference in sorted(bundled)]
    for line in python["dependencies"]:
        if line["ref"] in kept:
            needed = kept.intersection(line.get("dependsOn", []))
            needed |= bundled if line["ref"].startswith("torchserve==") else set()
            lines.append({"ref": line["ref"], "dependsOn": sorted(needed)})
    return python | {"components": parts + jar, "dependencies": lines}


def names(requirements: Path) -> set[str]:
    """Packages that a lock names."""
    pins = re.findall(r"^([\w.-]+)==", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    return {_normal(name) for name in pins}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """``python -m export.sbom CYCLONEDX_PY OUTPUT [--debian]``, without the tests' tools.

    With ``--debian`` also this system's packages, for an image is all of it.
    """
    tool, output, *rest = sys.argv[1:]
    command = [tool, "environment", sys.executable, "--of", "JSON", "--output-reproducible"]
    only_tests = names(REQUIREMENTS / "dev.txt") - names(REQUIREMENTS / "serve.txt")
    document = merge(json.loads(_run(command)), jar_components(), only_tests)
    if "--debian" in rest:
        listed = _run(["dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture}\n"])
        document["components"] += debian_components(listed)
    Path(output).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{output}: {len(document['components'])} components")


def _run(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


if __name__ == "__main__":
    main()

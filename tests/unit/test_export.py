"""Exports are reproducible to the byte, listed with digests, portable, and all or nothing.

Each export is a process of its own and takes some seconds: such tests are few.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime
import pytest

from diagonalflip.errors import ArtifactError
from diagonalflip.wire import WIRE_VERSION
from export import ending
from export.__main__ import export as write_artifacts
from export.archive import SOURCES
from export.net import WEIGHTS_FILE
from tests.conftest import ROOT, export

ARCHIVE = "diagonal_flip.mar"
LOADED = ("diagonal_flip.pt", "diagonal_flip.x4.onnx", "reference.json")
FILES = (*LOADED, "diagonal_flip.onnx", ARCHIVE, "manifest.json")


def failed(command: list[str]) -> list[str]:
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 1, finished.stdout
    assert "Traceback" not in finished.stderr
    return finished.stderr.splitlines()


@pytest.mark.slow
def test_an_export_elsewhere_has_the_same_bytes(artifacts: Path, tmp_path: Path) -> None:
    tree = tmp_path / "the tree"
    for name in ("diagonalflip", "export", "handlers"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    output = tree / "deep" / "output"
    settings = {"PYTHONHASHSEED": "4242", "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error"}
    export(output, tree=tree, **settings)
    assert {path.name for path in artifacts.iterdir()} == set(FILES)
    for name in FILES:
        assert (artifacts / name).read_bytes() == (output / name).read_bytes(), name


def listed(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_the_archive_holds_what_the_manifest_lists_and_workers_load(artifacts: Path) -> None:
    manifest = json.loads((artifacts / "manifest.json").read_bytes())
    files = {name: listed((artifacts / name).read_bytes()) for name in FILES[:-1]}
    assert (manifest["artifacts"], manifest["wire_version"]) == (files, WIRE_VERSION)
    with zipfile.ZipFile(artifacts / ARCHIVE) as archive:
        members = {name: listed(archive.read(name)) for name in archive.namelist()}
        assert manifest["archive_members"] == members
        assert set(members) == {*SOURCES, *LOADED, "MAR-INF/MANIFEST.json"}
        sources = SOURCES | {name: artifacts / name for name in LOADED}
        for name, source in sources.items():
            assert archive.read(name) == source.read_bytes()
        tops = {name.partition("/")[0] for name in SOURCES if name.endswith(".py")}
        assert tops == {"diagonalflip", "diagonalflip_handler.py"}, "TorchServe has others"
        serve_manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        for key in ("serializedFile", "handler", "configFile", "requirementsFile"):
            assert serve_manifest["model"][key] in archive.namelist()
    reference = json.loads((artifacts / "reference.json").read_bytes())
    assert reference["predictions"] == manifest["parity_report"]["reference"]
    weights = json.loads(WEIGHTS_FILE.read_text())
    assert reference["weights"].keys() == weights.keys()
    for name, values in weights.items():
        assert np.array_equal(reference["weights"][name], np.array(values, np.float32))


def test_onnx_is_one_file_of_standard_operators_for_any_batch(artifacts: Path) -> None:
    file = artifacts / "diagonal_flip.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("pixels", "tensor(float)", ["batch", 4])
    assert (taken.name, taken.type, taken.shape) == ("prediction", "tensor(float)", ["batch", 4])
    model = onnx.load(file, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer) == 31
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    assert "+" not in model.producer_version  # the builds of torch for CPU and CUDA name themselves
    onnx.checker.check_model(model, full_check=True)


def test_no_path_of_the_machine_is_in_any_artifact(artifacts: Path) -> None:
    blobs = {name: (artifacts / name).read_bytes() for name in FILES}
    for name in (ARCHIVE, "diagonal_flip.pt"):
        with zipfile.ZipFile(artifacts / name) as archive:
            blobs |= {f"{name}/{each}": archive.read(each) for each in archive.namelist()}
    traces = {
        *map(str, (ROOT, artifacts, Path.home(), sys.prefix, tempfile.gettempdir())),
        "site-packages",
        ".py:",
        ".export-",
    }
    for name, blob in blobs.items():
        assert not [trace for trace in traces - {"/"} if trace.encode() in blob], name


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "^130$"),
        (ArtifactError("a", "b"), "^x failed: A. Expected b.$"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "c"), "^x failed: .* c$"),
        (subprocess.CalledProcessError(1, ["git"]), "^x failed: .*git.* exit status 1"),
    ],
)
def test_a_program_ends_without_a_traceback(error: BaseException, said: str) -> None:
    with pytest.raises(SystemExit, match=said), ending("x"):
        raise error


def test_weights_that_cannot_be_read_leave_what_was_there(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).touch()
    with pytest.raises(ArtifactError, match="no-weights"):
        write_artifacts(tmp_path, tmp_path / "no-weights.json", "1.0")
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_what_a_killed_export_has_left_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".export-killed").mkdir()
    monkeypatch.setattr(f"{write_artifacts.__module__}._write", Mock(side_effect=OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_artifacts(tmp_path, WEIGHTS_FILE, "1.0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_failed_export_leaves_no_archive(artifacts: Path, tmp_path: Path) -> None:
    """With valid weights, for which float32 rounding alone is beyond the tolerance."""
    output = tmp_path / "output"
    shutil.copytree(artifacts, output)
    (output / "unrelated.mar").touch()
    tensors = json.loads(WEIGHTS_FILE.read_text("utf-8"))
    tensors["layer2.weight"] = (1000.1 * np.array(tensors["layer2.weight"])).tolist()
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps(tensors), encoding="utf-8")
    command = [sys.executable, "-m", "export", "--output", str(output), "--weights", str(weights)]
    assert failed(command)[-1].startswith("export failed: A deviation of")
    assert [path.name for path in output.iterdir()] == ["unrelated.mar"]


@pytest.mark.slow
def test_a_folder_without_room_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", "--output", str(tmp_path / "store")]
    last = failed(["sh", "-ec", 'ulimit -f 1; exec "$@"', "sh", *command])[-1]
    assert last.startswith(f"export failed: {tmp_path / 'store'}")
    assert last.endswith(": File too large")

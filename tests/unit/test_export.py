"""Exports are reproducible to the byte, listed with digests, portable, and all or nothing.

Each export is a process of its own and takes some seconds: such tests are few.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from diagonalflip.wire import WIRE_VERSION
from export.archive import SOURCES
from export.net import WEIGHTS_FILE

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    *("diagonal_flip.pt", "diagonal_flip.onnx", "diagonal_flip.x4.onnx", "diagonal_flip.mar"),
    "reference.json",
    "manifest.json",
)
ARCHIVE = "diagonal_flip.mar"


def run_export(
    tree: Path, output: Path, *arguments: str, hash_seed: str = "1"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "export", "--output", str(output), *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def read_manifest(artifacts: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((artifacts / "manifest.json").read_text("utf-8"))
    return manifest


@pytest.mark.slow
def test_an_export_elsewhere_with_another_hash_seed_has_the_same_bytes(
    artifacts: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "the tree"
    for name in ("diagonalflip", "export", "handlers"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    output = tree / "deep" / "output"
    finished = run_export(tree, output, hash_seed="4242")
    assert finished.returncode == 0, finished.stderr
    assert {path.name for path in artifacts.iterdir()} == set(FILES)
    for name in FILES:
        assert (artifacts / name).read_bytes() == (output / name).read_bytes(), name


def listed(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_the_manifest_lists_each_file_and_member_with_size_and_digest(artifacts: Path) -> None:
    manifest = read_manifest(artifacts)
    for name in FILES[:3]:
        assert manifest["artifacts"][name] == listed((artifacts / name).read_bytes())
    with zipfile.ZipFile(artifacts / ARCHIVE) as archive:
        members = {name: listed(archive.read(name)) for name in archive.namelist()}
    assert manifest["archive_members"] == members
    assert manifest["wire_version"] == WIRE_VERSION


def test_the_archive_holds_the_sources_the_model_and_its_predictions(artifacts: Path) -> None:
    with zipfile.ZipFile(artifacts / ARCHIVE) as archive:
        assert set(archive.namelist()) == {
            *SOURCES,
            "diagonal_flip.pt",
            "diagonal_flip.x4.onnx",
            "reference.json",
            "MAR-INF/MANIFEST.json",
        }
        for name, source in SOURCES.items():
            assert archive.read(name) == source.read_bytes()
        assert archive.read("diagonal_flip.pt") == (artifacts / "diagonal_flip.pt").read_bytes()
        serve_manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        for key in ("serializedFile", "handler", "configFile", "requirementsFile"):
            assert serve_manifest["model"][key] in archive.namelist()
        reference = json.loads(archive.read("reference.json"))
    parity_report = read_manifest(artifacts)["parity_report"]
    assert reference["predictions"] == parity_report["reference"]
    weights = json.loads(WEIGHTS_FILE.read_text())
    assert reference["weights"].keys() == weights.keys()
    for name, values in weights.items():
        assert np.array_equal(reference["weights"][name], np.array(values, np.float32))


def test_every_handler_is_in_the_archive_under_a_name_of_its_own() -> None:
    assert {path.name for path in (ROOT / "handlers").iterdir() if path.is_file()} <= SOURCES.keys()
    tops = {name.partition("/")[0] for name in SOURCES if name.endswith(".py")}
    assert tops == {"diagonalflip", "diagonalflip_handler.py"}


def test_onnx_takes_and_gives_float32_of_any_batch(artifacts: Path) -> None:
    session = onnxruntime.InferenceSession(
        str(artifacts / "diagonal_flip.onnx"), providers=["CPUExecutionProvider"]
    )
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("pixels", "tensor(float)", ["batch", 4])
    assert (taken.name, taken.type, taken.shape) == ("prediction", "tensor(float)", ["batch", 4])


def test_onnx_is_one_file_of_standard_operators(artifacts: Path) -> None:
    model = onnx.load(artifacts / "diagonal_flip.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer) == 31
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    assert "+" not in model.producer_version  # the builds of torch for CPU and CUDA name themselves
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("name", FILES)
def test_no_path_of_the_machine_is_in_any_artifact(artifacts: Path, name: str) -> None:
    blobs = {name: (artifacts / name).read_bytes()}
    if name.endswith((".mar", ".pt")):
        with zipfile.ZipFile(artifacts / name) as archive:
            blobs |= {member: archive.read(member) for member in archive.namelist()}
    traces = {
        *map(str, (ROOT, artifacts, Path.home(), sys.prefix, tempfile.gettempdir())),
        "site-packages",
        ".py:",
        ".export-",
    }
    for blob in blobs.values():
        assert not [trace for trace in traces - {"/"} if trace.encode() in blob]


@pytest.mark.slow
def test_a_failed_export_leaves_no_archive_even_if_one_was_there(
    artifacts: Path, tmp_path: Path
) -> None:
    """With valid weights, for which float32 rounding alone is beyond the tolerance."""
    output = tmp_path / "output"
    shutil.copytree(artifacts, output)
    (output / "unrelated.mar").touch()
    tensors = json.loads(WEIGHTS_FILE.read_text("utf-8"))
    tensors["layer2.weight"] = (1000.1 * np.array(tensors["layer2.weight"])).tolist()
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps(tensors), encoding="utf-8")
    finished = run_export(ROOT, output, "--weights", str(weights))
    assert finished.returncode == 1, finished.stdout
    assert finished.stderr.splitlines()[-1].startswith("export failed: A deviation of")
    assert "Traceback" not in finished.stderr
    assert [path.name for path in output.iterdir()] == ["unrelated.mar"]


@pytest.mark.slow
def test_the_model_has_the_version_that_it_is_given(tmp_path: Path) -> None:
    finished = run_export(ROOT, tmp_path, "--model-version", "1.1")
    assert finished.returncode == 0, finished.stderr
    with zipfile.ZipFile(tmp_path / ARCHIVE) as archive:
        told = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"]
    assert (told, read_manifest(tmp_path)["model"]["version"]) == ("1.1", "1.1")
    rejected = run_export(ROOT, tmp_path, "--model-version", "../1")
    assert rejected.returncode == 2
    assert "'../1'; expected letters" in rejected.stderr


@pytest.mark.slow
def test_a_folder_without_room_is_named(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "export", "--output", str(tmp_path / "store")]
    script = ["sh", "-ec", 'ulimit -f 1; exec "$@"', "sh", *words]
    finished = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    last = finished.stderr.splitlines()[-1]
    assert last.startswith(f"export failed: {tmp_path / 'store'}")
    assert last.endswith(": File too large")

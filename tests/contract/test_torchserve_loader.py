"""The archive under TorchServe's own loader, without Java: it needs what it says, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import execute
from tests.unit.test_handler import GOOD, PACKED

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("worker_process.py")
FORMS = ("image/png", "text/plain", "application/vnd.diagonalflip.float16")
BATCH = [*map(tuple, GOOD.values())]
BATCH += [(b"\xb6", {"content-type": PACKED, "accept": form}) for form in FORMS]


def missing(archive: Path) -> str:
    """Modules that neither TorchServe nor the archive's requirements bring."""
    lines = (archive / "requirements.txt").read_text("utf-8").splitlines()
    todo = [bare for line in lines if (bare := line.partition("#")[0].strip())]
    todo += ["torch", "torchserve"]
    brought = {"diagonalflip"}  # from the archive: see below
    while todo:
        needed = Requirement(todo.pop())
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        for name in {canonicalize_name(needed.name), f"{needed.name}-gpu"} - brought:
            try:
                todo += metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            brought.add(name)
    modules = metadata.packages_distributions().items()
    return ",".join(name for name, by in modules if not brought & set(map(canonicalize_name, by)))


def load(archive: Path, cwd: Path, less: str = "") -> subprocess.CompletedProcess[str]:
    """Load an archive, without the modules ``less`` beside those that nobody brings."""
    command = (sys.executable, WORKER, archive, f"{missing(archive)},{less}")
    return execute(*command, cwd=cwd, text=repr(BATCH), PYTHONPATH=str(archive))


def test_it_needs_its_own_files_and_requirements(unpacked_archive: Path, tmp_path: Path) -> None:
    loaded = load(unpacked_archive, tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    origins, statuses = json.loads(loaded.stdout.splitlines()[-1])
    assert statuses == [200] * len(BATCH)
    ours = {"diagonalflip_handler", "diagonalflip.inference.engine", "diagonalflip.wire"}
    assert ours <= origins.keys()
    assert all(Path(origin).is_relative_to(unpacked_archive) for origin in origins.values())


@pytest.mark.parametrize("module", ["multipart", "onnxruntime", "orjson", "PIL"])
def test_a_package_that_is_not_installed_is_named_with_what_to_do(
    unpacked_archive: Path, tmp_path: Path, module: str
) -> None:
    *_, line = load(unpacked_archive, tmp_path, less=module).stderr.splitlines()
    assert f"RuntimeError: The archive cannot be loaded: No module named '{module}'" in line
    installs = line.partition("pip install ")[2].split()
    assert installs == ["multipart", "numpy", "onnxruntime", "orjson", "pillow", "pyyaml"]

"""The package as an index has it: built, checked, and used without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, execute
from tests.integration.conftest import FREE_PORTS, Server

pytestmark = pytest.mark.slow


def run(*command: str, **settings: str) -> str:
    finished = execute(sys.executable, *command, cwd="/", **settings)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sdist and wheel, by suffix; the wheel is made from the sdist."""
    folder = tmp_path_factory.mktemp("built")
    run("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return {path.suffix: path for path in folder.iterdir()}


def test_an_index_would_take_it(built: dict[str, Path]) -> None:
    assert built.keys() == {".gz", ".whl"}
    told = run("-m", "twine", "check", "--strict", *map(str, built.values()))
    assert told.count("PASSED") == 2


def test_it_serves_alone_without_torch_and_java(built: dict[str, Path], tmp_path: Path) -> None:
    """The versions in the wheel, from a folder that has no model store."""
    package, here = tmp_path / "package", tmp_path / "here"
    here.mkdir()
    target = ["--target", str(package), "--no-deps", "--no-index"]
    run("-m", "pip", "install", "--quiet", *target, str(built[".whl"]))
    alone = {"PYTHONPATH": str(package)}
    code = "import sys, diagonalflip.cli; print(diagonalflip.__file__, 'torch' in sys.modules)"
    assert run("-c", code, **alone).split() == [str(package / "diagonalflip/__init__.py"), "False"]
    command = [sys.executable, "-m", "diagonalflip.cli", "serve", "LOG_DIR=logs"]
    command += [f"{name.removeprefix('FLIP_')}=0" for name in FREE_PORTS]
    environment = {name: each for name, each in os.environ.items() if not name.startswith("FLIP_")}
    process = subprocess.Popen(
        command,
        cwd=here,
        env=environment | alone,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process, here / "logs")
    try:
        url = server.read_until("^http://").strip()
        assert any("TorchServe is off" in line for line in server.printed)
        for version in ("1.0", "2.0"):
            run("-m", "diagonalflip.cli", "--model-version", version, "check", url, **alone)
        assert len(server.workers) >= 1
        for part in (psutil.Process(process.pid), *server.workers):
            maps = [each.path for each in part.memory_maps()]
            assert not any("libtorch" in path for path in maps)
        assert server.stop() == 0
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert {path.name for path in here.iterdir()} == {"logs"}

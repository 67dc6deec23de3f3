"""The package as an index has it: built, checked, and used without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.conftest import Server

pytestmark = pytest.mark.slow


def run(*command: str, **settings: str) -> str:
    return subprocess.run(
        [sys.executable, *command],
        cwd="/",
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


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


def test_it_works_alone(built: dict[str, Path], server: Server, tmp_path: Path) -> None:
    target = ["--target", str(tmp_path), "--no-deps", "--no-index"]
    run("-m", "pip", "install", "--quiet", *target, str(built[".whl"]))
    alone = {"PYTHONPATH": str(tmp_path)}
    run("-m", "diagonalflip.cli", "check", server.base, **alone)
    code = "import sys, diagonalflip.cli; print(diagonalflip.__file__, 'torch' in sys.modules)"
    assert run("-c", code, **alone).split() == [str(tmp_path / "diagonalflip/__init__.py"), "False"]

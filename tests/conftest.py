"""What all tests share: one export, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``python -m export`` filled."""
    folder = tmp_path_factory.mktemp("artifacts")
    subprocess.run(
        [sys.executable, "-m", "export", "--output", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder

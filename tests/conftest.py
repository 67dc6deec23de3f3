"""What all tests share: one export a session, unpacked once, and Hypothesis without a clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Tests talk to loopback alone, which the proxy of a company's network knows nothing of.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"

# A shell's job in the background ignores Ctrl-C, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no bug, so examples have no deadline.
settings.register_profile("diagonalflip", deadline=None, database=None, print_blob=True)
settings.load_profile("diagonalflip")


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``python -m export`` has filled, from the repository, in its own process."""
    output = tmp_path_factory.mktemp("artifacts")
    finished = subprocess.run(
        [sys.executable, "-m", "export", "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return output


@pytest.fixture(scope="session")
def unpacked_archive(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as a worker finds it. Read-only by convention: copy it to change it."""
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(artifacts / "diagonal_flip.mar") as archive:
        archive.extractall(folder)
    return folder

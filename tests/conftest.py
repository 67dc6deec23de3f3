"""Fixtures of all tests: one export per session, unpacked once, and Hypothesis without a clock."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from diagonalflip.inference.model import Model

ROOT = Path(__file__).resolve().parent.parent

# Tests talk to loopback alone, which the proxy of a company's network knows nothing of.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"

# A shell's job in the background ignores Ctrl-C, and one of nohup a hangup; so would all that is
# started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A slow machine is no bug, so examples have no deadline.
settings.register_profile("diagonalflip", deadline=None, database=None, print_blob=True)
settings.load_profile("diagonalflip")


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        asyncio.run(test(*given, **named))

    return run


def execute(
    *command: object, cwd: Path | str = ROOT, text: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with some text to read and with further variables."""
    words, env = list(map(str, command)), os.environ | variables
    return subprocess.run(
        words, cwd=cwd, env=env, input=text, capture_output=True, text=True, check=False
    )


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a test by its argument where that is bytes, which may differ from process to process.

    gzip writes the time into its header, and pytest-xdist needs the same names in all workers.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``python -m export`` has filled, from the repository, in its own process."""
    return _exported(tmp_path_factory, "artifacts")


@pytest.fixture(scope="session")
def exported_2_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for version 2.0, the trained one."""
    weights = "export/weights-2.0.json"
    return _exported(
        tmp_path_factory, "artifacts-2.0", "--weights", weights, "--model-version", "2.0"
    )


@pytest.fixture
def versions(artifacts: Path, exported_2_0: Path, tmp_path: Path) -> Path:
    """A model store of both versions, to be changed at will."""
    store = tmp_path / "store"
    shutil.copytree(artifacts, store / "1.0")
    shutil.copytree(exported_2_0, store / "2.0")
    return store


def _exported(factory: pytest.TempPathFactory, name: str, *arguments: str) -> Path:
    """Return a folder that all processes of one run of the tests share."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    output = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (output / "manifest.json").exists():
            export(output, *arguments)
    return output


def export(output: Path, *arguments: str, tree: Path = ROOT, **variables: str) -> None:
    """Run ``python -m export``, from a checkout, in its own process."""
    command = (sys.executable, "-m", "export", "--output", output, *arguments)
    variables = {"PYTHONHASHSEED": "0", "PYTHONPATH": ""} | variables
    finished = execute(*command, cwd=tree, **variables)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.fixture(scope="session")
def unpacked_archive(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as a worker finds it. Read-only by convention: copy it to change it."""
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(artifacts / "diagonal_flip.mar") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def model(unpacked_archive: Path) -> Model:
    """The files of the archive, as a worker gets them."""
    return Model.read(
        unpacked_archive,
        {"modelName": "diagonal_flip", "modelVersion": "1.0", "serializedFile": "diagonal_flip.pt"},
    )

"""A user's own program under mypy strict, outside this repository: the types say everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
from collections.abc import AsyncGenerator, Generator
from typing import assert_type

import numpy as np
import numpy.typing as npt

from diagonalflip import AsyncClient, Client, ServerInfo
from diagonalflip.errors import DiagonalFlipError, ServerOverloaded


def work(url: str, many: npt.NDArray[np.uint8]) -> None:
    with Client(url, deadline_s=5.0, token="secret") as client:
        assert_type(client.predict([11, "0110", [[1, 1], [0, 0]]]), npt.NDArray[np.float32])
        assert_type(client.predict(many), npt.NDArray[np.float32])
        assert_type(client.predict_packed(b"\\xb6", 2), npt.NDArray[np.float32])
        assert_type(client.flip(many), npt.NDArray[np.uint8])
        assert_type(client.info().workers, int | None)
        pieces = client.predict_chunks([b"\\xb6"])
        assert_type(pieces, Generator[npt.NDArray[np.float32], None, None])
        assert_type(client.predict_file("a.bin", "b.bin"), int)


async def work_async(url: str) -> None:
    async with AsyncClient(url) as client:
        assert_type(await client.predict([1, 2]), npt.NDArray[np.float32])
        assert_type(await client.flip([1, 2]), npt.NDArray[np.uint8])
        assert_type(await client.info(), ServerInfo)
        pieces = client.predict_chunks([b"\\xb6"])
        assert_type(pieces, AsyncGenerator[npt.NDArray[np.float32], None])


def told(error: DiagonalFlipError, overload: ServerOverloaded) -> str | float:
    words = error.got + error.expected + error.action
    return words if error.retryable else overload.retry_after_s
"""
WRONG = """
from diagonalflip import Client

client = Client(8080)
client.predict(1.5)
client.predict_packed("b6")
wrong: str = client.info().max_images
client.forecast([1])
"""


def test_a_right_program_passes_and_every_mistake_is_found(tmp_path: Path) -> None:
    """Each is checked as a user does, without this project's settings."""
    for name, program in (("right.py", PROGRAM), ("wrong.py", WRONG)):
        (tmp_path / name).write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path)]
    command += ["right.py", "wrong.py"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line.split(":")[:2] for line in finished.stdout.splitlines() if ": error:" in line]
    assert errors == [["wrong.py", line] for line in "45678"], finished.stdout

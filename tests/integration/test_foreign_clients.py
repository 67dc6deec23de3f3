"""Clients in C and JavaScript, written from docs/wire-format.md alone, against the server."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from diagonalflip.wire import TOLERANCE
from tests.integration.conftest import Oracle, Server

pytestmark = pytest.mark.both_ports

CLIENTS = Path(__file__).resolve().parent.parent / "clients"
SIX_DECIMALS = 0.5e-6  # printed


def command(language: str, folder: Path) -> list[str]:
    """The client's command, compiled into ``folder``; skips where a tool is missing."""
    tool = shutil.which({"C": "gcc", "JavaScript": "node"}[language])
    if tool is None:
        pytest.skip(f"{language} has no tool here: its client goes untested")
    if language == "C":
        strict = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1"]
        program = str(folder / "client")
        subprocess.run([tool, *strict, str(CLIENTS / "client.c"), "-o", program], check=True)
        return [program]
    asked = subprocess.check_output([tool, "--version"], text=True)
    if int(asked.removeprefix("v").split(".")[0]) < 18:
        pytest.skip(f"node {asked.strip()} has no fetch: its client goes untested")
    return [tool, str(CLIENTS / "client.mjs")]


@pytest.mark.parametrize("language", ["C", "JavaScript"])
def test_its_client_predicts(server: Server, oracle: Oracle, language: str, tmp_path: Path) -> None:
    client = command(language, tmp_path)
    address = urlsplit(server.url).netloc.split(":")
    random = np.random.default_rng(2)
    for numbers in ([11], [11, 6, 12], list(range(16)), random.integers(0, 16, 2001).tolist()):
        words = [*client, *address, *map(str, numbers)]
        printed = subprocess.check_output(words, text=True, timeout=60)
        got = np.array([line.split() for line in printed.splitlines()], dtype=np.float64)
        assert got.shape == (len(numbers), 4)
        assert np.abs(got - oracle(numbers)).max() <= TOLERANCE + SIX_DECIMALS

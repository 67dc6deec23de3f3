"""Clients in C and JavaScript, written from docs/wire-format.md alone, against the server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.integration.conftest import Oracle, Server

pytestmark = pytest.mark.both_ports

CLIENTS = Path(__file__).resolve().parent.parent / "clients"
TOLERANCE = 1e-6 + 0.5e-6  # the server's, and six printed decimals

Command = list[str]
Build = Callable[[Path], Command]


def tool(name: str) -> str:
    """The path of a program, or a skip that says which one is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: its client goes untested")
    return path


def c_client(folder: Path) -> Command:
    """The C client, compiled into ``folder``."""
    program = folder / "client"
    strict = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1"]
    source = CLIENTS / "client.c"
    subprocess.run([tool("gcc"), *strict, str(source), "-o", str(program)], check=True)
    return [str(program)]


def node_client(_folder: Path) -> Command:
    """The JavaScript client; ``fetch`` came with node 18."""
    node = tool("node")
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    if int(asked.stdout.removeprefix("v").split(".")[0]) < 18:
        pytest.skip(f"node {asked.stdout.strip()} has no fetch: its client goes untested")
    return [node, str(CLIENTS / "client.mjs")]


@pytest.mark.parametrize("build", [c_client, node_client])
def test_a_foreign_client_predicts(
    server: Server, oracle: Oracle, build: Build, tmp_path: Path
) -> None:
    command = build(tmp_path)
    address = urlsplit(server.url)
    assert address.hostname
    random = np.random.default_rng(2)
    batches = ([11], [11, 6], [11, 6, 12], list(range(16)), random.integers(0, 16, 2001).tolist())
    for numbers in batches:
        finished = subprocess.run(
            [*command, address.hostname, str(address.port), *map(str, numbers)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        got = np.array([line.split() for line in finished.stdout.splitlines()], dtype=np.float64)
        assert got.shape == (len(numbers), 4)
        assert np.abs(got - oracle(numbers)).max() <= TOLERANCE

"""Every example runs as it stands, and prints what the oracle says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.integration.conftest import Oracle, run_server

pytestmark = pytest.mark.slow

EXAMPLES = sorted((ROOT / "examples").iterdir())
RAY = ROOT / ".ray/bin/python"


@pytest.fixture(scope="module")
def url(
    artifacts: Path, exported_2_0: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    store = tmp_path_factory.mktemp("store")
    (store / "1.0").symlink_to(artifacts)
    (store / "2.0").symlink_to(exported_2_0)
    with run_server(store, tmp_path_factory.mktemp("logs")) as server:
        yield server.base


def run(example: Path, url: str, python: Path = Path(sys.executable), **settings: str) -> str:
    command = [str(python), str(example)] if example.suffix == ".py" else [str(example)]
    environment = os.environ | {"DIAGONALFLIP_URL": url} | settings
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def numbers(printed: str) -> list[float]:
    return [float(word) for word in printed.replace("[", " ").replace("]", " ").split()]


def test_call(url: str, oracle: Oracle) -> None:
    *predictions, upper, lower = run(ROOT / "examples/call.py", url).splitlines()
    expected = oracle([11, 6, 12]).ravel()
    assert numbers(" ".join(predictions)) == pytest.approx(list(expected), abs=1e-6)
    assert numbers(upper + lower) == [0, 1, 0, 0]


def test_concurrent_requests(url: str, oracle: Oracle) -> None:
    printed = run(ROOT / "examples/concurrent_requests.py", url)
    assert printed.startswith("16 answers, the last one ")
    last = printed.removeprefix("16 answers, the last one ")
    assert numbers(last) == pytest.approx(list(oracle([15])[0]), abs=1e-6)


def test_numpy_job(url: str, oracle: Oracle) -> None:
    printed = run(ROOT / "examples/numpy_job.py", url)
    assert printed.startswith("(1000000, 4) float32 ")
    images = np.random.default_rng(0).integers(0, 16, 1_000_000)
    mean = numbers(printed.removeprefix("(1000000, 4) float32 "))
    assert mean == pytest.approx(list(oracle(images).mean(axis=0)), abs=1e-3)


def test_curl(url: str, oracle: Oracle) -> None:
    printed = run(ROOT / "examples/curl.sh", url)
    assert numbers(printed) == pytest.approx(list(oracle([11, 6, 12]).ravel()), abs=1e-6)


def test_triton_client(url: str) -> None:
    printed = run(ROOT / "examples/triton_client.py", url)
    flipped = [1, 1, 0, 1, 0, 1, 1, 0]
    assert numbers(printed) == pytest.approx(flipped, abs=1e-3)


def test_process_pool(url: str) -> None:
    """It needs no server; the first three flips of its images are those of NumPy."""
    assert_flips(run(ROOT / "examples/process_pool.py", url, IMAGES="4_000_002"), 4_000_002)


@pytest.mark.skipif(not RAY.exists(), reason="needs .ray: make bulk-test")
def test_ray_data(url: str) -> None:
    program = ROOT / "examples/ray_data.py"
    printed = run(program, url, RAY, IMAGES="4_000_000", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    assert_flips(printed, 4_000_000)


def assert_flips(printed: str, count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, count // 2, np.uint8)
    table = np.array([(n & 9) | (n & 2) << 1 | (n & 4) >> 1 for n in range(16)])
    ones = np.unpackbits(images).sum()  # flips keep them
    first = [int(table[images[0] >> 4] << 4 | table[images[0] & 15])]
    assert f"{count:,} images" in printed
    assert f"ones {ones}, first byte {first[0]}" in printed


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_it_is_short_and_tested(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 45
    assert f"def test_{example.stem}(" in Path(__file__).read_text()

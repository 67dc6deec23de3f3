"""Every example runs as it stands, and prints what the oracle says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, execute
from tests.integration.conftest import Oracle, Server

pytestmark = pytest.mark.slow

EXAMPLES = sorted((ROOT / "examples").iterdir())
RAY = ROOT / ".ray/bin/python"
IMAGES = 4_000_000  # of those that need no server
TOLERANCES = {"numpy_job": 1e-3, "triton_client": 1e-3}


@pytest.fixture(scope="module")
def expected(oracle: Oracle) -> dict[str, list[float]]:
    """All numbers that an example prints, but how fast it is, by its name."""
    three = oracle([11, 6, 12]).ravel().tolist()
    job = oracle(np.random.default_rng(0).integers(0, 16, 1_000_000)).mean(axis=0).tolist()
    packed = np.random.default_rng(0).integers(0, 256, IMAGES // 2, np.uint8)
    table = np.array([(n & 9) | (n & 2) << 1 | (n & 4) >> 1 for n in range(16)])
    first = table[packed[0] >> 4] << 4 | table[packed[0] & 15]
    flips = [IMAGES, int(np.unpackbits(packed).sum()), int(first)]  # flips keep the ones
    return {
        "call": [*three, 0, 1, 0, 0],
        "concurrent_requests": [16, *oracle([15])[0].tolist()],
        "curl": three,
        "numpy_job": [1_000_000, 4, 32, *job],
        "process_pool": flips,
        "ray_data": flips,
        "triton_client": [1, 1, 0, 1, 0, 1, 1, 0],
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_right(
    example: Path, service: Server, expected: dict[str, list[float]]
) -> None:
    assert len(example.read_text().splitlines()) < 45
    python = RAY if example.stem == "ray_data" else Path(sys.executable)
    if not python.exists():
        pytest.skip("needs .ray: make bulk-test")
    command = [python, example] if example.suffix == ".py" else [example]
    settings = {"DIAGONALFLIP_URL": service.base, "IMAGES": str(IMAGES)}
    settings |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    finished = execute(*command, **settings)
    assert finished.returncode == 0, finished.stderr
    printed = re.sub(r"[\d.]+ million", "", finished.stdout)
    numbers = re.findall(r"-?\d[\d.,]*(?:e[-+]\d+)?", printed)
    got = [float(number.replace(",", "")) for number in numbers]
    wanted = expected[example.stem]
    assert got == pytest.approx(wanted, abs=TOLERANCES.get(example.stem, 1e-6)), printed

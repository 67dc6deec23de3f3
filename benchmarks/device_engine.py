"""The engine of one device by itself: proven with every batch shape, then timed.

``python -m benchmarks.device_engine STORE`` runs each shape once: what a memory checker watches.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.running import ROOT
from benchmarks.workloads import Predictions
from diagonalflip.inference.engine import Engine, open_engine
from diagonalflip.inference.torch_engine import TorchEngine
from diagonalflip.server.models.store import Artifacts, check
from diagonalflip.wire import TOLERANCE, Images, pack

TIMED_IMAGES = (2, 64, 1_000, 65_536, 1 << 20, 1 << 22)
RANDOM_IMAGES = 10_000_000
MOST_REQUESTS = 40  # random requests of a pass; together they have two million images at most
SECONDS_A_SIZE = 0.5
LARGE, SMALL = 1 << 20, 64
LEAST_SHARE, MOST_US = 0.7, 60.0
"""Goals on a GPU: answers to a million images and more, of the bandwidth of a pinned copy; time of
up to 64 images."""

MEMCHECK_S = 150
CPU, CUDA = "cpu", "cuda:0"

Oracle = Callable[[bytes], Predictions]  # ONNX Runtime on the CPU


def engines(artifacts: Artifacts, device: str) -> Iterator[tuple[str, Engine, float]]:
    """Give each engine of a device with its name, warmed up, and how far its answers deviate.

    Raises:
        ParityError: An image is predicted wrongly at some position of some batch shape.
    """
    files, reference = artifacts.files, np.array(artifacts.reference)
    if device == CPU:
        onnx = open_engine(files["torchscript"], files["onnx"], CPU)
        yield "ONNX Runtime", onnx, onnx.warm_up(reference)
    logging.getLogger("diagonalflip.inference.torch_engine").setLevel(logging.ERROR)
    engine = TorchEngine(files["torchscript"], device)
    yield "TorchScript" if device == CPU else "CUDA graphs", engine, engine.warm_up(reference)
    if device == CPU:
        return
    engine = TorchEngine(files["torchscript"], device)
    with mock.patch("torch.cuda.graph", side_effect=RuntimeError("not wanted")):
        yield "without graphs", engine, engine.warm_up(reference)


def prove_and_time(
    artifacts: Artifacts, device: str, oracle: Oracle, limits: dict[str, float] | None
) -> dict[str, Any]:
    """Compare every engine at every size, and time it.

    Returns:
        By engine: ``deviation`` of the warm-up, ``batch_invariant``, and ``sizes``.
    """
    found: dict[str, Any] = {}
    for name, engine, deviation in engines(artifacts, device):
        found[name] = {"deviation": deviation, "batch_invariant": engine.batch_invariant}
        found[name]["sizes"] = sizes = []
        for count in TIMED_IMAGES:
            images = random_images(count)
            compare(engine.predict([images])[0], oracle(bytes(images.packed))[:count])
            seconds = median_seconds(partial(engine.predict, [images]))
            row = {"images": count, "median_us": seconds * 1e6}
            row["m_images_per_s"] = count / seconds / 1e6
            if limits is not None:
                row["share_of_copy"] = 16 * count / seconds / 1e9 / limits["copy_gb_per_s"]
            sizes.append(row)
    return found


def goals(found: dict[str, Any]) -> dict[str, bool]:
    """Return whether each goal of a GPU is met, by what it says."""
    rows = found["CUDA graphs"]["sizes"]
    large = [row["share_of_copy"] for row in rows if row["images"] >= LARGE]
    small = [row["median_us"] for row in rows if row["images"] <= SMALL]
    return {
        f"from {LARGE:,} images at least {LEAST_SHARE:.0%} of a pinned copy's bandwidth "
        f"({min(large):.0%})": min(large) >= LEAST_SHARE,
        f"up to {SMALL} images in at most {MOST_US:g} µs ({max(small):.0f} µs)": max(small)
        <= MOST_US,
    }


def prove_random(artifacts: Artifacts, device: str, oracle: Oracle) -> dict[str, Any]:
    """Compare ten million random images in requests of random lengths."""
    random = np.random.default_rng(2026)
    found: dict[str, Any] = {}
    for name, engine, _ in engines(artifacts, device):
        seen, deviation = 0, 0.0
        while seen < RANDOM_IMAGES:
            counts = 2 ** random.uniform(0, 17, random.integers(1, MOST_REQUESTS))
            requests = [pack(random.integers(0, 16, int(count))) for count in counts]
            for request, rows in zip(requests, engine.predict(requests), strict=True):
                expected = oracle(bytes(request.packed))[: request.count]
                deviation = max(deviation, compare(rows, expected))
                seen += request.count
        found[name] = {"images": seen, "deviation": deviation}
    return found


def memcheck(store: Path) -> str:
    """Have NVIDIA's memory checker watch a pass of each shape; return what it says.

    Raises:
        RuntimeError: It found something.
    """
    if shutil.which("compute-sanitizer") is None:
        return "not installed"
    command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", sys.executable]
    told = output([*command, "-m", "benchmarks.device_engine", str(store)], MEMCHECK_S)
    return told.splitlines()[-1]


def output(command: list[str], timeout_s: float | None = None) -> str:
    """Return what a command prints, without its errors.

    Raises:
        RuntimeError: It failed; with the last of what it said.
    """
    finished = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if finished.returncode:
        raise RuntimeError(f"{command[0]}: {finished.stderr}{finished.stdout}"[-2000:])
    return finished.stdout.strip()


def limits_of(device: str) -> dict[str, float] | None:
    """Measure what bounds a GPU: GB/s of a 64 MiB copy into pinned memory, µs of one launch."""
    if device == CPU:
        return None
    source = torch.empty(1 << 26, dtype=torch.uint8, device=device)
    target = torch.empty(1 << 26, dtype=torch.uint8, pin_memory=True)

    def launch(count: int) -> None:
        target[:count].copy_(source[:count], non_blocking=True)
        torch.cuda.synchronize(device)

    return {
        "copy_gb_per_s": source.numel() / median_seconds(partial(launch, 1 << 26)) / 1e9,
        "launch_us": median_seconds(partial(launch, 16)) * 1e6,
    }


def median_seconds(work: Callable[[], object]) -> float:
    """Median time of one call, of at least five."""
    times: list[float] = []
    while len(times) < 5 or sum(times) < SECONDS_A_SIZE:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def random_images(count: int) -> Images:
    """Reproducible random images."""
    return pack(np.random.default_rng(count).integers(0, 16, count))


def compare(got: Predictions, expected: Predictions) -> float:
    """Return how far answers deviate.

    Raises:
        RuntimeError: By more than the tolerance.
    """
    deviation = np.abs(got - expected).max() if got.shape == expected.shape else np.nan
    if not deviation <= TOLERANCE:
        raise RuntimeError(f"wrong answers for {len(expected)} images: {deviation} off")
    return float(deviation)


def main() -> None:
    """Run each shape once, on both lanes."""
    artifacts = check(Path(sys.argv[1]))
    engine = TorchEngine(artifacts.files["torchscript"], CUDA)
    for size in [*engine.batch_sizes, 2 * engine.batch_sizes[-1]]:
        engine.predict([random_images(size)])


if __name__ == "__main__":
    main()

"""Proof of an export on one processor: both engines, proven and compared.

    python -m tests.portability.probe FOLDER

Reads the manifest and the artifacts in ``FOLDER``, prints one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diagonalflip.inference.devices import CPU
from diagonalflip.inference.engine import Engine, open_engine
from diagonalflip.inference.torch_engine import TorchEngine
from diagonalflip.wire import pack

BATCH_SIZES = (1, 2, 3, 16, 17, 1000, 65536, 65537)
"""Images of a request: alone, odd, around a batch, and around the largest one."""

CERTIFICATE_NAMES = {"ONNX Runtime": "onnxruntime-x4", "TorchScript": "torchscript"}


def probe(folder: Path) -> dict[str, Any]:
    """Proves both engines on the artifacts in ``folder``.

    Returns:
        ``vector_code`` (which of its kernels torch chose), ``tolerance`` and ``engines``: for
        each its ``runtime``, and, of its parity report and of what it serves, the largest
        ``deviation`` and whether it is ``batch_invariant``.

    Raises:
        ArtifactError: An artifact cannot be loaded.
        ParityError: Warm-up found a deviation above the tolerance, or NaN.
    """
    parity_report = json.loads((folder / "manifest.json").read_bytes())["parity_report"]
    torchscript = (folder / "diagonal_flip.pt").read_bytes()
    onnx = (folder / "diagonal_flip.x4.onnx").read_bytes()
    engines = [open_engine(torchscript, onnx, CPU), TorchEngine(torchscript, CPU)]
    return {
        "vector_code": torch.backends.cpu.get_cpu_capability(),
        "tolerance": parity_report["tolerance"],
        "engines": [_prove(engine, parity_report) for engine in engines],
    }


def _prove(engine: Engine, parity_report: dict[str, Any]) -> dict[str, Any]:
    """Warms up, then predicts all images at 16 positions of every size, alone and together."""
    reference = np.array(parity_report["reference"])
    name = CERTIFICATE_NAMES[engine.runtime]
    deviation = max(engine.warm_up(reference), parity_report["pairs"][f"{name}/exact"]["deviation"])
    same_bits = engine.batch_invariant and parity_report["batch_invariant"][name]
    alone = np.concatenate([engine.predict([pack([number])])[0].copy() for number in range(16)])
    batches = [
        (np.arange(size) + first) % 16 for size, first in itertools.product(BATCH_SIZES, range(16))
    ]
    together = [rows.copy() for rows in engine.predict([pack(numbers) for numbers in batches])]
    for numbers, neighbour in zip(batches, together, strict=True):
        for rows in (neighbour, engine.predict([pack(numbers)])[0]):
            deviation = np.maximum(deviation, np.abs(rows - reference[numbers]).max())
            same_bits &= rows.tobytes() == alone[numbers].tobytes()
    return {
        "runtime": engine.runtime,
        "deviation": float(deviation),
        "batch_invariant": bool(same_bits),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what `python -m export` wrote")
    print(json.dumps(probe(parser.parse_args().folder)))

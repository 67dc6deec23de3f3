"""The parity report: proof that eager, TorchScript and ONNX Runtime are the same function.

There are only 16 images, so nothing is sampled: every image is compared, alone and at several
positions of batches of many sizes, between all engines and with the exact values. They must agree
within the tolerance. Whether an engine gives an image the same bits in every batch depends on the
processor, because BLAS libraries choose a kernel by batch size; that is measured and reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from diagonalflip.errors import ParityError
from diagonalflip.wire import PIXELS, TOLERANCE, to_pixels
from export.net import DiagonalFlipNet

BATCH_SIZES = (1, 2, 3, 7, 16, 17, 64, 1000, 65536)
"""Batch sizes in images: alone, odd, around the SIMD widths, and large."""

IMAGES = 16

Forward = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating[Any]]]


def all_pixels() -> npt.NDArray[np.float32]:
    """Return every image there is, by number: ``float32[16, 4]``."""
    return to_pixels(np.arange(IMAGES)).reshape(IMAGES, PIXELS).astype(np.float32)


def targets() -> npt.NDArray[np.float32]:
    """Return the diagonal flip (transpose) of every image: ``float32[16, 4]``."""
    return all_pixels().reshape(IMAGES, 2, 2).transpose(0, 2, 1).reshape(IMAGES, PIXELS)


def margins(predictions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the distance of each image's prediction from 0.5, on the flip's side, ``float64[16]``.

    The worst of an image's four pixels counts, ``float64[16, 4]``; it is negative if not flipped.
    """
    beyond = np.where(targets() == 1, predictions - 0.5, 0.5 - predictions)
    worst: npt.NDArray[np.float64] = beyond.min(axis=1)
    return worst


def reference(net: DiagonalFlipNet) -> npt.NDArray[np.float64]:
    """Return predictions for every image, ``float64[16, 4]``, the same bits on every machine.

    They are computed in rational arithmetic; each value is rounded once, at the end.
    """
    exact = np.frompyfunc(Fraction, 1, 1)
    state = net.state_dict().values()
    weight1, bias1, weight2, bias2 = (exact(tensor.double().numpy()) for tensor in state)
    hidden = np.maximum(exact(all_pixels().astype(float)) @ weight1.T + bias1, 0)
    return np.array(hidden @ weight2.T + bias2, float)


def engines(net: DiagonalFlipNet, torchscript: Path, onnx: Path, x4: Path) -> dict[str, Forward]:
    """Return the network in memory and the files, each as a function of ``float32[n, 4]``."""
    scripted = torch.jit.load(str(torchscript), map_location="cpu")  # type: ignore[no-untyped-call]

    def run_torch(module: torch.nn.Module) -> Forward:
        return lambda pixels: module(torch.from_numpy(pixels)).numpy()

    def run_onnx(path: Path, images: int = 1) -> Forward:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def forward(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            full = np.pad(pixels, ((0, -len(pixels) % images), (0, 0)))
            feed = {"pixels": full.reshape(-1, images * PIXELS)}
            rows: npt.NDArray[np.float32] = session.run(["prediction"], feed)[0]
            return rows.reshape(-1, PIXELS)[: len(pixels)]

        return forward

    return {
        "eager": run_torch(net),
        "torchscript": run_torch(scripted),
        "onnxruntime": run_onnx(onnx),
        "onnxruntime-x4": run_onnx(x4, images=4),
    }


def parity_report(
    forwards: Mapping[str, Forward], expected: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Compare all engines with each other and with ``expected``, ``float64[16, 4]``.

    Returns:
        The parity report: what was compared; the largest absolute deviations, and those in
        units in the last place (ULP) away from zero; for each engine, whether an image gets the
        same bits in every batch; and the reference predictions.

    Raises:
        ParityError: A deviation above ``TOLERANCE``, NaN or infinity, or a wrong
            shape or dtype.
    """
    deviations = {f"{a}/{b}": [0.0, 0] for a, b in itertools.combinations(forwards, 2)}
    deviations |= {f"{name}/exact": [0.0, 0] for name in forwards}
    invariant = dict.fromkeys(forwards, True)
    images = np.arange(IMAGES)
    alone = {
        name: np.concatenate([_answer(name, forward, images[i : i + 1]) for i in images])
        for name, forward in forwards.items()
    }
    for size, shift in itertools.product(BATCH_SIZES, range(IMAGES)):
        rows = (np.arange(size) + shift) % IMAGES
        answers = {name: _answer(name, f, rows) for name, f in forwards.items()}
        for name, answer in answers.items():
            invariant[name] &= answer.tobytes() == alone[name][rows].tobytes()
        answers["exact"] = expected.astype(np.float32)[rows]
        for pair, worst in deviations.items():
            left, right = (answers[name] for name in pair.split("/"))
            exact = expected[rows] if pair.endswith("exact") else right
            apart = np.abs(np.subtract(left, exact, dtype=np.float64))
            worst[0] = max(worst[0], float(apart.max()))
            worst[1] = max(worst[1], int(_ulps(left, right).max()))
    _reject_deviation(deviations)
    flipped = margins(expected)
    flipped = flipped[flipped > 0]
    return {
        "images": IMAGES,
        "batch_sizes": list(BATCH_SIZES),
        "positions_per_batch_size": IMAGES,
        "tolerance": TOLERANCE,
        "largest_deviation": max(absolute for absolute, _ in deviations.values()),
        "largest_ulp": max(ulps for _, ulps in deviations.values()),
        "pairs": {pair: {"deviation": a, "ulp": u} for pair, (a, u) in deviations.items()},
        "batch_invariant": invariant,
        "reference": expected.tolist(),
        "flips": len(flipped),
        "margin": float(flipped.min()) if len(flipped) else None,
    }


def _answer(name: str, forward: Forward, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    answer = np.asarray(forward(all_pixels()[rows]))
    if answer.dtype != np.float32 or answer.shape != (len(rows), PIXELS):
        raise ParityError(
            f"{answer.dtype}{list(answer.shape)} from {name}", f"float32[{len(rows)}, {PIXELS}]"
        )
    if not np.isfinite(answer).all():
        raise ParityError(f"NaN or infinity from {name}", "finite predictions")
    return answer


def _reject_deviation(deviations: Mapping[str, list[float]]) -> None:
    for pair, (deviation, _) in deviations.items():
        if not deviation <= TOLERANCE:
            raise ParityError(
                f"a deviation of {deviation:.3g} between {pair.replace('/', ' and ')}",
                f"at most {TOLERANCE:g}",
                "check the weights and the versions of torch and onnxruntime",
            )


def _ulps(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the number of float32 values between two.

    It is 0 for predictions that are zero within the tolerance: there are a billion float32 values
    around zero, so only the absolute deviation is meaningful there.
    """
    nonzero = np.maximum(np.abs(left), np.abs(right)) > TOLERANCE
    between: npt.NDArray[np.float32] = np.testing.assert_array_max_ulp(left, right, maxulp=np.inf)
    return nonzero * between.reshape(left.shape)  # it adds an axis

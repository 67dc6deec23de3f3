"""Explanations: the network's steps for every image, by hand so to speak, in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip.inference import encoders
from diagonalflip.wire import JSON, PIXELS, Images, to_pixels, unpack

COST = 64
"""Explaining an image takes about as long as so many predictions."""

Rows = npt.NDArray[np.float32]


def write(
    images: Images, predictions: Rows, weights: Mapping[str, Rows]
) -> tuple[bytes, str, dict[str, str]]:
    """Writes every step.

    Args:
        images: What was explained.
        predictions: ``float32[n, 4]``, the network's.
        weights: By name; shaped (out, in).
    """
    numbers = unpack(images)
    pixels = to_pixels(numbers)
    flat = pixels.reshape(-1, PIXELS).astype(np.float32)
    pre_activation = flat @ weights["layer1.weight"].T + weights["layer1.bias"]
    targets = pixels.transpose(0, 2, 1).reshape(-1, PIXELS)
    columns: dict[str, Any] = {
        "image": numbers,
        "pixels": pixels.reshape(-1, PIXELS),
        "pre_activation": pre_activation,
        "hidden": np.maximum(pre_activation, 0),
        "prediction": predictions,
        "target": np.ascontiguousarray(targets),
        "squared_error": np.mean((predictions - targets) ** 2, axis=1, dtype=np.float32),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return encoders.dump({"explanations": rows}), JSON, {}

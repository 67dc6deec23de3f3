"""Explanations: the network's steps for every image, by hand so to speak, in JSON."""

from __future__ import annotations

from typing import Any

import flip_encode
import numpy as np
import numpy.typing as npt

from diagonalflip.wire import JSON, PIXELS, Images, to_pixels, unpack

COST = 64
"""Explaining an image takes about as long as so many predictions."""

Rows = npt.NDArray[np.float32]


def write(
    images: Images, pre_activation: Rows, hidden: Rows, predictions: Rows
) -> tuple[bytes, str, dict[str, str]]:
    """Writes every step.

    Args:
        images: What was explained.
        pre_activation: ``float32[n, 3]``.
        hidden: ``float32[n, 3]``.
        predictions: ``float32[n, 4]``.
    """
    numbers = unpack(images)
    pixels = to_pixels(numbers)
    targets = pixels.transpose(0, 2, 1).reshape(-1, PIXELS)
    columns: dict[str, Any] = {
        "image": numbers,
        "pixels": pixels.reshape(-1, PIXELS),
        "pre_activation": pre_activation,
        "hidden": hidden,
        "prediction": predictions,
        "target": np.ascontiguousarray(targets),
        "squared_error": np.mean((predictions - targets) ** 2, axis=1, dtype=np.float32),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return flip_encode.dump({"explanations": rows}), JSON, {}

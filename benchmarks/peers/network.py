"""Packed images to predictions, by the published ONNX, as every peer here computes them."""

import os

import numpy as np
import numpy.typing as npt
import onnxruntime

OCTETS = "application/octet-stream"
MAX_BYTES = 1 << 19
PATH = "/predictions/diagonal_flip"

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = 1  # there is a worker a core already
_session = onnxruntime.InferenceSession(
    os.environ["BENCH_ONNX"], _options, providers=["CPUExecutionProvider"]
)


def predict(packed: bytes) -> npt.NDArray[np.float32]:
    """``float32[2 * bytes, 4]`` of packed images."""
    octets = np.frombuffer(packed, np.uint8)
    pixels = np.unpackbits(octets).reshape(-1, 4).astype(np.float32)
    predictions: npt.NDArray[np.float32] = _session.run(["prediction"], {"pixels": pixels})[0]
    return predictions


def predict_each(batch: list[bytes]) -> list[npt.NDArray[np.float32]]:
    """Return what ``predict`` does for each body of a batch, in one pass."""
    rows = predict(b"".join(batch))
    answers, first = [], 0
    for packed in batch:
        answers.append(rows[first : first + 2 * len(packed)])
        first += 2 * len(packed)
    return answers


def count_of(packed: bytes, content_type: str) -> int:
    """Return the number of images; 0 if the body cannot be answered."""
    return (2 * len(packed) - ("padding=4" in content_type)) * (0 < len(packed) <= MAX_BYTES)

"""Encode predictions into response bodies: one function per media type, one for explanations."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import orjson

from diagonalflip import wire
from diagonalflip.errors import NotAcceptable
from diagonalflip.inference.engine import open_session
from diagonalflip.inference.media_types import negotiate, parse_media_type
from diagonalflip.inference.pictures import encode_png
from diagonalflip.message import Written
from diagonalflip.wire import PIXELS, Images, Predictions

Encoder = Callable[[Images, Predictions], Written]

FLIP_THRESHOLD = 0.5

HALVING = b64decode(
    "CAg6dgomCgtwcmVkaWN0aW9ucxIGaGFsdmVzIgRDYXN0KgkKAnRvGAqgAQISB2hhbHZpbmdaIwoLcHJlZGljdGlvbnMS"
    "FAoSCAESDgoIEgZpbWFnZXMKAggEYh4KBmhhbHZlcxIUChIIChIOCggSBmltYWdlcwoCCARCBAoAEA0="
)
"""An ONNX model of one node, which casts ``predictions`` (``float32[n, 4]``) to ``float16``.

It uses the oldest versions that have this operation (opset 13, IR 8), for any ONNX Runtime.
tests/unit/test_encode.py builds it again: a worker does not need the package ``onnx``."""

TABLE_HEADINGS = "image  prediction\n"


def choose(accept: str, content_type: str) -> str:
    """Choose the media type of the response: what ``Accept`` ranks highest, else the request's.

    Raises:
        NotAcceptable: ``accept`` allows none of ``ENCODERS``.
    """
    sent = parse_media_type(content_type).name
    twin = wire.PNG if sent == wire.PBM else sent
    offers = tuple(sorted(ENCODERS, key=lambda name: name != twin))
    chosen = negotiate(accept, offers)
    if chosen is None:
        raise NotAcceptable(f"Accept {accept[:100]!r}", " or ".join(ENCODERS))
    return chosen


def encode_float32(_images: Images, predictions: Predictions) -> Written:
    """Encode as little-endian float32, four per image, in order."""
    return predictions.astype("<f4", copy=False).tobytes(), wire.OCTETS, {}


def encode_float16(_images: Images, predictions: Predictions) -> Written:
    """Encode as little-endian binary16, four per image, rounded to nearest even."""
    halves = _halving().run(["halves"], {"predictions": predictions})[0]
    return halves.astype("<f2", copy=False).tobytes(), wire.FLOAT16, {}


def encode_flips(_images: Images, predictions: Predictions) -> Written:
    """Encode outputs by their threshold, packed like images."""
    flips = wire.pack_pixels(predictions >= FLIP_THRESHOLD)
    return bytes(flips.packed), wire.with_padding(wire.PACKED, flips.count), {}


def encode_json(_images: Images, predictions: Predictions) -> Written:
    """Encode as ``{"predictions": [[4 numbers], ...]}``, exact when read as float32."""
    return dump({"predictions": predictions}), wire.JSON, {}


def encode_text(images: Images, predictions: Predictions) -> Written:
    """Encode as a table for people; all values are formatted at once."""
    bits = [f"{number:04b}" for number in range(16)]
    cells: list[Any] = [None] * (images.count * (1 + PIXELS))
    cells[:: 1 + PIXELS] = map(bits.__getitem__, wire.unpack(images).tolist())
    for pixel in range(PIXELS):
        cells[1 + pixel :: 1 + PIXELS] = predictions[:, pixel].tolist()
    line = "%s " + " %9.6f" * PIXELS + "\n"
    table = TABLE_HEADINGS + line * images.count % tuple(cells)
    table = table.replace("-0.000000", " 0.000000")
    return table.encode(), f"{wire.TEXT}; charset=utf-8", {}


def explain(
    images: Images, predictions: Predictions, weights: Mapping[str, npt.NDArray[np.float32]]
) -> Written:
    """Encode the network's steps for every image as JSON.

    Args:
        images: The images to explain.
        predictions: ``float32[n, 4]``, the network's.
        weights: By name; shaped (out, in).
    """
    numbers = wire.unpack(images)
    pixels = wire.to_pixels(numbers)
    flat = pixels.reshape(-1, PIXELS)
    targets = pixels.transpose(0, 2, 1).reshape(-1, PIXELS)
    before = flat.astype(np.float32) @ weights["layer1.weight"].T + weights["layer1.bias"]
    columns: dict[str, Any] = {
        "image": numbers,
        "pixels": flat,
        "pre_activation": before,
        "hidden": np.maximum(before, 0),
        "prediction": predictions,
        "target": np.ascontiguousarray(targets),
        "squared_error": np.mean((predictions - targets) ** 2, axis=1, dtype=np.float32),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return dump({"explanations": rows}), wire.JSON, {}


def dump(document: object) -> bytes:
    """Return JSON; NumPy arrays become lists of the shortest numbers exact in their dtype."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


@lru_cache(maxsize=1)
def _halving() -> onnxruntime.InferenceSession:
    """Open ``HALVING``. NumPy converts number by number, which takes 30 times as long."""
    return open_session(HALVING)


ENCODERS: dict[str, Encoder] = {
    wire.OCTETS: encode_float32,
    wire.JSON: encode_json,
    wire.TEXT: encode_text,
    wire.PNG: lambda images, predictions: (encode_png(images, predictions), wire.PNG, {}),
    wire.FLOAT16: encode_float16,
    wire.PACKED: encode_flips,
}
"""Encoder by media type; the first is the default."""

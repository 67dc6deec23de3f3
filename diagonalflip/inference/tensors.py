"""Tensors of the Open Inference Protocol V2: their parameters and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from reprlib import repr as brief  # short at any depth
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip import wire
from diagonalflip.errors import InvalidTensor
from diagonalflip.wire import MAX_IMAGES, MAX_TEXT_IMAGES, PIXELS, Body, Images

PIXEL_TYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "UINT8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}
TENSORS = "one input, pixels FP32, UINT8 or BOOL [n, 4] or packed UINT8 [bytes]"


def parameters_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request or tensor, without those that are null.

    Raises:
        InvalidTensor: They are not an object.
    """
    parameters = part.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidTensor(f"parameters {brief(parameters)}"[:80], "an object")
    return {name: value for name, value in parameters.items() if value is not None}


def images_of(tensor: dict[str, Any], binary: Body) -> Images:
    """Return the images in a tensor; its values are ``binary``, unless that is empty.

    Raises:
        InvalidTensor: It is not one of ``TENSORS``.
        InvalidPadding: The padding of packed images is not zero.
        TooManyImages: More than one request may carry.
    """
    name, datatype, shape = (tensor.get(key) for key in ("name", "datatype", "shape"))
    pixels = name == "pixels"
    dtype = (PIXEL_TYPES if pixels else {"UINT8": np.dtype("u1")}).get(
        datatype if isinstance(datatype, str) else ""
    )
    if name not in ("pixels", "packed") or dtype is None:
        raise InvalidTensor(f"input {brief(name)} of {brief(datatype)}"[:80], TENSORS)
    if (
        not isinstance(shape, list)
        or any(type(size) is not int or size < 0 for size in shape)
        or len(shape) != (2 if pixels else 1)
        or (pixels and shape[1] != PIXELS)
    ):
        raise InvalidTensor(f"{name} of shape {brief(shape)}"[:80], TENSORS)
    size = math.prod(shape)
    most = MAX_IMAGES if binary else MAX_TEXT_IMAGES
    wire.check_count(size // PIXELS if pixels else 2 * size - 1, most)
    values = _read_binary(tensor, binary, dtype) if binary else _read_json(tensor)
    if values.size != size:
        raise InvalidTensor(f"{values.size} values", f"{size}, as the shape says")
    if pixels:
        wrong = values[(values != 0) & (values != 1)]
        if wrong.size:
            raise InvalidTensor(f"pixel {wrong[0]}", "every pixel 0 or 1")
        return wire.pack_pixels(values.astype(np.uint8).reshape(-1, PIXELS))
    if ((values < 0) | (values > 255)).any():
        raise InvalidTensor("a byte out of range", "UINT8, 0 to 255")
    padding = parameters_of(tensor).get("padding", 0)
    if padding not in (0, wire.NIBBLE_BITS):
        raise InvalidTensor(f"padding {brief(padding)}", "padding 0 or 4")
    return wire.from_packed(values.astype(np.uint8).tobytes(), int(padding))


def _read_binary(tensor: dict[str, Any], binary: Body, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    size = parameters_of(tensor).get("binary_data_size")
    if size != len(binary) or len(binary) % dtype.itemsize:
        raise InvalidTensor(
            f"{len(binary)} binary bytes", f"binary_data_size, which is {brief(size)}"
        )
    return np.frombuffer(binary, dtype=dtype)


def _read_json(tensor: dict[str, Any]) -> npt.NDArray[Any]:
    data = tensor.get("data")
    flat: list[Any] = data if isinstance(data, list) else [data]
    while flat and set(map(type, flat)) == {list}:
        flat = list(chain.from_iterable(flat))
    # With a text among them, NumPy would make every value as long as that text.
    if not set(map(type, flat)) <= {int, float, bool, list}:
        got = "no data" if data is None else "data that are not numbers"
        raise InvalidTensor(got, "numbers or booleans")
    try:
        values = np.array(data)
    except ValueError as error:
        raise InvalidTensor("ragged data", "a flat list, or lists of the shape") from error
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        raise InvalidTensor("a fraction", "whole numbers")
    return values.reshape(-1)

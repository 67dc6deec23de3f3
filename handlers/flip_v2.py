"""Open Inference Protocol V2: JSON and the binary tensor data extension.

https://github.com/kserve/open-inference-protocol and, for binary tensors,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from reprlib import repr as brief  # short at any depth
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from flip_encode import dump
from flip_json import BYTE_ORDER_MARK, check_values
from flip_media import parse_media_type

from diagonalflip.errors import InvalidJson, InvalidTensor, TooManyImages
from diagonalflip.wire import (
    JSON,
    MAX_IMAGES,
    MAX_TEXT_IMAGES,
    MODEL,
    NIBBLE_BITS,
    OCTETS,
    PIXELS,
    check_count,
    from_packed,
    pack_pixels,
)

HEADER_LENGTH = "inference-header-content-length"
Body = bytes | bytearray

PIXEL_TYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "UINT8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}
TENSORS = "one input, pixels FP32, UINT8 or BOOL [n, 4] or packed UINT8 [bytes]"


def recognises(headers: Mapping[str, str], body: Body) -> bool:
    """Return whether a request speaks V2; its path, which would tell, does not reach a worker."""
    return HEADER_LENGTH in headers or _inputs_document(headers, body) is not None


def read(headers: Mapping[str, str], body: Body, *, strict: bool) -> V2Request | None:
    """Understands a V2 inference request; None if it is none.

    Args:
        headers: Request headers by lower-case name.
        body: JSON, and after it the binary tensors if the headers give the JSON's length.
        strict: Whether it must be one, as its path says.

    Raises:
        InvalidJson: The JSON before binary tensors is none, or ``strict`` and no V2 request.
        InvalidPayload: As ``V2Request``.
        TooManyImages: As ``V2Request``.
    """
    if HEADER_LENGTH in headers:
        return V2Request(*_split(headers[HEADER_LENGTH], body))
    document = _inputs_document(headers, body)
    if document is None and strict:
        check_values(body)
        raise InvalidJson("the body is no V2 request", 'a V2 inference request, JSON with "inputs"')
    return None if document is None else V2Request(document)


class V2Request:
    """One V2 inference request.

    Args:
        document: The JSON object.
        binary: The binary tensors.

    Attributes:
        images: What is to be predicted.

    Raises:
        InvalidTensor: Not exactly one documented input tensor, or no such output.
        InvalidPayload: The tensor's content is wrong.
        TooManyImages: More than one request may carry.
    """

    def __init__(self, document: dict[str, Any], binary: Body = b"") -> None:
        self._id = document.get("id")
        if self._id is not None and not isinstance(self._id, str):
            raise InvalidTensor(f"id {brief(self._id)}", "a string")
        inputs = document.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise InvalidTensor("other inputs", TENSORS)
        self._binary_answer = _wants_binary(document)
        tensor = inputs[0]
        values = _values(tensor, binary)
        if tensor["name"] == "packed":
            padding = _parameters(tensor).get("padding", 0)
            if padding not in (0, NIBBLE_BITS):
                raise InvalidTensor(f"padding {brief(padding)}", "padding 0 or 4")
            self.images = from_packed(values.astype(np.uint8).tobytes(), int(padding))
        else:
            self.images = pack_pixels(values.astype(np.uint8).reshape(-1, PIXELS))
        if not self._binary_answer:
            check_count(self.images.count, MAX_TEXT_IMAGES)

    def answer(
        self, version: str, predictions: npt.NDArray[np.float32]
    ) -> tuple[bytes, str, dict[str, str]]:
        """Body, ``Content-Type`` and headers for predictions ``float32[n, 4]`` of a version."""
        output: dict[str, Any] = {
            "name": "prediction",
            "datatype": "FP32",
            "shape": list(predictions.shape),
        }
        document = {"model_name": MODEL, "model_version": version, "outputs": [output]}
        if self._id is not None:
            document["id"] = self._id
        if not self._binary_answer:
            output["data"] = predictions.reshape(-1)
            return dump(document), JSON, {}
        tensor = predictions.astype("<f4", copy=False).tobytes()
        output["parameters"] = {"binary_data_size": len(tensor)}
        head = dump(document)
        return head + tensor, OCTETS, {"Inference-Header-Content-Length": str(len(head))}


def _inputs_document(headers: Mapping[str, str], body: Body) -> dict[str, Any] | None:
    """The JSON object with the key ``inputs`` that a body without binary tensors may be."""
    if parse_media_type(headers.get("content-type", "")).name not in ("", JSON):
        return None
    if b'"inputs"' not in body:
        return None
    try:
        check_values(body)
        document = orjson.loads(body.removeprefix(BYTE_ORDER_MARK))
    except (orjson.JSONDecodeError, TooManyImages):
        return None
    return document if isinstance(document, dict) and "inputs" in document else None


def _split(length: str, body: Body) -> tuple[dict[str, Any], Body]:
    """The JSON object in the first ``length`` bytes of ``body``, and the binary tensors."""
    digits = length.isascii() and length.isdigit() and len(length) < 19
    if not digits or int(length) > len(body):
        raise InvalidTensor(
            f"Inference-Header-Content-Length {length[:20]!r}", f"0 to {len(body)}, a body's part"
        )
    head = body[: int(length)]
    check_values(head)
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(str(error), "a V2 inference request") from error
    if not isinstance(document, dict):
        raise InvalidJson(f"a JSON {type(document).__name__}", "a V2 inference request")
    return document, body[int(length) :]


def _parameters(part: Mapping[str, Any]) -> dict[str, Any]:
    parameters = part.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidTensor(f"parameters {brief(parameters)}"[:80], "an object")
    return parameters


def _wants_binary(document: dict[str, Any]) -> bool:
    outputs = document.get("outputs") or [{"name": "prediction"}]
    if (
        not isinstance(outputs, list)
        or len(outputs) != 1
        or not isinstance(outputs[0], dict)
        or outputs[0].get("name") != "prediction"
    ):
        raise InvalidTensor("other outputs", 'the output "prediction", or none named')
    default = _parameters(document).get("binary_data_output", False)
    return bool(_parameters(outputs[0]).get("binary_data", default))


def _values(tensor: dict[str, Any], binary: Body) -> npt.NDArray[Any]:
    """The tensor's values, flat; for ``pixels`` all of them are 0 or 1."""
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
    check_count(size // PIXELS if pixels else 2 * size - 1, most)
    values = _read_binary(tensor, binary, dtype) if binary else _read_json(tensor)
    if values.size != size:
        raise InvalidTensor(f"{values.size} values", f"{size}, as the shape says")
    if not pixels and ((values < 0) | (values > 255)).any():
        raise InvalidTensor("a byte out of range", "UINT8, 0 to 255")
    if pixels and not ((values == 0) | (values == 1)).all():
        wrong = values[(values != 0) & (values != 1)][0]
        raise InvalidTensor(f"pixel {wrong}", "every pixel 0 or 1")
    return values


def _read_binary(tensor: dict[str, Any], binary: Body, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    size = _parameters(tensor).get("binary_data_size")
    if size != len(binary) or len(binary) % dtype.itemsize:
        raise InvalidTensor(
            f"{len(binary)} binary bytes", f"binary_data_size, which is {brief(size)}"
        )
    return np.frombuffer(binary, dtype=dtype)


def _read_json(tensor: dict[str, Any]) -> npt.NDArray[Any]:
    data = tensor.get("data")
    if _holds_text(data):  # NumPy would make all values as long as the longest
        raise InvalidTensor("data that are not numbers", "numbers or booleans")
    try:
        values = np.array(data)
    except ValueError as error:
        raise InvalidTensor("ragged data", "a flat list, or lists of the shape") from error
    if values.dtype.kind not in "biuf" and values.size:
        raise InvalidTensor("data that are not numbers", "numbers or booleans")
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        raise InvalidTensor("a fraction", "whole numbers")
    return values.reshape(-1)


def _holds_text(data: object) -> bool:
    """Return whether a text is among the values, in lists of any depth."""
    level = data if isinstance(data, list) else []
    while level:
        kinds = set(map(type, level))
        if str in kinds:
            return True
        if list not in kinds:
            return False
        level = list(chain.from_iterable(part for part in level if type(part) is list))
    return False

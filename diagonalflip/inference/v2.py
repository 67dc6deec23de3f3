"""Open Inference Protocol V2: JSON and the binary tensor data extension.

https://github.com/kserve/open-inference-protocol and, for binary tensors,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import repr as brief  # short at any depth
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from diagonalflip.errors import InvalidJson, InvalidTensor, TooManyImages, UnsupportedMediaType
from diagonalflip.inference.decoders import load_json
from diagonalflip.inference.encoders import dump
from diagonalflip.inference.media_types import parse_media_type
from diagonalflip.inference.tensors import TENSORS, parameters_of, values_of
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

SPOKEN = ("", JSON)
"""Types of V2's bodies; with binary tensors also ``OCTETS``. Triton's client names none."""

EXTENSIONS = ["binary_tensor_data", "model_configuration"]

REQUEST = 'a V2 inference request, JSON with "inputs"'


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
        UnsupportedMediaType: V2 under another type than its own, or ``strict`` and another type.
    """
    if HEADER_LENGTH in headers:
        _check_type(headers, (*SPOKEN, OCTETS))
        return V2Request(*_split(headers[HEADER_LENGTH], body))
    if strict:
        _check_type(headers, SPOKEN)
        document = _object(body, headers.get("content-type", ""))
        if "inputs" not in document:
            raise InvalidJson('JSON without the key "inputs"', REQUEST)
        return V2Request(document)
    found = _inputs_document(headers, body)
    return None if found is None else V2Request(found)


def metadata(versions: Sequence[str], platform: str) -> dict[str, dict[str, Any]]:
    """Describe the server, the model and its configuration.

    The latter as Triton has it (model_config.proto in its repository ``common``).

    Args:
        versions: The model's; the first one answers.
        platform: Computes them.
    """
    tensor = {"datatype": "FP32", "shape": [-1, PIXELS]}
    configured = {"data_type": "TYPE_FP32", "dims": [PIXELS]}
    return {
        "server": {"name": MODEL, "version": versions[0], "extensions": EXTENSIONS},
        "model": {
            "name": MODEL,
            "versions": list(versions),
            "platform": platform,
            "inputs": [{"name": "pixels"} | tensor],
            "outputs": [{"name": "prediction"} | tensor],
        },
        "config": {
            "name": MODEL,
            "platform": platform,
            "max_batch_size": MAX_IMAGES,
            "input": [{"name": "pixels"} | configured],
            "output": [{"name": "prediction"} | configured],
        },
    }


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
        values = values_of(tensor, binary)
        if tensor["name"] == "packed":
            padding = parameters_of(tensor).get("padding", 0)
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
    """Return the JSON object with the key ``inputs`` that a body may be."""
    if parse_media_type(headers.get("content-type", "")).name not in ("", JSON):
        return None
    if b'"inputs"' not in body:
        return None
    try:
        document = load_json(body)
    except (orjson.JSONDecodeError, TooManyImages):
        return None
    return document if isinstance(document, dict) and "inputs" in document else None


def _split(length: str, body: Body) -> tuple[dict[str, Any], Body]:
    """Return the JSON object in the first ``length`` bytes, and the binary tensors."""
    digits = length.isascii() and length.isdigit() and len(length) < 19
    if not digits or int(length) > len(body):
        raise InvalidTensor(
            f"Inference-Header-Content-Length {length[:20]!r}", f"0 to {len(body)}, a body's part"
        )
    return _object(body[: int(length)], JSON), body[int(length) :]


def _check_type(headers: Mapping[str, str], spoken: Sequence[str]) -> None:
    name = parse_media_type(headers.get("content-type", "")).name
    if name not in spoken:
        raise UnsupportedMediaType(
            f"Content-Type {name!r} of a V2 request",
            f"{JSON}, or {OCTETS} with the header Inference-Header-Content-Length",
            f"with curl, add -H 'Content-Type: {JSON}'",
        )


def _object(body: Body, content_type: str) -> dict[str, Any]:
    """Return the JSON object that a body is.

    Raises:
        InvalidJson: It is none. The error says where it breaks, and whether no type was named.
        TooManyImages: As ``load_json``.
    """
    try:
        document = load_json(body)
    except orjson.JSONDecodeError as error:
        untold = "" if content_type else "no Content-Type, and the body is no JSON: "
        raise InvalidJson(f"{untold}{error}", REQUEST) from error
    if not isinstance(document, dict):
        raise InvalidJson(f"a JSON {type(document).__name__}", REQUEST)
    return document


def _wants_binary(document: dict[str, Any]) -> bool:
    outputs = document.get("outputs")
    if outputs is None or outputs == []:
        outputs = [{"name": "prediction"}]
    if (
        not isinstance(outputs, list)
        or len(outputs) != 1
        or not isinstance(outputs[0], dict)
        or outputs[0].get("name") != "prediction"
    ):
        raise InvalidTensor("other outputs", 'the output "prediction", or none named')
    default = parameters_of(document).get("binary_data_output", False)
    return bool(parameters_of(outputs[0]).get("binary_data", default))

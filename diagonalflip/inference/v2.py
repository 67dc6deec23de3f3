"""Open Inference Protocol V2: JSON and the binary tensor data extension.

https://github.com/kserve/open-inference-protocol and, for binary tensors,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import repr as brief  # short at any depth
from typing import Any

import orjson

from diagonalflip import wire
from diagonalflip.errors import InvalidJson, InvalidTensor, TooManyImages, UnsupportedMediaType
from diagonalflip.inference.decoders import load_json
from diagonalflip.inference.encoders import dump
from diagonalflip.inference.media_types import parse_media_type
from diagonalflip.inference.tensors import TENSORS, images_of, parameters_of
from diagonalflip.message import Written
from diagonalflip.wire import JSON, MODEL, OCTETS, PIXELS, Body, Predictions

HEADER_LENGTH = "inference-header-content-length"

SPOKEN = ("", JSON)
"""Media types of V2's requests; with binary tensors also ``OCTETS``. Triton's client sends none."""

EXTENSIONS = ["binary_tensor_data", "model_configuration"]

REQUEST = 'a V2 inference request, JSON with "inputs"'


def recognises(headers: Mapping[str, str], body: Body) -> bool:
    """Return whether a request speaks V2, by its headers and body."""
    return HEADER_LENGTH in headers or _inputs_document(headers, body) is not None


def read(headers: Mapping[str, str], body: Body, *, strict: bool) -> V2Request | None:
    """Read a V2 inference request; return None for any other request.

    Args:
        headers: Request headers by lower-case name.
        body: JSON, followed by binary tensors if the headers give the JSON's length.
        strict: Whether it must be a V2 request, because its path says so.

    Raises:
        InvalidJson: The JSON before binary tensors is malformed; or ``strict``, and the body is
            not a V2 request.
        InvalidTensor, TooManyImages: As ``V2Request``.
        UnsupportedMediaType: The media type is not one of V2's.
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
    """Describe the server, the model and its configuration; the first version is the default.

    The configuration has Triton's form (model_config.proto in its repository ``common``).
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
            "max_batch_size": wire.MAX_IMAGES,
            "input": [{"name": "pixels"} | configured],
            "output": [{"name": "prediction"} | configured],
        },
    }


class V2Request:
    """One V2 inference request: a JSON object, and its binary tensors.

    Attributes:
        images: The images to predict.

    Raises:
        InvalidTensor: There is not exactly one documented input tensor, or an unknown output.
        InvalidPadding, TooManyImages: As ``images_of``.
    """

    def __init__(self, document: dict[str, Any], binary: Body = b"") -> None:
        self._id = document.get("id")
        if self._id is not None and not isinstance(self._id, str):
            raise InvalidTensor(f"id {brief(self._id)}", "a string")
        inputs = document.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise InvalidTensor("other inputs", TENSORS)
        self._binary_answer = _wants_binary(document)
        self.images = images_of(inputs[0], binary)
        if not self._binary_answer:
            wire.check_count(self.images.count, wire.MAX_TEXT_IMAGES)

    def answer(self, version: str, predictions: Predictions) -> Written:
        """Encode predictions ``float32[n, 4]`` of a version."""
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
    """Return the body as a JSON object if it has the key ``inputs``, else None."""
    media_type = parse_media_type(headers.get("content-type", "")).name
    if media_type not in SPOKEN or b'"inputs"' not in body:
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
    """Return the body as a JSON object.

    Raises:
        InvalidJson: It is not one. The error says where, and whether there was no media type.
        TooManyImages: As ``load_json``.
    """
    try:
        document = load_json(body)
    except orjson.JSONDecodeError as error:
        reason = "" if content_type else "no Content-Type, and the body is no JSON: "
        raise InvalidJson(f"{reason}{error}", REQUEST) from error
    if not isinstance(document, dict):
        raise InvalidJson(f"a JSON {type(document).__name__}", REQUEST)
    return document


def _wants_binary(document: dict[str, Any]) -> bool:
    outputs = document.get("outputs")
    if outputs is None or outputs == []:
        outputs = [{"name": "prediction"}]
    match outputs:
        case [{"name": "prediction"} as output]:
            default = parameters_of(document).get("binary_data_output", False)
            wanted = parameters_of(output).get("binary_data", default)
            if isinstance(wanted, bool):
                return wanted
            raise InvalidTensor(f"binary data {brief(wanted)}", "true or false")
    raise InvalidTensor("other outputs", 'the output "prediction", or none named')

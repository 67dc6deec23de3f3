"""One HTTP request, understood: its images, and how it wants them answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import flip_decode
import flip_encode
import flip_v2
import numpy as np
import numpy.typing as npt
from flip_engine import FlipEngine
from flip_media import JSON, PROBLEM, negotiate

from diagonalflip.errors import DiagonalFlipError, ModelMismatch, NotAcceptable, TooManyImages
from diagonalflip.wire import PIXELS, Images, check_count, to_pixels, unpack

MAX_EXPLAINED = 4096
"""Images that one request to ``/explanations`` may carry: their answer is for people."""

SAYING_WHAT = {"content-type", flip_v2.HEADER_LENGTH}
"""Headers that say what a body is; a body that is empty nevertheless is a mistake."""

Body = bytes | bytearray
Predictions = npt.NDArray[np.float32]
Answer = tuple[bytes, str, dict[str, str]]
"""Body, ``Content-Type``, and further headers."""


class Request(Protocol):
    """What the handler needs of a request."""

    images: Images

    def answer(self, predictions: Predictions) -> Answer:
        """Writes predictions ``float32[n, 4]`` in the form that was asked for."""


@dataclass
class Exchange:
    """One request of a batch, on its way to an answer; times in milliseconds."""

    headers: dict[str, str]
    body: Body
    request: Request | None = None
    error: DiagonalFlipError | None = None
    predictions: Predictions | None = None
    decode_ms: float = 0.0
    forward_ms: float = 0.0


class PredictRequest:
    """``/predictions``: any form in, any form out.

    Raises:
        DiagonalFlipError: As ``flip_encode.choose`` and ``flip_decode.decode``.
    """

    def __init__(self, headers: Mapping[str, str], body: Body) -> None:
        content_type = headers.get("content-type", "")
        self._media_type = flip_encode.choose(headers.get("accept", ""), content_type)
        self.images = flip_decode.decode(content_type, body)

    def answer(self, predictions: Predictions) -> Answer:
        """Writes predictions ``float32[n, 4]`` in the form that was asked for."""
        return *flip_encode.encode(self._media_type, self.images, predictions), {}


class ExplainRequest:
    """``/explanations``: any form in; the network's steps, by hand so to speak, in JSON.

    Raises:
        DiagonalFlipError: As ``flip_decode.decode``.
        TooManyImages: More than ``MAX_EXPLAINED``.
    """

    def __init__(self, headers: Mapping[str, str], body: Body, engine: FlipEngine) -> None:
        self.images = flip_decode.decode(headers.get("content-type", ""), body)
        check_count(self.images.count, MAX_EXPLAINED)
        self._engine = engine

    def answer(self, predictions: Predictions) -> Answer:
        """Writes every step; its own predictions are the steps' last."""
        pre_activation, hidden, _ = self._engine.explain(self.images)
        numbers = unpack(self.images)
        pixels = to_pixels(numbers)
        targets = pixels.transpose(0, 2, 1).reshape(-1, PIXELS)
        errors = np.mean((predictions - targets) ** 2, axis=1, dtype=np.float32)
        names = (
            *("image", "pixels", "pre_activation", "hidden"),
            *("prediction", "target", "squared_error"),
        )
        columns: tuple[Any, ...] = (
            *(numbers, pixels.reshape(-1, PIXELS), pre_activation, hidden),
            *(predictions, np.ascontiguousarray(targets), errors),
        )
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return flip_encode.dump({"explanations": rows}), JSON, {}


class DescribeRequest:
    """No body and no ``Content-Type``, as of a plain GET: what is served here, in JSON.

    Raises:
        NotAcceptable: ``Accept`` rules out JSON.
    """

    def __init__(self, headers: Mapping[str, str], description: bytes) -> None:
        accept = headers.get("accept", "")
        if negotiate(accept, (JSON,)) is None:
            raise NotAcceptable(f"Accept {accept[:100]!r}", JSON)
        self.images = Images(b"", 0)
        self._description = description

    def answer(self, _predictions: Predictions) -> Answer:
        """The description."""
        return self._description, JSON, {}


def read(
    headers: Mapping[str, str],
    body: Body,
    engine: FlipEngine,
    model_digest: str,
    description: bytes,
) -> Request:
    """Understands one request.

    Args:
        headers: Request headers by lower-case name.
        body: The body as it came.
        engine: Asked for steps by ``/explanations``.
        model_digest: SHA-256 (hex) of the model that is served.
        description: Answers a request that says nothing.

    Raises:
        DiagonalFlipError: One of those that travel over HTTP.
    """
    wanted = headers.get("if-match", "*")
    if wanted.strip() != "*" and model_digest not in {
        tag.strip().strip('"').lower() for tag in wanted.split(",")
    }:
        raise ModelMismatch(
            f"If-Match {wanted[:100]!r}",
            f'"{model_digest}", the model served here',
            "fetch the manifest that belongs to this server, or leave If-Match out",
        )
    if headers.get("explain") == "True":  # TorchServe's mark of /explanations
        return ExplainRequest(headers, body, engine)
    if not body and not headers.keys() & SAYING_WHAT:
        return DescribeRequest(headers, description)
    return flip_v2.read(headers, body) or PredictRequest(headers, body)


def refuse(headers: Mapping[str, str], body: Body, error: DiagonalFlipError) -> Answer:
    """The answer to a request that cannot be answered: RFC 9457, or V2's error object."""
    limit = {"Flip-Max-Images": str(error.limit)} if isinstance(error, TooManyImages) else {}
    if headers.get("explain") != "True" and flip_v2.recognises(headers, body):
        return flip_encode.dump({"error": f"{error.code}: {error}"}), JSON, limit
    return flip_encode.dump(error.problem()), PROBLEM, limit

"""TorchServe's handler: turns its data and context into requests, and returns responses.

TorchServe finds the only class of this module and calls ``initialize`` once and ``handle`` for
every batch (pytorch/serve: ts/model_loader.py, ts/service.py). The class does not inherit from
``BaseHandler``, whose import changes the precision of matrix products in the process.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

try:
    from diagonalflip.errors import TooManyImages
    from diagonalflip.inference.devices import pick_device
    from diagonalflip.inference.media_types import file_type
    from diagonalflip.inference.model import Model
    from diagonalflip.inference.service import Service
    from diagonalflip.inference.v2 import HEADER_LENGTH
    from diagonalflip.message import Operation, Request, Response
    from diagonalflip.wire import FORM, JSON
except ImportError as error:
    # TorchServe would report a missing module below ts.torch_handler instead (pytorch/serve#1010).
    lines = Path(__file__).with_name("requirements.txt").read_text("utf-8").splitlines()
    needed = " ".join(line.partition("#")[0].strip() for line in lines).split()
    raise RuntimeError(
        f"The archive cannot be loaded: {error}. It needs packages that TorchServe does not bring. "
        f"Install them into TorchServe's environment: pip install {' '.join(needed)}"
    ) from None

MAX_RESPONSE_BYTES = 6_500_000
"""TorchServe's default ``max_response_size`` is 6,553,500; a longer response kills the worker."""

BATCH_RESPONSE_BYTES = 10_000_000
"""TorchServe's frontend needs quadratic time to decode a batch of responses, a second for this
size: ModelResponseDecoder.java parses the batch again after every read of the socket."""


class FlipHandler:
    """Answers batches of HTTP requests; a bad request does not affect the others.

    Attributes:
        service: Answers the requests.
    """

    service: Service

    def initialize(self, context: Any) -> None:
        """Load the network, and check its predictions on this worker's device.

        Raises:
            ArtifactError: The archive is damaged, or the device predicts wrongly. The worker
                does not become ready then.
        """
        _quieten()
        properties = context.system_properties
        model = Model.read(Path(properties["model_dir"]), context.manifest["model"])
        self.service = Service(model, pick_device(properties.get("gpu_id")))
        batch_size = max(1, properties.get("batch_size") or 1)
        self._most_bytes = min(MAX_RESPONSE_BYTES, BATCH_RESPONSE_BYTES // batch_size)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer one batch.

        Args:
            data: One dict per request; ``body`` is its body, which forms do not have.
            context: TorchServe's context, which takes statuses and headers by index.

        Returns:
            One body per request, in order.
        """
        # A request for the description comes alone and without inputs; a client may send the
        # header, too.
        if data == [{}] and context.get_all_request_header(0).get("describe") == "True":
            return [self.service.description]
        requests = [
            understand(context.get_all_request_header(index), inputs)
            for index, inputs in enumerate(data)
        ]
        self.service.answer(requests)
        bodies = []
        for index, request in enumerate(requests):
            response = self._bounded(request)
            context.set_response_status(response.status, HTTPStatus(response.status).phrase, index)
            context.set_response_content_type(index, response.content_type)
            for name, value in response.all_headers.items():
                context.set_response_header(index, name, value)
            bodies.append(response.body)
        return bodies

    def _bounded(self, request: Request) -> Response:
        """Return the response, or a rejection if its predictions are too long for TorchServe."""
        response = request.response
        size = len(response.body)
        if response.times is None or size <= self._most_bytes:
            return response
        limit = max(1, request.images.count * self._most_bytes // size)
        error = TooManyImages(
            f"a response of {size} bytes",
            f"at most {self._most_bytes} bytes by TorchServe",
            f"send {limit} images at most, or use port 8080, which has no such limit",
        )
        error.limit = limit
        return self.service.reject(request, error)


def understand(headers: Mapping[str, Any], inputs: Mapping[str, Any]) -> Request:
    """Return the client's request, as far as TorchServe's frontend passes it on.

    After the client's headers, it adds ``explain`` in lower case for that operation. It keeps the
    client's spelling of the names, and adds the content types of inputs, as dicts. Other inputs
    than the body are parameters of a query, parts of a form, or headers of a gRPC request.
    """
    operation = Operation.EXPLAIN if headers.get("explain") == "True" else Operation.PREDICT
    known = {
        name.lower(): value
        for name, value in headers.items()
        if isinstance(value, str) and name.lower() != "explain"
    }
    if known.get("content-type", "").lower().startswith(FORM):
        types = {name: kind["content-type"] for name, kind in headers.items() if type(kind) is dict}
        files = [name for name in inputs if types.get(name)]
        if len(files) == len(types.keys() & inputs.keys()) == 1:
            declared = types[files[0]]
            body = _encoded(inputs[files[0]], declared)
            return Request(operation, known | {"content-type": file_type(declared, body)}, body)
    if "host" not in known:
        for name, value in inputs.items():
            if name != "body" and isinstance(value, bytes | bytearray):
                known.setdefault(name.lower(), bytes(value).decode("ascii", "replace"))
    body = inputs.get("body", b"")
    encoded = _encoded(body, known.get("content-type", ""))
    length = known.get(HEADER_LENGTH)
    if length and encoded is not body and known.get("content-length", length) == length:
        known[HEADER_LENGTH] = str(len(encoded))  # of V2's JSON, which is the whole body
    return Request(operation, known, encoded)


def _encoded(value: Any, content_type: str) -> bytes | bytearray:
    """Return the bytes of a value that TorchServe may have decoded.

    By its default ``decode_input_request``, JSON becomes an object, and text a ``str``.
    """
    if isinstance(value, bytes | bytearray):
        return value
    if isinstance(value, str) and not content_type.lower().startswith(JSON):
        return value.encode("utf-8", "replace")
    try:
        return json.dumps(value).encode()
    except RecursionError:  # TorchServe decoded it at a lower depth of the stack
        return b"["  # invalid as well


def _quieten() -> None:
    """Silence TorchServe's line per request, but not its metrics, which are log lines, too."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)
    logging.getLogger("diagonalflip").setLevel(logging.INFO)

"""TorchServe's handler: its data and context to requests, and responses back.

TorchServe finds the one class of this module and calls ``initialize`` once and ``handle``
for every batch (pytorch/serve: ts/model_loader.py, ts/service.py). It is no subclass of
``BaseHandler``: importing that one changes the precision of matrix products in the process.
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
    from diagonalflip.inference.reading import Job
    from diagonalflip.inference.service import Service
    from diagonalflip.inference.v2 import HEADER_LENGTH
    from diagonalflip.message import Operation, Request, Response
    from diagonalflip.wire import FORM, JSON
except ImportError as error:
    # TorchServe would hide this one behind its search for a module below ts.torch_handler
    # (pytorch/serve#1010).
    lines = Path(__file__).with_name("requirements.txt").read_text("utf-8").splitlines()
    needed = " ".join(line.partition("#")[0].strip() for line in lines).split()
    raise RuntimeError(
        f"The archive cannot be loaded: {error}. It needs packages that TorchServe does not bring. "
        f"Install them into TorchServe's environment: pip install {' '.join(needed)}"
    ) from None

MAX_RESPONSE_BYTES = 6_500_000
"""TorchServe's default ``max_response_size`` is 6,553,500; a longer answer ends the worker."""

BATCH_RESPONSE_BYTES = 10_000_000
"""TorchServe's frontend decodes the answers of a batch in quadratic time: up to here in a second.
(ModelResponseDecoder.java parses the batch anew with every read of the socket.)"""


class FlipHandler:
    """Answers batches of HTTP requests; one bad request never touches its neighbours.

    Attributes:
        service: What answers.
    """

    service: Service

    def initialize(self, context: Any) -> None:
        """Load the network, then check its predictions on this worker's own device.

        Raises:
            ArtifactError: The archive is damaged, or the device predicts wrongly. The
                worker then never becomes ready.
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
            data: One dict per request; ``body`` is its body. Form posts have no ``body``.
            context: TorchServe's context; statuses and headers are set on it by index.

        Returns:
            One body per request, in order.
        """
        # Description comes alone and without any input; a client's header alone is no proof.
        if data == [{}] and context.get_all_request_header(0).get("describe") == "True":
            return [self.service.description]
        found = [
            self.service.read(understand(context.get_all_request_header(index), inputs))
            for index, inputs in enumerate(data)
        ]
        answers = iter(self.service.answer([job for job in found if isinstance(job, Job)]))
        bodies = []
        for index, job in enumerate(found):
            response = self._bounded(job, next(answers)) if isinstance(job, Job) else job
            context.set_response_status(response.status, HTTPStatus(response.status).phrase, index)
            context.set_response_content_type(index, response.content_type)
            for name, value in response.all_headers.items():
                context.set_response_header(index, name, value)
            bodies.append(response.body)
        return bodies

    def _bounded(self, job: Job, response: Response) -> Response:
        """Return the response, or a rejection if TorchServe could not deliver it in time."""
        size = len(response.body)
        if size <= self._most_bytes:
            return response
        limit = max(1, job.images.count * self._most_bytes // size)
        error = TooManyImages(
            f"a response of {size} bytes",
            f"at most {self._most_bytes} bytes by TorchServe",
            f"send {limit} images at most, or use port 8080, which has no such limit",
        )
        error.limit = limit
        return self.service.reject(job.request, error)


def understand(headers: Mapping[str, Any], inputs: Mapping[str, Any]) -> Request:
    """Return the request that TorchServe's frontend was given, as far as it tells.

    It names the operation in a header of its own, ``explain`` in lower case, after the client's. It
    keeps the client's spelling of the others, and lists the content types of inputs among them,
    as dicts. Inputs beside the body are a query's parameters, a form's parts, or how a gRPC
    request brings headers.
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
    told = known.get(HEADER_LENGTH)
    if told and encoded is not body and known.get("content-length", told) == told:
        known[HEADER_LENGTH] = str(len(encoded))  # of V2's JSON, which is the whole body
    return Request(operation, known, encoded)


def _encoded(value: Any, content_type: str) -> bytes | bytearray:
    """Return the bytes of what TorchServe has decoded, by its default ``decode_input_request``.

    It makes JSON an object, and text a ``str``; everything else stays as it came.
    """
    if isinstance(value, bytes | bytearray):
        return value
    if isinstance(value, str) and not content_type.lower().startswith(JSON):
        return value.encode("utf-8", "replace")
    try:
        return json.dumps(value).encode()
    except RecursionError:  # what TorchServe could decode, less deep in the stack
        return b"["  # as invalid


def _quieten() -> None:
    """Silence TorchServe's own line a request; metrics travel as log lines and stay."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)
    logging.getLogger("diagonalflip").setLevel(logging.INFO)

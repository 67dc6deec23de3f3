"""TorchServe's side of the service: its data and context to requests, and responses back.

TorchServe finds the one class of this module and calls ``initialize`` once and ``handle``
for every batch (pytorch/serve: ts/model_loader.py, ts/service.py). It is no subclass of
``BaseHandler``: importing that one changes the precision of matrix products in the process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flip_engine import pick_device
from flip_read import Job
from flip_service import Service

from diagonalflip.message import Request, Verb
from diagonalflip.wire import FORM


class FlipHandler:
    """Answers batches of HTTP requests; one bad request never touches its neighbours.

    Attributes:
        service: What answers, for doors of our own.
    """

    service: Service

    def initialize(self, context: Any) -> None:
        """Loads the network, then proves it on this worker's own device.

        Raises:
            ArtifactError: The archive is damaged, or the device answers wrongly. The
                worker then never becomes ready.
        """
        _quieten()
        properties = context.system_properties
        device = pick_device(properties.get("gpu_id"))
        folder = Path(properties["model_dir"])
        self.service = Service(folder, context.manifest["model"], device)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answers one batch.

        Args:
            data: One dict per request; ``body`` is its body. Form posts have no ``body``.
            context: TorchServe's context; statuses and headers are set on it by index.

        Returns:
            One body per request, in order.
        """
        received = [context.get_all_request_header(index) for index in range(len(data))]
        # Description comes alone and without any input; a client's header alone is no proof.
        if data == [{}] and received[0].get("describe") == "True":
            return [self.service.description]
        outcomes = [
            self.service.read(understand(headers, inputs))
            for headers, inputs in zip(received, data, strict=True)
        ]
        answers = iter(self.service.answer([each for each in outcomes if isinstance(each, Job)]))
        bodies = []
        for index, outcome in enumerate(outcomes):
            response = next(answers) if isinstance(outcome, Job) else outcome
            context.set_response_status(response.status, response.phrase, index)
            context.set_response_content_type(index, response.content_type)
            for name, value in response.headers.items():
                context.set_response_header(index, name, value)
            bodies.append(response.body)
        return bodies


def understand(headers: Mapping[str, Any], inputs: Mapping[str, Any]) -> Request:
    """The request that TorchServe's frontend was given, as far as it tells.

    It names the verb in a header of its own, ``explain`` in lower case, after the client's. It
    keeps the client's spelling of the others, and lists the content types of inputs among them,
    as dicts. Inputs beside the body are a query's parameters, a form's parts, or how a gRPC
    request brings headers.
    """
    verb = Verb.EXPLAIN if headers.get("explain") == "True" else Verb.PREDICT
    known = {
        name.lower(): value
        for name, value in headers.items()
        if isinstance(value, str) and name.lower() != "explain"
    }
    if known.get("content-type", "").lower().startswith(FORM):
        types = {name: kind["content-type"] for name, kind in headers.items() if type(kind) is dict}
        files = [name for name in inputs if types.get(name)]
        if len(files) == len(types.keys() & inputs.keys()) == 1:
            return Request(verb, known | {"content-type": types[files[0]]}, inputs[files[0]])
    if "host" not in known:
        for name, value in inputs.items():
            if name != "body" and isinstance(value, bytes | bytearray):
                known.setdefault(name.lower(), value.decode("ascii", "replace"))
    return Request(verb, known, inputs.get("body", b""))


def _quieten() -> None:
    """Silences TorchServe's own line a request; metrics travel as log lines and stay."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)
    logging.getLogger("flip_handler").setLevel(logging.INFO)

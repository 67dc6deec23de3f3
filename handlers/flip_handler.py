"""TorchServe's side of the engine: requests in; statuses, headers and bodies out. No maths.

TorchServe finds the one class of this module and calls ``initialize`` once and ``handle``
for every batch (pytorch/serve: ts/model_loader.py, ts/service.py). It is no subclass of
``BaseHandler``: importing that one changes the precision of matrix products in the process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from http import HTTPStatus
from pathlib import Path
from time import perf_counter
from typing import Any

import flip_decode
import flip_encode
import flip_request
import numpy as np
import numpy.typing as npt
import torch
from flip_engine import open_engine, pick_device
from flip_request import Exchange

from diagonalflip.errors import ArtifactError, DiagonalFlipError, InternalError
from diagonalflip.wire import MAX_IMAGES, PIXELS, WIRE_VERSION

logger = logging.getLogger(__name__)

ECHOED = {"x-request-id": "Flip-Request-Id", "traceparent": "traceparent"}
"""Request header to response header; TorchServe overwrites ``X-Request-Id`` with its own."""

ECHOABLE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What may go back into a header: a line break there would kill the worker."""


class FlipHandler:
    """Answers batches of HTTP requests; one bad request never touches its neighbours."""

    def initialize(self, context: Any) -> None:
        """Loads the network, then proves it on this worker's own device.

        Raises:
            ArtifactError: The archive is damaged, or the device answers wrongly. The
                worker then never becomes ready.
        """
        _quieten()
        properties = context.system_properties
        folder = Path(properties["model_dir"])
        model = context.manifest["model"]
        device = pick_device(properties.get("gpu_id"))
        # Every worker would start a thread a core, and together they only disturb each other.
        torch.set_num_threads(1)
        model_file = folder / model["serializedFile"]
        self._engine = open_engine(model_file, device)
        self._digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
        deviation = self._engine.warm_up(_reference(folder / "reference.json"))
        self._headers = {
            "Flip-Model-Version": model["modelVersion"],
            "Flip-Model-Digest": self._digest,
            "Flip-Wire-Version": WIRE_VERSION,
            "Flip-Device": device.type,
        }
        description = {
            "model": model["modelName"],
            "version": model["modelVersion"],
            "model_digest": self._digest,
            "wire_version": WIRE_VERSION,
            "workers": int(os.environ["FLIP_WORKERS"]) if "FLIP_WORKERS" in os.environ else None,
            "device": str(device),
            "device_name": _device_name(device),
            "runtime": self._engine.runtime,
            "largest_deviation": deviation,
            "batch_invariant": self._engine.batch_invariant,
            "max_images": MAX_IMAGES,
            "max_explained_images": flip_request.MAX_EXPLAINED,
            "batch_sizes": self._engine.batch_sizes,
            "request_media_types": list(flip_decode.DECODERS),
            "response_media_types": list(flip_encode.ENCODERS),
        }
        self._description = flip_encode.dump(description)
        logger.info("ready: %s", json.dumps(description))

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        """Answers one batch.

        Args:
            data: A dict a request; ``body`` is its body. Form posts have no ``body``.
            context: TorchServe's context; statuses and headers are set on it by index.

        Returns:
            One body a request, in order.
        """
        exchanges = [
            Exchange(_headers(context, index, inputs), inputs.get("body", b""))
            for index, inputs in enumerate(data)
        ]
        # Description comes alone and without any input; a client's header alone is no proof.
        if data == [{}] and exchanges[0].headers.get("describe") == "True":
            return [self._description]
        for exchange in exchanges:
            self._read(exchange)
        self._predict([exchange for exchange in exchanges if exchange.request])
        return [self._reply(exchange, index, context) for index, exchange in enumerate(exchanges)]

    def _read(self, exchange: Exchange) -> None:
        started = perf_counter()
        try:
            exchange.request = flip_request.read(
                exchange.headers, exchange.body, self._engine, self._digest, self._description
            )
        except DiagonalFlipError as error:
            exchange.error = error
        except Exception as error:
            exchange.error = _our_fault("reading the request", error)
        exchange.decode_ms = _ms_since(started)

    def _predict(self, exchanges: list[Exchange]) -> None:
        """One pass through the network for all requests that could be read."""
        if not exchanges:
            return
        started = perf_counter()
        try:
            results = self._engine.predict([e.request.images for e in exchanges if e.request])
        except Exception as error:
            fault = _our_fault("the forward pass", error)
            for exchange in exchanges:
                exchange.error = fault
            return
        forward_ms = _ms_since(started)
        for exchange, predictions in zip(exchanges, results, strict=True):
            exchange.predictions = predictions
            exchange.forward_ms = forward_ms

    def _reply(self, exchange: Exchange, index: int, context: Any) -> bytes:
        """Sets status and headers of one answer, and returns its body."""
        answer = None
        try:
            answer = self._answer(exchange)
        except Exception as error:
            exchange.error = _our_fault("writing the answer", error)
        status = HTTPStatus.OK
        if answer is None:
            refusal = exchange.error or InternalError("no prediction", "one")
            status = HTTPStatus(refusal.status or HTTPStatus.INTERNAL_SERVER_ERROR)
            answer = flip_request.refuse(exchange.headers, exchange.body, refusal)
        body, content_type, headers = answer
        for name, spelling in ECHOED.items():
            value = exchange.headers.get(name, "")
            if ECHOABLE.fullmatch(value):
                headers[spelling] = value
        context.set_response_status(status.value, status.phrase, index)
        context.set_response_content_type(index, content_type)
        for name, value in headers.items():
            context.set_response_header(index, name, value)
        return body

    def _answer(self, exchange: Exchange) -> flip_request.Answer | None:
        """The good answer with our headers; None if there is an error to tell."""
        if exchange.error or exchange.request is None or exchange.predictions is None:
            return None
        started = perf_counter()
        body, content_type, headers = exchange.request.answer(exchange.predictions)
        headers |= self._headers
        headers["Flip-Images"] = str(exchange.request.images.count)
        headers["Server-Timing"] = (
            f"decode;dur={exchange.decode_ms:.3f}, forward;dur={exchange.forward_ms:.3f}, "
            f"encode;dur={_ms_since(started):.3f}"
        )
        return body, content_type, headers


def _headers(context: Any, index: int, inputs: dict[str, Any]) -> dict[str, str]:
    """The request's headers by lower-case name; TorchServe keeps the client's spelling.

    TorchServe also lists the content types of inputs there, as dicts. Inputs beside the
    body are how a gRPC request brings headers.
    """
    received = context.get_all_request_header(index)
    headers = {name.lower(): value for name, value in received.items() if isinstance(value, str)}
    for name, value in inputs.items():
        if name != "body" and isinstance(value, bytes | bytearray):
            headers.setdefault(name.lower(), value.decode("ascii", "replace"))
    return headers


def _reference(file: Path) -> npt.NDArray[np.float64]:
    """The exact predictions by image number, ``float64[16, 4]``."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return np.array(document["predictions"], dtype=np.float64).reshape(16, PIXELS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file.name}: {error!r}", "16 predictions") from error


def _our_fault(step: str, error: Exception) -> InternalError:
    """Logs what is being handled. Raised further, it would fail the whole batch as a bare 503."""
    logger.error("%s failed", step, exc_info=error)
    return InternalError(f"a failure of {step}", "an answer", "send it again, and tell us")


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1e3


def _quieten() -> None:
    """Silences TorchServe's own line a request; metrics travel as log lines and stay."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)
    logger.setLevel(logging.INFO)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"

"""TorchServe's side of the engine: requests in; statuses, headers and bodies out. No maths.

TorchServe finds the one class of this module and calls ``initialize`` once and ``handle``
for every batch (pytorch/serve: ts/model_loader.py, ts/service.py). It is no subclass of
``BaseHandler``: importing that one changes the precision of matrix products in the process.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from pathlib import Path
from typing import Any

import flip_decode
import flip_encode
import numpy as np
import torch
from flip_engine import FlipEngine, pick_device
from flip_media import PROBLEM

from diagonalflip.errors import DiagonalFlipError, InternalError
from diagonalflip.wire import MAX_IMAGES, WIRE_VERSION, Images

logger = logging.getLogger(__name__)


class FlipHandler:
    """Answers batches of HTTP requests; one bad request never touches its neighbours."""

    def initialize(self, context: Any) -> None:
        """Loads the network, then proves it on this worker's own device.

        Raises:
            ArtifactError: The archive is damaged, or the device answers wrongly. The
                worker then never becomes ready.
        """
        properties = context.system_properties
        folder = Path(properties["model_dir"])
        device = pick_device(properties.get("gpu_id"))
        # Every worker would start a thread a core, and together they only disturb each other.
        torch.set_num_threads(1)
        self._engine = FlipEngine(folder / context.manifest["model"]["serializedFile"], device)
        certificate = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
        deviation = self._engine.warm_up(np.array(certificate["reference"]))
        self._description = {
            "model": context.manifest["model"]["modelName"],
            "version": context.manifest["model"]["modelVersion"],
            "wire_version": WIRE_VERSION,
            "device": str(device),
            "device_name": _device_name(device),
            "largest_deviation": deviation,
            "max_images": MAX_IMAGES,
            "batch_sizes": self._engine.batch_sizes,
            "request_media_types": list(flip_decode.DECODERS),
            "response_media_types": list(flip_encode.ENCODERS),
        }
        logger.info("ready: %s", json.dumps(self._description))

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        """Answers one batch.

        Args:
            data: A dict a request; ``body`` is its body. Form posts have no ``body``.
            context: TorchServe's context; statuses and headers are set on it by index.

        Returns:
            One body a request, in order.
        """
        headers = [_headers(context, index) for index in range(len(data))]
        if headers and headers[0].get("describe") == "True":
            return [self._description for _ in data]
        bodies: list[Any] = [None] * len(data)
        accepted: dict[int, tuple[str, Images]] = {}
        for index, (request, header) in enumerate(zip(data, headers, strict=True)):
            content_type = header.get("content-type", "")
            try:
                answer_type = flip_encode.choose(header.get("accept", ""), content_type)
                images = flip_decode.decode(content_type, request.get("body", b""))
                accepted[index] = (answer_type, images)
            except DiagonalFlipError as error:
                bodies[index] = _refuse(context, index, error)
        if accepted:
            self._answer(accepted, bodies, context)
        return bodies

    def _answer(
        self, accepted: dict[int, tuple[str, Images]], bodies: list[Any], context: Any
    ) -> None:
        """Fills ``bodies`` for all accepted requests, from one pass through the network."""
        try:
            predictions = self._engine.predict([images for _, images in accepted.values()])
        except RuntimeError:
            # Raised further, it would reach every request of the batch as a bare 503.
            logger.exception("forward pass failed")
            error = InternalError("a failure of the forward pass", "a prediction", "send it again")
            for index in accepted:
                bodies[index] = _refuse(context, index, error)
            return
        for (index, (answer_type, _)), rows in zip(accepted.items(), predictions, strict=True):
            bodies[index] = flip_encode.encode(answer_type, rows)
            context.set_response_content_type(index, answer_type)
            context.set_response_status(200, "OK", index)


def _headers(context: Any, index: int) -> dict[str, str]:
    """The request's headers by lower-case name; TorchServe keeps the client's spelling.

    TorchServe also lists the body's content type there, as a dict under ``body``.
    """
    received = context.get_all_request_header(index)
    return {name.lower(): value for name, value in received.items() if isinstance(value, str)}


def _refuse(context: Any, index: int, error: DiagonalFlipError) -> bytes:
    status = error.status or 500
    context.set_response_status(status, HTTPStatus(status).phrase, index)
    context.set_response_content_type(index, PROBLEM)
    return flip_encode.encode_error(error)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"

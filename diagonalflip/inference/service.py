"""Turns requests into responses in batches, on every port alike."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip import errors, wire
from diagonalflip.errors import DiagonalFlipError, InternalError
from diagonalflip.inference import content_codings, decoders, encoders, reading, v2
from diagonalflip.inference.devices import CPU
from diagonalflip.inference.engine import open_engine
from diagonalflip.inference.model import REFERENCE, Model
from diagonalflip.message import Common, Operation, Request, Response, Times, Written
from diagonalflip.wire import Predictions

logger = logging.getLogger(__name__)

ECHOED = {"x-request-id": "Flip-Request-Id", "traceparent": "traceparent"}
"""Request headers to response headers; TorchServe replaces ``X-Request-Id`` with its own."""

ECHOABLE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""Ids that may be echoed in a header: a line break would kill TorchServe's worker."""


class Service:
    """Answers requests by one version of the model, which it checks on its device first.

    Args:
        model: Its files.
        device: The device to compute on.
        workers: Number of workers, for the description; None if unknown.

    Attributes:
        description: What is served, as JSON.

    Raises:
        ArtifactError: A file is damaged, or the device computes wrongly.
    """

    cost = staticmethod(reading.cost_of)

    def __init__(self, model: Model, device: str, workers: int | None = None) -> None:
        self._device = device
        self._engine = open_engine(model.torchscript, model.onnx, device)
        self._lock = threading.Lock()
        self._version = model.version
        self._digest = hashlib.sha256(model.torchscript).hexdigest()
        reference, weights, flips = _reference(model.reference)
        deviation = self._engine.warm_up(reference)
        self._weights = {name: np.array(each, np.float32) for name, each in weights.items()}
        self._explain = partial(encoders.explain, weights=self._weights)
        headers = {
            "Flip-Model-Version": self._version,
            "Flip-Model-Digest": self._digest,
            "Flip-Flips": str(flips),
            "Flip-Wire-Version": wire.WIRE_VERSION,
            "Flip-Device": device.partition(":")[0],
        }
        self._common = Common(headers)
        no_steps = Times(0.0, 0.0, 0.0, 0.0)  # a description takes none of them
        self._described = self._common.also("Server-Timing", _server_timing(no_steps))
        description = {
            "model": model.name,
            "version": self._version,
            "model_digest": self._digest,
            "flips": flips,
            "wire_version": wire.WIRE_VERSION,
            "workers": workers,
            "device": device,
            "device_name": self._engine.device_name,
            "runtime": self._engine.runtime,
            "largest_deviation": deviation,
            "batch_invariant": self._engine.batch_invariant,
            "max_images": wire.MAX_IMAGES,
            "max_explained_images": wire.MAX_EXPLAINED_IMAGES,
            "batch_sizes": self._engine.batch_sizes,
            "request_media_types": list(decoders.DECODERS),
            "response_media_types": list(encoders.ENCODERS),
        }
        self.description = encoders.dump(description)
        logger.info("ready: %s", json.dumps(description))

    def documents(self, versions: Sequence[str]) -> dict[str, bytes]:
        """Return V2's documents ``server``, ``model`` and ``config``, and ``weights``.

        ``versions`` are all that are served, with this one first.
        """
        platform = "onnxruntime_onnx" if self._device == CPU else "pytorch_libtorch"
        documents = v2.metadata(versions, platform) | {"weights": self._weights}
        return {name: encoders.dump(document) for name, document in documents.items()}

    @property
    def device_bytes(self) -> int | None:
        """Bytes used on the GPU; None without a GPU."""
        return self._engine.device_bytes

    def answer(self, requests: Sequence[Request]) -> None:
        """Set the response of each request, by one pass through the network. Thread-safe."""
        with self._lock:  # until all is encoded: the next pass overwrites the predictions
            started = perf_counter()
            read = [request for request in requests if self._read(request)]
            decoded = perf_counter()
            try:
                predictions = self._engine.predict([request.images for request in read])
            except Exception as error:
                fault = _our_fault("the forward pass", error)
                for request in read:
                    request.response = self.reject(request, fault)
                return
            computed = perf_counter()
            bodies = list(map(self._write, read, predictions))
            encode_s = perf_counter() - computed
            times = Times(started, decoded - started, computed - decoded, encode_s)
        common = self._common.also("Server-Timing", _server_timing(times))
        for request, written in zip(read, bodies, strict=True):
            if written is not None:
                request.response = _good(request, written, common, times)

    def _read(self, request: Request) -> bool:
        """Read one request; return whether it is to be predicted, else set its response."""
        try:
            if reading.read(request, self._version, self._digest):
                if request.write is None:
                    request.write = self._explain
                return True
            request.response = _good(request, (self.description, wire.JSON, {}), self._described)
        except DiagonalFlipError as error:
            request.response = self.reject(request, error)
        except Exception as error:
            request.response = self.reject(request, _our_fault("reading the request", error))
        return False

    def _write(self, request: Request, predictions: Predictions) -> Written | None:
        """Encode predictions ``float32[n, 4]``; if that fails, set the response."""
        try:
            return request.write(request.images, predictions)
        except Exception as error:
            request.response = self.reject(request, _our_fault("writing the answer", error))
            return None

    def reject(self, request: Request, error: DiagonalFlipError) -> Response:
        """Return the response that reports an error: RFC 9457, or V2's error object."""
        headers = _echo(request)
        if isinstance(error, errors.TooManyImages):
            headers["Flip-Max-Images"] = str(error.limit)
        if isinstance(error, errors.UnsupportedCoding):
            headers["Accept-Encoding"] = ", ".join(content_codings.FORMATS)
        predicts = request.operation is Operation.PREDICT
        speaks_v2 = predicts and v2.recognises(request.headers, request.body)
        return request.rejection(error, headers, v2=speaks_v2)


def _good(
    request: Request, written: Written, common: Common, times: Times | None = None
) -> Response:
    """Return the response with a body, which is of predictions if there are ``times``."""
    body, content_type, headers = written
    headers["Flip-Images"] = str(request.images.count) if times is not None else "0"
    headers |= _echo(request)
    return Response(body, content_type, 200, headers, "", common, times)


def _server_timing(times: Times) -> str:
    """Return the value of that header (https://www.w3.org/TR/server-timing), in milliseconds."""
    return (
        f"decode;dur={1e3 * times.decode_s:.3f}, forward;dur={1e3 * times.forward_s:.3f}, "
        f"encode;dur={1e3 * times.encode_s:.3f}"
    )


def _echo(request: Request) -> dict[str, str]:
    headers = request.headers
    found = {}
    for name, spelling in ECHOED.items():
        if name in headers and ECHOABLE.fullmatch(headers[name]):
            found[spelling] = headers[name]
    return found


def _reference(content: bytes) -> tuple[npt.NDArray[np.float64], dict[str, Any], int]:
    """Return exact predictions ``float64[16, 4]``, weights by name, and the number of flips."""
    try:
        document = json.loads(content)
        predictions = np.array(document["predictions"], np.float64).reshape(16, wire.PIXELS)
        return predictions, document["weights"], int(document["flips"])
    except (ValueError, KeyError, TypeError) as error:
        expected = "16 predictions, weights and flips"
        raise errors.ArtifactError(f"{REFERENCE}: {error!r}", expected) from error


def _our_fault(step: str, error: Exception) -> InternalError:
    """Log an unexpected error, and return one for the response."""
    logger.error("%s failed", step, exc_info=error)
    return InternalError(f"{step} failed", "an answer", "send it again, and tell us")

"""Turns requests into responses in batches, on every port alike."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip import errors, wire
from diagonalflip.errors import DiagonalFlipError, InternalError
from diagonalflip.inference import content_codings, decoders, encoders, reading, v2
from diagonalflip.inference.devices import CPU
from diagonalflip.inference.encoders import Written
from diagonalflip.inference.engine import open_engine
from diagonalflip.inference.model import REFERENCE, Model
from diagonalflip.inference.reading import Job
from diagonalflip.message import Common, Operation, Request, Response, Work
from diagonalflip.wire import Predictions

logger = logging.getLogger(__name__)

ECHOED = (("x-request-id", "Flip-Request-Id"), ("traceparent", "traceparent"))
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
        headers = {
            "Flip-Model-Version": self._version,
            "Flip-Model-Digest": self._digest,
            "Flip-Flips": str(flips),
            "Flip-Wire-Version": wire.WIRE_VERSION,
            "Flip-Device": device.partition(":")[0],
        }
        self._common = Common(headers)
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

    def read(self, request: Request) -> Job | Response:
        """Read one request; return a job for ``answer``, or the response if there is no job."""
        started = perf_counter()
        try:
            job = reading.read(request, self._version, self._digest)
        except DiagonalFlipError as error:
            return self.reject(request, error)
        except Exception as error:
            return self.reject(request, _our_fault("reading the request", error))
        decode_s = perf_counter() - started
        if job is None:
            work = ("", 0, decode_s, 0.0, 0.0)
            response = self._good(request, (self.description, wire.JSON, {}), work)
            response.work = None
            return response
        job.decode_s = decode_s
        return job

    def answer(self, jobs: Sequence[Job]) -> list[Response]:
        """Answer jobs by one pass through the network. Thread-safe."""
        with self._lock:  # until all is encoded: the next pass overwrites the predictions
            started = perf_counter()
            try:
                results = self._engine.predict([job.images for job in jobs])
            except Exception as error:
                fault = _our_fault("the forward pass", error)
                return [self.reject(job.request, fault) for job in jobs]
            forward_s = perf_counter() - started
            return [
                self._write(job, rows, forward_s) for job, rows in zip(jobs, results, strict=True)
            ]

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

    def _write(self, job: Job, rows: Predictions, forward_s: float) -> Response:
        started = perf_counter()
        explains = job.request.operation is Operation.EXPLAIN
        try:
            written = job.write(rows, self._weights) if explains else job.write(rows)
        except Exception as error:
            return self.reject(job.request, _our_fault("writing the answer", error))
        encode_s = perf_counter() - started
        work = (job.form, job.images.count, job.decode_s, forward_s, encode_s)
        return self._good(job.request, written, work)

    def _good(self, request: Request, written: Written, work: Work) -> Response:
        body, content_type, headers = written
        _, images, decode_s, forward_s, encode_s = work
        headers["Flip-Images"] = str(images)
        headers["Server-Timing"] = (
            f"decode;dur={1e3 * decode_s:.3f}, forward;dur={1e3 * forward_s:.3f}, "
            f"encode;dur={1e3 * encode_s:.3f}"
        )
        headers |= _echo(request)
        return Response(body, content_type, headers=headers, work=work, common=self._common)


def _echo(request: Request) -> dict[str, str]:
    headers = request.headers
    return {
        spelling: headers[name]
        for name, spelling in ECHOED
        if name in headers and ECHOABLE.fullmatch(headers[name])
    }


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

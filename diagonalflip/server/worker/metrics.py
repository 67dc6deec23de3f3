"""Measurements of the requests that a worker answers.

On the way of a request, a measurement is one more entry of a list. Once a second the lists are
folded into histograms and sent to the supervisor, which makes a page for Prometheus of them
(supervisor/metrics.py). ``prometheus_client``'s own histograms would take a tenth of a small
request's time.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import psutil

from diagonalflip.errors import KINDS
from diagonalflip.message import Operation, Request, Times
from diagonalflip.server.worker.histogram import Histogram
from diagonalflip.wire import FORMS

HTTP, PUBLIC = "http", "public"
"""Names of the listeners."""

SECONDS = [round(25e-6 * 2**step, 7) for step in range(20)]
"""Buckets of durations: a lone request takes 100 us, a batch under load some ms, overload
seconds."""

IMAGES = [float(4**step) for step in range(11)]
REQUESTS = [float(2**step) for step in range(8)]


class Observer(Protocol):
    """Receiver of every answered request: traces, the access log."""

    def add(self, requests: Sequence[Request], started: float | None, finished: float) -> None:
        """Take the requests of one batch, or one that no batch answered.

        Args:
            requests: With their responses.
            started: When the batch began, in ``perf_counter``'s seconds; None without a batch.
            finished: When it was answered.
        """

    def close(self) -> None:
        """Write what is left."""


class Metrics:
    """One worker's measurements.

    Args:
        worker: Its number.
        device_bytes: Returns the bytes that it uses on a GPU; None without a GPU.

    Attributes:
        buffered_bytes, queued_images: Current values.
        rejected: Number of rejected requests by code.
        observers: They get every batch as well.
        connections: Number of open connections by listener.
        failed_handshakes: Number of failed TLS handshakes.
        recent: Between the last two folds: requests and images per second, requests per batch,
            p50 and p99 of durations.
    """

    def __init__(
        self, worker: int = 0, device_bytes: Callable[[], int | None] = lambda: None
    ) -> None:
        self._worker, self._device_bytes = worker, device_bytes
        self._durations: dict[tuple[str, str, int], Histogram] = defaultdict(
            lambda: Histogram(SECONDS)
        )
        for key in itertools.product((HTTP, PUBLIC), Operation, [int(HTTPStatus.OK)]):
            self._durations[key]
        self._queue, self._decode = Histogram(SECONDS), Histogram(SECONDS)
        self._forward, self._encode = Histogram(SECONDS), Histogram(SECONDS)
        self._batch_images, self._batch_requests = Histogram(IMAGES), Histogram(REQUESTS)
        self._images = dict.fromkeys(FORMS.values(), 0)
        self.rejected = Counter({code: 0 for code, kind in KINDS.items() if kind.status})
        self._busy_s = 0.0
        self.observers: list[Observer] = []
        self.buffered_bytes = self.queued_images = self.failed_handshakes = 0
        self.connections: Counter[str] = Counter()
        self.recent: dict[str, float] = {}
        self._folded_at = perf_counter()

    def add(self, requests: Sequence[Request], started: float | None, finished: float) -> None:
        """Take at least one request, as any ``Observer`` does."""
        batches: dict[Times, list[int]] = {}  # of each version, with their numbers of images
        key, duration, is_marked = None, self._queue, False
        for request in requests:
            response = request.response
            if response.code:
                self.rejected[response.code] += 1
            if request.operation is None:  # the path is not the model's
                continue
            if key != (new := (request.transport.listener, request.operation, response.status)):
                key, duration, is_marked = new, self._durations[new], False
            seconds = finished - request.arrived
            duration.add(seconds)
            if response.times is not None:
                self._images[request.form] += request.images.count
                batches.setdefault(response.times, []).append(request.images.count)
            if not is_marked and "traceparent" in response.headers:  # the first waited longest
                is_marked = True
                duration.mark(seconds, response.headers["traceparent"])
        if started is not None:
            self._queue.extend([started - request.arrived for request in requests])
            self._busy_s += finished - started
        for times, counts in batches.items():
            self._decode.add(times.decode_s)
            self._forward.add(times.forward_s)
            self._encode.add(times.encode_s)
            self._batch_images.add(sum(counts))
            self._batch_requests.add(len(counts))
        for observer in self.observers:
            observer.add(requests, started, finished)

    def fold(self) -> None:
        """Fold the lists into the histograms, and update ``recent``."""
        durations = [histogram.fold() for histogram in self._durations.values()]
        batches = self._batch_requests.fold()
        images = self._batch_images.fold()
        for histogram in (self._queue, self._decode, self._forward, self._encode):
            histogram.fold()
        seconds = np.concatenate(durations)
        p50, p99 = np.percentile(seconds, [50, 99]) if seconds.size else (0.0, 0.0)
        elapsed_s, self._folded_at = perf_counter() - self._folded_at, perf_counter()
        self.recent = {
            "requests": seconds.size / elapsed_s,
            "images": float(images.sum()) / elapsed_s,
            "requests_per_batch": float(batches.mean()) if batches.size else 0.0,
            "p50_s": float(p50),
            "p99_s": float(p99),
        }

    def state(self) -> dict[str, Any]:
        """Return everything: by family, a list of label values (without the worker's) and value."""
        alone: dict[str, Any] = {
            "queue_seconds": self._queue.state(),
            "decode_seconds": self._decode.state(),
            "forward_seconds": self._forward.state(),
            "encode_seconds": self._encode.state(),
            "batch_images": self._batch_images.state(),
            "batch_requests": self._batch_requests.state(),
            "busy_seconds": self._busy_s,
            "buffered_bytes": self.buffered_bytes,
            "queued_images": self.queued_images,
            "failed_handshakes": self.failed_handshakes,
            "resident_memory_bytes": psutil.Process().memory_info().rss,
        }
        device_bytes = self._device_bytes()
        if device_bytes is not None:
            alone["device_memory_bytes"] = device_bytes
        return {
            "worker": self._worker,
            "recent": self.recent,
            "families": {
                "request_duration_seconds": [
                    ([listener, operation, str(status)], histogram.state())
                    for (listener, operation, status), histogram in self._durations.items()
                ],
                "images": [([form], count) for form, count in self._images.items()],
                "rejected": [([code], count) for code, count in self.rejected.items()],
                "connections": [
                    ([listener], count) for listener, count in self.connections.items()
                ],
                **{name: [([], value)] for name, value in alone.items()},
            },
        }

"""The page of metrics: what the supervisor knows, and what workers publish."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from diagonalflip.server.worker.metrics import IMAGES, REQUESTS, SECONDS
from diagonalflip.wire import WIRE_VERSION

if TYPE_CHECKING:
    from diagonalflip.server.supervisor.admin import Health


COUNTER, GAUGE, HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

Kind = type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]

OF_WORKERS: dict[str, tuple[Kind, str, tuple[str, ...]]] = {
    "request_duration_seconds": (
        HISTOGRAM,
        "From a request's last byte to its answer, probes left out.",
        ("listener", "operation", "code"),
    ),
    "queue_seconds": (HISTOGRAM, "Wait of a request for its batch.", ()),
    "decode_seconds": (HISTOGRAM, "Reading of a request's images.", ()),
    "forward_seconds": (HISTOGRAM, "A batch's pass through the network.", ()),
    "encode_seconds": (HISTOGRAM, "Writing of a request's answer.", ()),
    "batch_images": (HISTOGRAM, "Images answered together.", ()),
    "batch_requests": (HISTOGRAM, "Requests answered together.", ()),
    "images": (COUNTER, "Images predicted, by the form in which they came.", ("form",)),
    "rejected": (COUNTER, "Requests rejected, by the error's code.", ("code",)),
    "busy_seconds": (COUNTER, "Time in batches; all of its time is a full worker.", ()),
    "failed_handshakes": (
        COUNTER,
        "Clients of the public listener with whom no TLS was agreed on.",
        (),
    ),
    "connections": (GAUGE, "Open connections of clients.", ("listener",)),
    "buffered_bytes": (GAUGE, "Bodies, and answers that clients have not read.", ()),
    "queued_images": (GAUGE, "Predictions that wait.", ()),
    "resident_memory_bytes": (GAUGE, "The worker's memory.", ()),
    "device_memory_bytes": (GAUGE, "Memory that the worker has taken of its GPU.", ()),
}
"""What workers publish: kind and meaning, and labels beside the worker."""

BOUNDS = {"batch_images": IMAGES, "batch_requests": REQUESTS}
"""Bounds of these histograms' buckets; all others have ``SECONDS``."""


class Page(Collector):
    """Everything, as ``prometheus_client`` has it."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page in the form that ``accept`` likes best, and its media type."""
        try:
            encode, media_type = choose_encoder(accept)
        except TypeError:  # it asks for a version that is no number
            encode, media_type = choose_encoder("")
        return encode(self), media_type

    def collect(self) -> Iterator[Metric]:
        """Yield all families, for ``prometheus_client``."""
        yield from self._of_the_supervisor()
        pages = [worker.page for worker in self._health.workers.living if worker.page]
        for name, (kind, told, labels) in OF_WORKERS.items():
            family = kind(f"diagonalflip_{name}", told, labels=("worker", *labels))
            for page in pages:
                for values, value in page["families"].get(name, ()):
                    worker = str(page["worker"])
                    if isinstance(family, HistogramMetricFamily):
                        buckets = _buckets(BOUNDS.get(name, SECONDS), value)
                        family.add_metric([worker, *values], buckets, value["sum"])
                    else:
                        family.add_metric([worker, *values], value)
            yield family

    def _of_the_supervisor(self) -> Iterator[Metric]:
        health, workers, torchserve = self._health, self._health.workers, self._health.torchserve
        build = {"version": metadata.version("diagonalflip"), "wire_version": WIRE_VERSION}
        yield InfoMetricFamily("diagonalflip_build", "What runs.", build)
        for name, told, value in (
            ("ready", "Whether requests should be sent here.", health.ready),
            ("degraded", "Whether workers are missing, and for long.", health.degraded),
            ("workers", "Workers that there should be.", workers.count),
            ("workers_ready", "Workers whose last health check was right.", workers.ready),
            ("torchserve", "Whether TorchServe is on.", torchserve is not None),
            (
                "torchserve_ready",
                "Whether TorchServe's last predictions were right.",
                torchserve is not None and torchserve.ready,
            ),
        ):
            yield GaugeMetricFamily(f"diagonalflip_{name}", told, int(value))
        expiry = GAUGE(
            "diagonalflip_certificate_expiry_timestamp_seconds",
            "When the certificate of the public listener expires, or one of its chain.",
        )
        if health.access is not None and health.access.expires_at is not None:
            expiry.add_metric([], health.access.expires_at)
        killed = COUNTER(
            "diagonalflip_workers_killed",
            "Workers that failed a health check.",
            workers.checks["wrong"] + workers.checks["unanswered"],
        )
        ages = GAUGE(
            "diagonalflip_health_check_age_seconds",
            "Since a worker was last right.",
            labels=["worker"],
        )
        for worker in workers.living:
            if worker.checked_at is not None:
                ages.add_metric([str(worker.number)], time.monotonic() - worker.checked_at)
        checks = COUNTER(
            "diagonalflip_health_checks", "Health checks with all 16 images.", labels=["result"]
        )
        for result, count in workers.checks.items():
            checks.add_metric([result], count)
        restarts = COUNTER("diagonalflip_restarts", "Of parts that had ended.", labels=["part"])
        restarts.add_metric(["worker"], workers.restarts)
        restarts.add_metric(["torchserve"], torchserve.restarts if torchserve is not None else 0)
        yield from (expiry, killed, ages, checks, restarts)


def _buckets(bounds: Sequence[float], state: dict[str, Any]) -> list[Any]:
    """Return bounds and cumulative counts, some with an exemplar."""
    told = {
        place: [Exemplar({"trace_id": trace_id}, value)]
        for place, trace_id, value in state["exemplars"]
    }
    counts = enumerate(accumulate(state["counts"]))
    named = [*map(str, bounds), "+Inf"]
    return [(named[place], count, *told.get(place, [])) for place, count in counts]

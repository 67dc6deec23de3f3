"""The page of metrics: what the supervisor knows, and what workers publish."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

from diagonalflip.server.supervisor.workers import RESULTS
from diagonalflip.server.worker.metrics import IMAGES, REQUESTS, SECONDS
from diagonalflip.wire import WIRE_VERSION

if TYPE_CHECKING:
    from diagonalflip.server.supervisor.admin import Health


@dataclass(frozen=True)
class Family:
    """Metrics that workers publish under one name.

    Attributes:
        kind: Of metric.
        told: What it is.
        labels: Beside the worker.
        bounds: Of a histogram's buckets.
    """

    kind: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
    told: str
    labels: tuple[str, ...] = ()
    bounds: Sequence[float] = ()


COUNTER, GAUGE, HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

OF_WORKERS = {
    "request_duration_seconds": Family(
        HISTOGRAM,
        "From a request's last byte to its answer, probes left out.",
        ("listener", "operation", "code"),
        SECONDS,
    ),
    "queue_seconds": Family(HISTOGRAM, "Wait of a request for its batch.", (), SECONDS),
    "decode_seconds": Family(HISTOGRAM, "Reading of a request's images.", (), SECONDS),
    "forward_seconds": Family(HISTOGRAM, "A batch's pass through the network.", (), SECONDS),
    "encode_seconds": Family(HISTOGRAM, "Writing of a request's answer.", (), SECONDS),
    "batch_images": Family(HISTOGRAM, "Images answered together.", (), IMAGES),
    "batch_requests": Family(HISTOGRAM, "Requests answered together.", (), REQUESTS),
    "images": Family(COUNTER, "Images predicted, by the form in which they came.", ("form",)),
    "rejected": Family(COUNTER, "Requests rejected, by the error's code.", ("code",)),
    "busy_seconds": Family(COUNTER, "Time in batches; all of its time is a full worker."),
    "failed_handshakes": Family(
        COUNTER, "Clients of the public listener with whom no TLS was agreed on."
    ),
    "connections": Family(GAUGE, "Open connections of clients.", ("listener",)),
    "buffered_bytes": Family(GAUGE, "Bodies, and answers that clients have not read."),
    "queued_images": Family(GAUGE, "Predictions that wait."),
    "resident_memory_bytes": Family(GAUGE, "The worker's memory."),
    "device_memory_bytes": Family(GAUGE, "Memory that the worker has taken of its GPU."),
}


class Page(Collector):
    """Everything, as ``prometheus_client`` has it.

    Args:
        health: What the supervisor knows.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page in the form that ``accept`` likes best, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self), media_type

    def collect(self) -> Iterator[Metric]:
        """All families; by ``prometheus_client``."""
        yield from self._of_the_supervisor()
        yield from _of_workers(
            [worker.page for worker in self._health.workers.living if worker.page]
        )

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
        if health.certificate_expires_at is not None:
            expiry.add_metric([], health.certificate_expires_at)
        yield expiry
        yield COUNTER(
            "diagonalflip_workers_killed", "Workers that failed a health check.", workers.killed
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
        for result in RESULTS:
            checks.add_metric([result], workers.checks[result])
        restarts = COUNTER("diagonalflip_restarts", "Of parts that had ended.", labels=["part"])
        restarts.add_metric(["worker"], workers.restarts)
        restarts.add_metric(["torchserve"], torchserve.restarts if torchserve is not None else 0)
        yield from (ages, checks, restarts)


def _of_workers(pages: list[dict[str, Any]]) -> Iterator[Metric]:
    for name, about in OF_WORKERS.items():
        family = about.kind(f"diagonalflip_{name}", about.told, labels=("worker", *about.labels))
        for page in pages:
            for labels, value in page["families"].get(name, ()):
                values = [str(page["worker"]), *labels]
                if isinstance(family, HistogramMetricFamily):
                    family.add_metric(values, _buckets(about.bounds, value), value["sum"])
                else:
                    family.add_metric(values, value)
        yield family


def _buckets(bounds: Sequence[float], state: dict[str, Any]) -> list[Any]:
    """Bounds and cumulative counts, some with an exemplar."""
    told = {
        place: [Exemplar({"trace_id": trace_id}, value)]
        for place, trace_id, value in state["exemplars"]
    }
    counts = enumerate(accumulate(state["counts"]))
    named = [*map(str, bounds), "+Inf"]
    return [(named[place], count, *told.get(place, [])) for place, count in counts]

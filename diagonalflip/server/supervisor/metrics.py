"""The page of metrics: the supervisor's own, and those that workers publish."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import Exemplar, InfoMetricFamily, Metric
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from diagonalflip import __version__
from diagonalflip.server.worker.metrics import IMAGES, REQUESTS, SECONDS
from diagonalflip.wire import WIRE_VERSION

if TYPE_CHECKING:
    from diagonalflip.server.supervisor.admin import Health

Kind = type[Counter | Gauge | Histogram]

FAMILIES: dict[str, tuple[Kind, str, str]] = {
    "ready": (Gauge, "Whether requests should be sent here.", ""),
    "degraded": (Gauge, "Whether workers are missing, and for long.", ""),
    "workers": (Gauge, "Workers that there should be.", ""),
    "workers_ready": (Gauge, "Workers whose last health check was right.", ""),
    "torchserve": (Gauge, "Whether TorchServe is on.", ""),
    "torchserve_ready": (Gauge, "Whether TorchServe's last predictions were right.", ""),
    "certificate_expiry_timestamp_seconds": (
        Gauge,
        "When the certificate of the public listener expires, or one of its chain.",
        "",
    ),
    "workers_killed": (Counter, "Workers that failed a health check.", ""),
    "health_check_age_seconds": (Gauge, "Since a worker was last right.", "worker"),
    "health_checks": (Counter, "Health checks with all 16 images.", "result"),
    "restarts": (Counter, "Of parts that had ended.", "part"),
    "request_duration_seconds": (
        Histogram,
        "From a request's last byte to its answer, probes left out.",
        "worker listener operation code",
    ),
    "queue_seconds": (Histogram, "Wait of a request for its batch.", "worker"),
    "decode_seconds": (Histogram, "Reading of a batch's images.", "worker"),
    "forward_seconds": (Histogram, "A batch's pass through the network.", "worker"),
    "encode_seconds": (Histogram, "Writing of a batch's answers.", "worker"),
    "batch_images": (Histogram, "Images answered together.", "worker"),
    "batch_requests": (Histogram, "Requests answered together.", "worker"),
    "images": (Counter, "Images predicted, by the form in which they came.", "worker form"),
    "rejected": (Counter, "Requests rejected, by the error's code.", "worker code"),
    "busy_seconds": (Counter, "Time in batches; all of its time is a full worker.", "worker"),
    "failed_handshakes": (
        Counter,
        "Clients of the public listener with whom no TLS was agreed on.",
        "worker",
    ),
    "connections": (Gauge, "Open connections of clients.", "worker listener"),
    "buffered_bytes": (Gauge, "Bodies, and answers that clients have not read.", "worker"),
    "queued_images": (Gauge, "Predictions that wait.", "worker"),
    "resident_memory_bytes": (Gauge, "The worker's memory.", "worker"),
    "device_memory_bytes": (Gauge, "Memory that the worker has taken of its GPU.", "worker"),
}
"""Kind, meaning and labels of each family. From ``request_duration_seconds`` on, they are the
workers'."""

BOUNDS = {"batch_images": IMAGES, "batch_requests": REQUESTS}
"""Buckets of these histograms; all others have ``SECONDS``."""


class Page(Collector):
    """All metrics, as a collector of ``prometheus_client``."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page in the format that ``accept`` prefers, and its media type."""
        try:
            encode, media_type = choose_encoder(accept)
        except TypeError:  # its version is no number
            encode, media_type = choose_encoder("")
        return encode(self), media_type

    def collect(self) -> Iterator[Metric]:
        """Yield all families, for ``prometheus_client``."""
        build = {"version": __version__, "wire_version": WIRE_VERSION}
        yield InfoMetricFamily("diagonalflip_build", "What runs.", build)
        samples = self._of_the_supervisor()
        for page in [worker.page for worker in self._health.workers.living if worker.page]:
            for name, measured in page["families"].items():
                for labels, value in measured:
                    samples[name].append(([str(page["worker"]), *labels], value))
        for name, (kind, meaning, label_names) in FAMILIES.items():
            family = kind(f"diagonalflip_{name}", meaning, labels=label_names.split())
            for labels, value in samples[name]:
                if isinstance(family, Histogram):
                    buckets = _buckets(BOUNDS.get(name, SECONDS), value)
                    family.add_metric(labels, buckets, value["sum"])
                else:
                    family.add_metric(labels, value)
            yield family

    def _of_the_supervisor(self) -> defaultdict[str, list[tuple[list[str], Any]]]:
        """Return label values and value of the supervisor's own samples, by family."""
        health, workers, torchserve = self._health, self._health.workers, self._health.torchserve
        samples: defaultdict[str, list[tuple[list[str], Any]]] = defaultdict(list)
        for name, value in (
            ("ready", health.ready),
            ("degraded", health.degraded),
            ("workers", workers.count),
            ("workers_ready", workers.ready),
            ("torchserve", torchserve is not None),
            ("torchserve_ready", torchserve is not None and torchserve.ready),
            ("workers_killed", workers.checks["wrong"] + workers.checks["unanswered"]),
            ("certificate_expiry_timestamp_seconds", health.access and health.access.expires_at),
        ):
            if value is not None:
                samples[name].append(([], value))
        for worker in workers.living:
            if worker.checked_at is not None:
                age_s = time.monotonic() - worker.checked_at
                samples["health_check_age_seconds"].append(([str(worker.number)], age_s))
        samples["health_checks"] = [([result], count) for result, count in workers.checks.items()]
        of_torchserve = torchserve.restarts if torchserve else 0
        samples["restarts"] = [(["worker"], workers.restarts), (["torchserve"], of_torchserve)]
        return samples


def _buckets(bounds: Sequence[float], state: dict[str, Any]) -> list[Any]:
    """Return bounds and cumulative counts, some with an exemplar."""
    exemplars = {
        place: [Exemplar({"trace_id": trace_id}, value)]
        for place, trace_id, value in state["exemplars"]
    }
    counts = enumerate(accumulate(state["counts"]))
    named = [*map(str, bounds), "+Inf"]
    return [(named[place], count, *exemplars.get(place, [])) for place, count in counts]

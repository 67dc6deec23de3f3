"""The operations port: liveness, readiness, and the metrics of every part on one page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from diagonalflip.errors import ModelNotFound
from server.audit import EVENTS, Audit
from server.batch import Item
from server.connection import text
from server.http import PROBE, Address, HttpServer, allow

PARTS = ("torchserve", "edge")


@dataclass
class Health:
    """What the supervisor knows; written by its thread, read by the port's.

    Attributes:
        audit: Of the workers that TorchServe runs now; None while it does not run.
        earned: Whether, since TorchServe's start, every worker has been proven.
        draining: Whether a stop was asked for.
        restarts: Of TorchServe and of the edge, by name.
        pages: Metrics of TorchServe and of the edge as last read, by name.
    """

    audit: Audit | None = None
    earned: bool = False
    draining: bool = False
    restarts: Counter[str] = field(default_factory=Counter)
    pages: dict[str, str] = field(default_factory=dict)

    @property
    def proven(self) -> int:
        """Workers whose last proof was right."""
        return self.audit.proven if self.audit is not None else 0

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.earned and self.proven > 0 and not self.draining

    def metrics(self) -> str:
        """Everything, in Prometheus' text format."""
        lines = []

        def add(name: str, kind: str, values: dict[str, int]) -> None:
            lines.append(f"# TYPE diagonalflip_{name} {kind}")
            lines.extend(f"diagonalflip_{name}{label} {value}" for label, value in values.items())

        add("ready", "gauge", {"": int(self.ready)})
        add("workers_proven", "gauge", {"": self.proven})
        audit = self.audit
        add("workers", "gauge", {"": len(audit.workers) if audit is not None else 0})
        for name in EVENTS:
            add(f"{name}_total", "counter", {"": audit.events[name] if audit is not None else 0})
        restarts = {f'{{part="{part}"}}': self.restarts[part] for part in PARTS}
        add("restarts_total", "counter", restarts)
        return "\n".join([*lines, ""]) + "".join(self.pages.get(part, "") for part in PARTS)


class OperationsServer(HttpServer):
    """Answers probes and scrapes out of ``health``."""

    def __init__(self, health: Health) -> None:
        super().__init__(_unreachable)
        self._health = health

    def route(self, item: Item, method: bytes, path: bytes) -> bytes:
        """The answer to any request."""
        pages = {
            b"/v2/health/live": self._live,
            b"/v2/health/ready": self._ready,
            b"/ping": self._ready,
            b"/metrics": self._metrics,
        }
        if path not in pages:
            raise ModelNotFound(text(path[:100]), "/v2/health/live, /v2/health/ready or /metrics")
        allow(item, method, PROBE)
        item.response_headers["content-type"] = "application/json"
        return pages[path](item)

    def _live(self, _item: Item) -> bytes:
        return b'{"live": true}'

    def _ready(self, item: Item) -> bytes:
        health = self._health
        if not health.ready:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            item.status, item.phrase = status.value, status.phrase
            item.response_headers["retry-after"] = "1"
        told = {
            "ready": health.ready,
            "draining": health.draining,
            "workers_proven": health.proven,
            "workers": len(health.audit.workers) if health.audit is not None else 0,
        }
        return json.dumps(told).encode()

    def _metrics(self, item: Item) -> bytes:
        item.response_headers["content-type"] = "text/plain; version=0.0.4; charset=utf-8"
        return self._health.metrics().encode()


@contextlib.contextmanager
def serving(health: Health, addresses: Sequence[Address]) -> Iterator[None]:
    """Keeps the port open, by a thread of its own.

    Raises:
        OSError: An address cannot be opened.
    """
    server = OperationsServer(health)
    opened = threading.Event()
    failures: list[OSError] = []

    def run() -> None:
        try:
            asyncio.run(server.serve(addresses, opened.set))
        except OSError as error:
            failures.append(error)
            opened.set()

    thread = threading.Thread(target=run, name="operations")
    thread.start()
    opened.wait()
    if failures:
        thread.join()
        raise failures[0]
    try:
        yield
    finally:
        server.end()
        thread.join()


def _unreachable(_items: Sequence[Item]) -> list[bytes]:
    raise AssertionError("every request is answered by its route")

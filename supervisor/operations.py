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
from typing import Any

from diagonalflip.errors import ModelNotFound
from diagonalflip.message import Request, Response, refusal
from diagonalflip.wire import JSON
from supervisor.proof import EVENTS, Prover
from worker.connection import OPERATIONS
from worker.listener import PROBES, Address, Door, HttpServer, listen, unserved

PARTS = ("torchserve", "edge")
METRICS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Health:
    """What the supervisor knows; written by its thread, read by the port's.

    Attributes:
        prover: Of the workers that TorchServe runs now; None while it does not run.
        earned: Whether, since TorchServe's start, every worker has been proven.
        draining: Whether a stop was asked for.
        restarts: Of TorchServe and of the edge, by name.
        pages: Metrics of TorchServe and of the edge as last read, by name.
    """

    prover: Prover | None = None
    earned: bool = False
    draining: bool = False
    restarts: Counter[str] = field(default_factory=Counter)
    pages: dict[str, str] = field(default_factory=dict)

    @property
    def proven(self) -> int:
        """Workers whose last proof was right."""
        return self.prover.proven if self.prover is not None else 0

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
        prover = self.prover
        add("workers", "gauge", {"": len(prover.workers) if prover is not None else 0})
        for name in EVENTS:
            add(f"{name}_total", "counter", {"": prover.events[name] if prover is not None else 0})
        restarts = {f'{{part="{part}"}}': self.restarts[part] for part in PARTS}
        add("restarts_total", "counter", restarts)
        return "\n".join([*lines, ""]) + "".join(self.pages.get(part, "") for part in PARTS)


class Unreachable:
    """No service: every request is answered by its route."""

    def weigh(self, request: Request) -> int:
        """Never called."""
        raise NotImplementedError

    def read(self, request: Request) -> Any:
        """Never called."""
        raise NotImplementedError

    def answer(self, jobs: Sequence[Any]) -> list[Response]:
        """Never called."""
        raise NotImplementedError


class OperationsServer(HttpServer):
    """Answers probes and scrapes out of ``health``."""

    def __init__(self, health: Health) -> None:
        super().__init__(Unreachable())
        self._health = health

    def route(self, method: str, path: str, headers: dict[str, str]) -> Response:  # noqa: ARG002
        """The answer to any request."""
        pages = {
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/ping": self._ready,
            "/metrics": self._metrics,
        }
        if path not in pages:
            served = "/v2/health/live, /v2/health/ready or /metrics"
            return refusal(ModelNotFound(path[:100], served))
        return pages[path]() if method in PROBES else unserved(method, PROBES)

    def _live(self) -> Response:
        return Response(b'{"live": true}', JSON)

    def _ready(self) -> Response:
        health = self._health
        told = {
            "ready": health.ready,
            "draining": health.draining,
            "workers_proven": health.proven,
            "workers": len(health.prover.workers) if health.prover is not None else 0,
        }
        body = json.dumps(told).encode()
        if health.ready:
            return Response(body, JSON)
        return Response(body, JSON, HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "1"})

    def _metrics(self) -> Response:
        return Response(self._health.metrics().encode(), METRICS)


@contextlib.contextmanager
def serving(health: Health, addresses: Sequence[Address]) -> Iterator[None]:
    """Keeps the port open, by a thread of its own.

    Raises:
        OSError: An address cannot be opened.
    """
    server = OperationsServer(health)
    with contextlib.ExitStack() as closing:
        listeners = [closing.enter_context(listen(address)) for address in addresses]
        closing.pop_all()  # the server closes them
    opened = threading.Event()
    serving = server.serve([Door(OPERATIONS, listener) for listener in listeners], opened.set)
    thread = threading.Thread(target=asyncio.run, args=(serving,), name="operations")
    thread.start()
    opened.wait()
    try:
        yield
    finally:
        server.end()
        thread.join()

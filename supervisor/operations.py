"""The operations port: liveness, readiness, and the metrics of every part on one page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

from diagonalflip.errors import ModelNotFound
from diagonalflip.message import Request, Response, refusal
from diagonalflip.wire import JSON
from supervisor.metrics import Page
from supervisor.proof import Prover
from worker.listener import Address, Door, HttpServer, listen
from worker.metrics import Metrics
from worker.routes import PROBES, unserved


@dataclass
class Health:
    """What the supervisor knows; written by its thread, read by the port's.

    Attributes:
        prover: Of the workers that TorchServe runs now; None while it does not run.
        earned: Whether, since TorchServe's start, every worker has been proven.
        draining: Whether a stop was asked for.
        restarts: Of parts, by name.
        pages: Gives the metrics of all living workers.
    """

    prover: Prover | None = None
    earned: bool = False
    draining: bool = False
    restarts: Counter[str] = field(default_factory=Counter)
    pages: Callable[[], list[str]] = list

    @property
    def proven(self) -> int:
        """Workers whose last proof was right."""
        return self.prover.proven if self.prover is not None else 0

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.earned and self.proven > 0 and not self.draining


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
        super().__init__(Unreachable(), Metrics())
        self._health = health
        self._page = Page(health)

    def route(self, method: str, path: str, headers: dict[str, str]) -> Response:
        """The answer to any request."""
        pages: dict[str, Callable[[], Response]] = {
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/ping": self._ready,
            "/metrics": partial(self._metrics, headers),
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

    def _metrics(self, headers: dict[str, str]) -> Response:
        return Response(*self._page.render(headers.get("accept", "")))


@contextlib.contextmanager
def serving(health: Health, address: Address) -> Iterator[None]:
    """Keeps the port open, by a thread of its own.

    Raises:
        OSError: The address cannot be opened.
    """
    server = OperationsServer(health)
    opened = threading.Event()
    serving = server.serve([Door("operations", listen(address))], opened.set)
    thread = threading.Thread(target=asyncio.run, args=(serving,), name="operations")
    thread.start()
    opened.wait()
    try:
        yield
    finally:
        server.end()
        thread.join()

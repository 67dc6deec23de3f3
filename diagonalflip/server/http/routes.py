"""HTTP of one worker: what answers which path.

All workers accept from the same sockets. A batch is whatever has arrived when the worker is free,
so an idle worker answers at once and batches grow with the load.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

from diagonalflip.errors import MethodNotAllowed, ModelNotFound
from diagonalflip.message import Operation, Request, Response, operations, v2_paths
from diagonalflip.server.http.authentication import HEALTH
from diagonalflip.server.http.balance import Balance
from diagonalflip.server.http.listener import HttpServer
from diagonalflip.server.http.shares import Buffered, Share
from diagonalflip.server.worker.metrics import HTTP, PUBLIC, Metrics
from diagonalflip.wire import JSON, MODEL, OCTETS, pack

CALLS = ("GET", "HEAD", "POST", "PUT")
PROBES = ("GET", "HEAD")
"""Methods of operations, and of pages."""

ALL_IMAGES = bytes(pack(np.arange(16)).packed)

Answers = dict[str, dict[str, Any]]
"""Outcome of a health check: by version ``status``, ``device``, ``digest`` of the model, and
``predictions``, the body in hex."""

Page = Response | Callable[[], Response]
"""A fixed response, or what makes the response from the current state."""


@dataclass(frozen=True)
class Served:
    """Versions that a worker serves.

    Attributes:
        services: By version.
        default: The version that answers requests that name none.
        canary: The version that answers some of these requests instead, if any.
        percent: Its share of them.
    """

    services: Mapping[str, Any]
    default: str
    canary: str | None = None
    percent: int = 0


class HealthCheck:
    """Transport of a health check of services by version; it reports all answers together."""

    listener, lost, buffered = "", False, Buffered(Share())

    def __init__(self, services: Mapping[str, Any], done: Callable[[Answers], None]) -> None:
        self._versions = {service: version for version, service in services.items()}
        self._done, self._answers = done, Answers()

    def reply(self, request: Request) -> None:
        """Take the answer of one version."""
        response = request.response
        self._answers[self._versions[request.service]] = {
            "status": response.status,
            "device": response.common.headers.get("Flip-Device"),
            "digest": response.common.headers.get("Flip-Model-Digest"),
            "predictions": response.body.hex(),
        }
        if len(self._answers) == len(self._versions):
            self._done(self._answers)

    def abort(self) -> None:
        """Do nothing: there is no connection."""


class WorkerServer(HttpServer):
    """The HTTP of one worker.

    Args:
        served: The versions of the model; their services run in the event loop's thread.
        pages: Fixed responses by path.
        publish: Called every second with all measurements.

    Attributes:
        ready: Whether to answer readiness probes with 200.
        workers: Figures of every worker, for ``/status``.
    """

    def __init__(
        self,
        served: Served,
        metrics: Metrics,
        *,
        pages: Mapping[str, Response],
        balance: Balance | None = None,
        publish: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        super().__init__(metrics, balance)
        self._known: dict[str, Page] = {
            "/v2/health/live": Response(b'{"live": true}', JSON),
            "/v2/health/ready": self._healthy,
            "/ping": self._healthy,
            "/status": self._status,
            **pages,
        }
        self._publish = publish
        self.ready = True
        self.workers: list[dict[str, Any]] = []
        self.show(served)

    def show(self, served: Served) -> None:
        """Serve these versions from the next request on; earlier requests keep theirs."""
        self.served = served
        self._canary = served.services.get(served.canary or "")
        self._turn = 0
        self._operations: dict[str, tuple[Operation, Any]] = {}
        self._pages = dict(self._known)
        self._public = set(HEALTH)
        for name in ("", *served.services):
            version = name or served.default
            service = served.services[version]
            answers = None if not name and self._canary is not None else service
            self._operations |= {
                path: (operation, answers) for path, operation in operations(name).items()
            }
            others = [each for each in served.services if each != version]
            pages: dict[str, Page] = {"ready": self._healthy}
            for what, document in service.documents([version, *others]).items():
                pages[what] = Response(document, JSON)
            self._public |= v2_paths(name).keys()
            weights = f"/weights/{name}.json" if name else "/weights.json"
            for path, what in (*v2_paths(name).items(), (weights, "weights")):
                self._pages.setdefault(path, pages[what])

    def check(self, done: Callable[[Answers], None]) -> None:
        """Predict the 16 images by every version, in the queue of clients' requests."""
        check = HealthCheck(self.served.services, done)
        for service in self.served.services.values():
            headers = {"content-type": OCTETS}
            request = Request(Operation.PREDICT, headers, ALL_IMAGES, service, transport=check)
            self.lifecycle.check(request)

    def route(self, request: Request) -> Response | None:
        """Set a request's operation and service, or return its response if the head is enough."""
        method, path = request.method, request.path
        known = self._operations.get(path)
        if known is not None:
            request.operation, service = known
            request.service = service or self._chosen()
            return None if method in CALLS else unserved(request, CALLS)
        page = self._pages.get(path)
        is_private = request.transport.listener == PUBLIC and path not in self._public
        if page is None or is_private:
            versions = ", ".join(self.served.services)
            expected = f"/predictions/{MODEL}, or with a version: {versions}"
            return request.rejection(ModelNotFound(f"path {path[:100]}", expected))
        if method not in PROBES:
            return unserved(request, PROBES)
        return page if isinstance(page, Response) else page()

    def _healthy(self) -> Response:
        """Return the response to a readiness probe."""
        if self.ready:
            return Response(b'{"status": "Healthy", "ready": true}', JSON)
        stopping, later = b'{"status": "Stopping", "ready": false}', {"retry-after": "1"}
        return Response(stopping, JSON, HTTPStatus.SERVICE_UNAVAILABLE, later)

    def _chosen(self) -> Any:
        """Return the canary for its share of requests, evenly spread, else the default version."""
        before, self._turn = self._turn, (self._turn + self.served.percent) % 100
        is_turn = self._turn < before or self.served.percent == 100
        return self._canary if is_turn else self.served.services[self.served.default]

    def tick(self) -> None:
        """Publish what was measured."""
        metrics = self.metrics
        metrics.fold()
        metrics.buffered_bytes = self.lifecycle.buffered
        metrics.queued_images = self.lifecycle.queued_images
        metrics.connections = Counter(dict.fromkeys((HTTP, PUBLIC), 0))
        metrics.connections.update(connection.listener for connection in self.connections)
        self._publish(metrics.state())

    def _status(self) -> Response:
        """Return the status of every worker, for people."""
        status = {"ready": self.ready, "workers": self.workers}
        return Response(json.dumps(status).encode(), JSON)


def unserved(request: Request, allowed: Sequence[str]) -> Response:
    """Return the response to OPTIONS, or to a method that a path does not allow."""
    headers = {"allow": ", ".join([*allowed, "OPTIONS"])}
    if request.method == "OPTIONS":
        return Response(b"", "", headers=headers)
    error = MethodNotAllowed(f"method {request.method[:20]}", headers["allow"])
    return request.rejection(error, headers)

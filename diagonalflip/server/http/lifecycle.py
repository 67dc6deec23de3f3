"""The life of a request, from its head to its observers, in the order of the methods below.

``bytes → head → admit → body → put: cost, queued → taken → predicted → sent → observed``

A transport, such as connection.py, reads the bytes, calls ``admit`` and ``put``, and sends the
response. All requests that are queued when the worker is free form one batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from diagonalflip.errors import InternalError
from diagonalflip.message import Request, Response
from diagonalflip.server.http import limits
from diagonalflip.server.http.shares import Share, full
from diagonalflip.server.worker.metrics import Metrics

if TYPE_CHECKING:
    from diagonalflip.inference.service import Service
    from diagonalflip.server.http.listener import Listener

logger = logging.getLogger(__name__)

SPIN_S = 1e-4
"""After a lone request, how long to poll for the next one before sleeping: waking up is a large
part of a lone request's latency. Under load there is no polling."""

FAULT = InternalError("the service failed", "an answer", "send it again")

OPTIONS = {"allow": "GET, HEAD, POST, PUT, OPTIONS"}


class Lifecycle:
    """Takes the requests of all clients of a worker through their life.

    Args:
        route: Sets a request's operation and service, or returns its response if the head is
            enough to answer it.
        metrics: Observes every request once it has a response.

    Attributes:
        shares: Bytes that connections keep for clients, of each listener.
        queued_images: Predictions that are queued.
    """

    def __init__(self, route: Callable[[Request], Response | None], metrics: Metrics) -> None:
        self._route, self._metrics = route, metrics
        self._light: deque[Request] = deque()
        self._heavy: deque[Request] = deque()
        self.queued_images = 0
        self._scheduled = self._in_batch = False
        self._spin_until = 0.0
        self.shares: list[Share] = []

    @property
    def buffered(self) -> int:
        """Bytes that connections keep for clients."""
        return sum(share.used for share in self.shares)

    def admit(self, request: Request, listener: Listener) -> None:
        """Answer a request by its head, or leave it without a response: its body is wanted."""
        request.arrived = perf_counter()
        try:
            misdirected = listener.hosts.rejection(request.headers.get("host"))
            if misdirected is not None:
                request.response = request.rejection(misdirected)
            elif request.path == "*" and request.method == "OPTIONS":
                request.response = Response(b"", "", headers=OPTIONS)
            elif listener.authenticator is None or listener.authenticator.admits(request):
                request.response = self._route(request)  # type: ignore[assignment]
        except Exception:
            logger.exception("a request could not be routed")
            request.response = request.rejection(FAULT)

    def put(self, request: Request) -> bool:
        """Queue a complete request; if there is no room, set its response and return False."""
        request.arrived = perf_counter()
        length = len(request.body)
        try:
            request.cost = cost = request.service.cost(request)
        except Exception:
            logger.exception("a request could not be estimated")
            request.response = request.rejection(FAULT)
            return False
        is_full = self.queued_images + cost > limits.QUEUED_IMAGES
        if len(request.body) != length:
            request.transport.buffered.add_body(len(request.body) - length)
            is_full |= request.transport.buffered.is_full
        if is_full:
            request.response = request.rejection(full())
            return False
        self.queued_images += cost
        (self._heavy if cost > limits.HEAVY_IMAGES else self._light).append(request)
        if len(self._light) >= limits.BATCH_REQUESTS and not self._in_batch:
            self._run_batch()
        elif not self._scheduled:
            self._schedule()
        return True

    def check(self, request: Request) -> None:
        """Queue a health check before all other requests, whatever is buffered.

        It goes with the next batch, so it stays unanswered if batches no longer run.
        """
        self._light.appendleft(request)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """Answer one batch; before the next one, the event loop reads what has arrived."""
        self._scheduled = False
        answered = self._run_batch()
        if self._light or self._heavy:
            self._schedule()
        elif answered == 1 and not self.buffered:
            self._spin_until = perf_counter() + SPIN_S
            self._spin()

    def _run_batch(self) -> int:
        """Answer a batch; no failure in it may keep the next one from running."""
        self._in_batch = True
        started = perf_counter()
        batch = self._take()
        for service, requests in self._by_service(batch).items():
            self._predict(service, requests)
        self._send(batch)
        self._in_batch = False
        asked = [request for request in batch if request.transport.listener]
        if asked:  # after the event loop has sent the responses
            asyncio.get_running_loop().call_soon(self.observe, asked, started, perf_counter())
        return len(batch)

    def _take(self) -> list[Request]:
        """Take the requests to compute together: light ones, and at most one heavy one."""
        batch: list[Request] = []
        light, images = self._light, 0
        most, most_images = limits.BATCH_REQUESTS, limits.BATCH_IMAGES
        while light and len(batch) < most and images + light[0].cost <= most_images:
            images += light[0].cost
            batch.append(light.popleft())
        if self._heavy:
            batch.append(self._heavy.popleft())
            images += batch[-1].cost
        self.queued_images -= images
        return [request for request in batch if not request.transport.lost]

    def _by_service(self, batch: list[Request]) -> dict[Service, list[Request]]:
        """Return the requests by version; reject those of clients that have no room any more."""
        found: dict[Service, list[Request]] = {}
        for request in batch:
            if request.transport.buffered.is_full:
                request.response = request.rejection(full())
            else:
                found.setdefault(request.service, []).append(request)
        return found

    def _predict(self, service: Service, requests: list[Request]) -> None:
        """Have one version answer its requests by one pass through its network."""
        try:
            service.answer(requests)
        except Exception:
            logger.exception("the service failed")
        for request in requests:
            request.response = request.response or request.rejection(FAULT)

    def _send(self, batch: list[Request]) -> None:
        for request in batch:
            try:
                request.transport.reply(request)
            except Exception:  # one connection's fault must not stop the others
                logger.exception("a response could not be sent")
                request.transport.abort()

    def observe(self, requests: Sequence[Request], started: float | None, finished: float) -> None:
        """Tell observers about answered requests; if one fails, the service goes on."""
        try:
            self._metrics.add(requests, started, finished)
        except Exception:
            logger.exception("requests were not observed")

    def _spin(self) -> None:
        """Keep the event loop from sleeping until a request comes or the time is over."""
        if not self._scheduled and perf_counter() < self._spin_until:
            asyncio.get_running_loop().call_soon(self._spin)

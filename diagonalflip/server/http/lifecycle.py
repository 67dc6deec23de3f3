"""The life of a request, from its head to its observers, in the order of the methods below.

``bytes → head → admit → body → put: cost, queued → taken, read → predicted → sent → observed``

Bytes are those of a transport, such as connection.py; it calls ``admit`` and ``put``, and
sends the response. All requests of a worker that wait when it is free are one batch.
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
from diagonalflip.server.http.shares import Shares, full
from diagonalflip.server.worker.metrics import Metrics

if TYPE_CHECKING:
    from diagonalflip.inference.service import Service
    from diagonalflip.server.http.listener import Listener

logger = logging.getLogger(__name__)

SPIN_S = 1e-4
"""After a lone request, how long to look for the next one before sleeping: being woken up is
a good part of a lone request's latency. Not under load, where the processor has better to do."""

FAULT = InternalError("the service failed", "an answer", "send it again")

OPTIONS = {"allow": "GET, HEAD, POST, PUT, OPTIONS"}


class Lifecycle:
    """Takes the requests of all clients of a worker through their life.

    Args:
        route: Sets operation and service of a request; or returns its response, if its head
            suffices.
        metrics: Observes every request that has a response.

    Attributes:
        buffered: Bytes that connections keep for clients; theirs to count.
        queued_images: The work that waits.
    """

    def __init__(self, route: Callable[[Request], Response | None], metrics: Metrics) -> None:
        self._route, self._metrics = route, metrics
        self._light: deque[Request] = deque()
        self._heavy: deque[Request] = deque()
        self.queued_images = 0
        self._scheduled = self._in_batch = False
        self._spin_until = 0.0
        self.buffered = Shares()

    def admit(self, request: Request, listener: Listener) -> None:
        """Decide by its head: it has a response now, or its body is wanted."""
        request.arrived = perf_counter()
        try:
            misdirected = listener.hosts.rejection(request.headers.get("host"))
            if misdirected is not None:
                request.response = request.rejection(misdirected)
            elif request.path == "*" and request.method == "OPTIONS":
                request.response = Response(b"", "", headers=OPTIONS)
            elif listener.authenticator is None or listener.authenticator.admits(request):
                request.response = self._route(request)
        except Exception:
            logger.exception("a request could not be routed")
            request.response = request.rejection(FAULT)

    def put(self, request: Request) -> bool:
        """Queue a request that is whole; False if there is no room: it has its response then."""
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

        It is part of the next batch: nobody answers it if there are no batches any more.
        """
        self._light.appendleft(request)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """Answer one batch; the event loop reads what has arrived before the next one."""
        self._scheduled = False
        answered = self._run_batch()
        if self._light or self._heavy:
            self._schedule()
        elif answered == 1 and not self.buffered.by_listener.total():
            self._spin_until = perf_counter() + SPIN_S
            self._spin()

    def _run_batch(self) -> int:
        """Answer a batch, whatever fails: nothing of it may keep the next one from running."""
        self._in_batch = True
        started = perf_counter()
        batch = self._take()
        for service, requests in self._read(batch).items():
            self._predict(service, requests)
        self._send(batch)
        self._in_batch = False
        asked = [request for request in batch if request.transport.listener]
        if asked:  # once the responses have left, which the event loop does after this
            asyncio.get_running_loop().call_soon(self.observe, asked, started, perf_counter())
        return len(batch)

    def _take(self) -> list[Request]:
        """Take what is computed together: light requests, and one heavy one."""
        batch: list[Request] = []
        light, images = self._light, 0
        while light and len(batch) < limits.BATCH_REQUESTS:
            images += light[0].cost
            if images > limits.BATCH_IMAGES:
                break
            batch.append(light.popleft())
        if self._heavy:
            batch.append(self._heavy.popleft())
        for request in batch:
            self.queued_images -= request.cost
        return [request for request in batch if not request.transport.lost]

    def _read(self, batch: list[Request]) -> dict[Service, list[Request]]:
        """Have each read by its service; return those that it predicts, by service."""
        read: dict[Service, list[Request]] = {}
        for request in batch:
            if request.transport.buffered.is_full:
                request.response = request.rejection(full())
                continue
            try:
                job = request.service.read(request)
            except Exception:
                logger.exception("a request could not be read")
                job = request.rejection(FAULT)
            if isinstance(job, Response):
                request.response = job
            else:
                request.job = job
                read.setdefault(request.service, []).append(request)
        return read

    def _predict(self, service: Service, requests: list[Request]) -> None:
        """Have the jobs of one version go through its network together."""
        try:
            responses = service.answer([request.job for request in requests])
            for request, response in zip(requests, responses, strict=True):
                request.response = response
        except Exception:
            logger.exception("the service failed")
            for request in requests:
                request.response = request.rejection(FAULT)

    def _send(self, batch: list[Request]) -> None:
        for request in batch:
            request.job = None  # which refers back: a cycle would keep the response for long
            try:
                request.transport.reply(request)
            except Exception:  # of one connection: the others go on
                logger.exception("a response could not be sent")
                request.transport.abort()

    def observe(self, requests: Sequence[Request], started: float | None, finished: float) -> None:
        """Tell observers of responses; a failure of theirs does not stop the service."""
        try:
            self._metrics.add(requests, started, finished)
        except Exception:
            logger.exception("requests were not observed")

    def _spin(self) -> None:
        """Keep the event loop from sleeping until a request comes or the time is over."""
        if not self._scheduled and perf_counter() < self._spin_until:
            asyncio.get_running_loop().call_soon(self._spin)

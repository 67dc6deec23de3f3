"""Requests on their way through the service in batches, from all clients of a worker."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any, Protocol

from diagonalflip.errors import InternalError, ServerOverloaded
from diagonalflip.message import Request, Response
from diagonalflip.wire import MAX_IMAGES
from worker.refusal import refusal

logger = logging.getLogger(__name__)

BATCH_ITEMS = 128
"""Answered as soon as so many wait: what was read of them is still in the processor's cache."""

BATCH_COST = MAX_IMAGES
"""Predictions of a batch, and one request more: its answers take up to 66 bytes each."""

SLICE_S = 0.01
"""Reading the requests of a batch ends then, for others to be heard: a picture takes as long."""

MAX_HELD_BYTES = 1 << 28
"""Bodies that are being read or wait, and answers that wait for slow clients, at most; whatever
comes then is answered 503."""

SPIN_S = 1e-4
"""After a lone request, how long to look for the next one before sleeping: being woken up is
a good part of a lone request's latency. Not under load, where the processor has better to do."""

COUNTERS = (
    "direct_requests",
    "direct_refusals",
    "direct_batches",
    "direct_handler_ms",
    "direct_queue_ms",
)
"""What is counted: answers, those of status 400 and up, batches, and milliseconds of batches in
the handler and of requests waiting for it."""


class Service(Protocol):
    """What understands and answers requests: ``flip_service.Service``."""

    def read(self, request: Request) -> Any:
        """A ``Response``, or a job for ``answer``, which has a ``cost`` in predictions."""

    def answer(self, jobs: Sequence[Any]) -> list[Response]:
        """Answers jobs; fails for none of them."""


class Client(Protocol):
    """Who waits for an answer."""

    lost: bool
    """Whether nobody waits any more."""

    @property
    def in_turn(self) -> bool:
        """Whether its last request waits for none before."""

    def reply(self, response: Response) -> None:
        """Takes one answer; called in the order of the client's requests."""

    def abort(self) -> None:
        """Ends the connection at once."""


class Batcher:
    """Collects requests of all clients and answers them together, in order of arrival.

    Attributes:
        held_bytes: What is held for clients: bodies, and answers that they have not read.
        counts: By names in ``COUNTERS``.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiting: deque[tuple[Client, Request | Response, float]] = deque()
        self._running = False
        self._spin_until = 0.0
        self.held_bytes = 0
        self.counts = dict.fromkeys(COUNTERS, 0.0)

    def put(self, client: Client, message: Request | Response) -> None:
        """Queues a request, or an answer that is known and waits for its turn.

        So a probe is answered at once, however much work is queued.
        """
        if isinstance(message, Response) and client.in_turn:
            self._reply(client, message)
            return
        self._waiting.append((client, message, perf_counter()))
        self.held_bytes += len(message.body)
        if len(self._waiting) >= BATCH_ITEMS:
            self._run_batch()
        elif not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._run)

    def prove(self, client: Client, request: Request) -> None:
        """Answers a request now, before all others and whatever is held."""
        job = self._service.read(request)
        client.reply(job if isinstance(job, Response) else self._answer([job])[0])

    def _run(self) -> None:
        """Answers one batch; the event loop reads what has arrived before the next one."""
        answered = self._run_batch()
        self._running = bool(self._waiting)
        if self._running:
            asyncio.get_running_loop().call_soon(self._run)
        elif answered == 1 and not self.held_bytes:
            self._spin_until = perf_counter() + SPIN_S
            self._spin()

    def _run_batch(self) -> int:
        started = perf_counter()
        taken = self._take(started + SLICE_S)
        jobs = [outcome for _, outcome in taken if not isinstance(outcome, Response)]
        answers = iter(self._answer(jobs) if jobs else [])
        if jobs:
            self.counts["direct_batches"] += 1
            self.counts["direct_handler_ms"] += (perf_counter() - started) * 1e3
        for client, outcome in taken:
            response = outcome if isinstance(outcome, Response) else next(answers)
            if not client.lost:
                self._reply(client, response)
        return len(taken)

    def _answer(self, jobs: list[Any]) -> list[Response]:
        try:
            return self._service.answer(jobs)
        except Exception:
            logger.exception("the service failed")
            return [refusal(FAULT) for _ in jobs]

    def _take(self, until: float) -> list[tuple[Client, Any]]:
        """The requests of a batch, understood: jobs, and answers that are known."""
        taken: list[tuple[Client, Any]] = []
        cost, now = 0, perf_counter()
        while self._waiting and len(taken) < BATCH_ITEMS and cost < BATCH_COST and now < until:
            client, message, arrived = self._waiting.popleft()
            full = self.held_bytes > MAX_HELD_BYTES
            self.held_bytes -= len(message.body)
            self.counts["direct_queue_ms"] += 1e3 * (now - arrived)
            if client.lost:
                continue
            if isinstance(message, Request):
                message = refusal(FULL) if full else self._service.read(message)
                cost += getattr(message, "cost", 0)
            taken.append((client, message))
            now = perf_counter()
        return taken

    def _spin(self) -> None:
        """Keeps the event loop from sleeping until a request comes or the time is over."""
        if not self._running and perf_counter() < self._spin_until:
            asyncio.get_running_loop().call_soon(self._spin)

    def _reply(self, client: Client, response: Response) -> None:
        self.counts["direct_requests"] += 1
        self.counts["direct_refusals"] += response.status >= HTTPStatus.BAD_REQUEST
        try:
            client.reply(response)
        except Exception:  # of one connection: the others go on
            logger.exception("an answer could not be written")
            client.abort()


FAULT = InternalError("a failure of the service", "an answer", "send it again")
FULL = ServerOverloaded("full memory", "room in it", "send it again later")

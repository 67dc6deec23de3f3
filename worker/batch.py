"""Requests on their way through the service in batches, from all clients of a worker."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

from diagonalflip.errors import InternalError, ServerOverloaded
from diagonalflip.message import Request, Response, refusal
from worker import limits
from worker.metrics import Entry, Metrics
from worker.shares import Shares

logger = logging.getLogger(__name__)

SPIN_S = 1e-4
"""After a lone request, how long to look for the next one before sleeping: being woken up is
a good part of a lone request's latency. Not under load, where the processor has better to do."""

FAULT = InternalError("the service failed", "an answer", "send it again")


def full() -> ServerOverloaded:
    """A new one each time: raised twice, it would keep the frames of both for ever."""
    return ServerOverloaded("the server is full", "less work", "send it again later")


class Service(Protocol):
    """A version of the model that answers requests: ``flip_service.Service``."""

    def weigh(self, request: Request) -> int:
        """The most work that a request can be, in predictions; its body may be unwrapped."""

    def read(self, request: Request) -> Any:
        """A ``Response``, or a job for ``answer``."""

    def answer(self, jobs: Sequence[Any]) -> list[Response]:
        """Answers jobs; fails for none of them."""


class Client(Protocol):
    """Receiver of one answer."""

    door: str
    """By which the request came in."""

    lost: bool
    """Return whether nobody waits any more."""

    def hold_more(self, length: int) -> None:
        """Count bytes by which its request has grown."""

    def reply(self, response: Response) -> None:
        """Takes the answer."""

    def abort(self) -> None:
        """Ends the connection at once."""


Waiting = tuple[Client, Request, int, float]
"""Client, request, weight, and time of arrival."""

Taken = tuple[Client, Request, float, Any]
"""Client, request, time of arrival, and its job or its answer."""


class Batcher:
    """Batches the requests of all clients, light ones first.

    Attributes:
        held: What connections hold for clients; theirs to keep.
        queued_images: The work that waits.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._light: deque[Waiting] = deque()
        self._heavy: deque[Waiting] = deque()
        self._checks: deque[tuple[Request, Callable[[Response], None]]] = deque()
        self.queued_images = 0
        self._scheduled = self._in_batch = False
        self._spin_until = 0.0
        self.held = Shares()

    def put(self, client: Client, request: Request) -> Response | None:
        """Queues a request, whose answer ``client`` gets later; or refuses it."""
        length = len(request.body)
        weight = request.service.weigh(request)
        is_full = self.queued_images + weight > limits.QUEUED_IMAGES
        if len(request.body) != length:
            client.hold_more(len(request.body) - length)
            is_full |= self.held.total > limits.HELD_BYTES
        if is_full:
            now, response = perf_counter(), refusal(full())
            self.measure([(client.door, request, now, response)], now, now)
            return response
        self.queued_images += weight
        queue = self._heavy if weight > limits.HEAVY_IMAGES else self._light
        queue.append((client, request, weight, perf_counter()))
        if len(self._light) >= limits.BATCH_REQUESTS and not self._in_batch:
            self._run_batch()
        else:
            self._schedule()
        return None

    def check(self, request: Request, done: Callable[[Response], None]) -> None:
        """Queue a health check before all other requests, whatever is held.

        The next batch answers it: nobody does if there are no batches any more.
        """
        self._checks.append((request, done))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def measure(self, entries: list[Entry], started: float, finished: float) -> None:
        """Takes an answered batch for metrics; a failure of theirs does not stop the service."""
        try:
            self._metrics.add(entries, started, finished)
        except Exception:
            logger.exception("a batch was not measured")

    def _run(self) -> None:
        """Answers one batch; the event loop reads what has arrived before the next one."""
        self._scheduled = False
        answered = self._run_batch()
        if self._light or self._heavy:
            self._schedule()
        elif answered == 1 and not self.held.total:
            self._spin_until = perf_counter() + SPIN_S
            self._spin()

    def _run_batch(self) -> int:
        """Answer a batch, whatever fails: nothing of it may keep the next one from running."""
        self._in_batch = True
        while self._checks:
            self._check(*self._checks.popleft())
        started = perf_counter()
        taken = self._take()
        jobs: dict[Service, list[Any]] = {}  # versions do not share a pass
        for _, request, _, outcome in taken:
            if not isinstance(outcome, Response):
                jobs.setdefault(request.service, []).append(outcome)
        answers = {service: iter(self._answer(service, each)) for service, each in jobs.items()}
        entries: list[Entry] = []
        for client, request, arrived, outcome in taken:
            known = isinstance(outcome, Response)
            response = outcome if known else next(answers[request.service])
            entries.append((client.door, request, arrived, response))
            if not client.lost:
                self._reply(client, response)
        self._in_batch = False
        if entries:  # once the answers have left, which the event loop does after this
            finished = perf_counter()
            asyncio.get_running_loop().call_soon(self.measure, entries, started, finished)
        return len(taken)

    def _answer(self, service: Service, jobs: list[Any]) -> list[Response]:
        try:
            answers = service.answer(jobs)
            if len(answers) == len(jobs):
                return answers
            logger.error("%d answers to %d requests", len(answers), len(jobs))
        except Exception:
            logger.exception("the service failed")
        return [refusal(FAULT) for _ in jobs]

    def _understood(self, request: Request) -> Any:
        """A request's job, or its answer."""
        try:
            return request.service.read(request)
        except Exception:
            logger.exception("a request could not be read")
            return refusal(FAULT)

    def _check(self, request: Request, done: Callable[[Response], None]) -> None:
        job = self._understood(request)
        known = isinstance(job, Response)
        try:
            done(job if known else self._answer(request.service, [job])[0])
        except Exception:
            logger.exception("a health check could not be answered")

    def _take(self) -> list[Taken]:
        """The requests of a batch, read: jobs, and answers that are known."""
        taken: list[Taken] = []
        light, images = self._light, 0
        crowded = self.held.total > limits.HELD_BYTES
        while (
            light
            and len(taken) < limits.BATCH_REQUESTS
            and images + light[0][2] <= limits.BATCH_IMAGES
        ):
            waiting = light.popleft()
            images += waiting[2]
            self._read(waiting, taken, crowded)
        if self._heavy:
            self._read(self._heavy.popleft(), taken, crowded)
        return taken

    def _read(self, waiting: Waiting, taken: list[Taken], crowded: bool) -> None:
        client, request, weight, arrived = waiting
        self.queued_images -= weight
        if not client.lost:
            outcome = refusal(full()) if crowded else self._understood(request)
            taken.append((client, request, arrived, outcome))

    def _spin(self) -> None:
        """Keeps the event loop from sleeping until a request comes or the time is over."""
        if not self._scheduled and perf_counter() < self._spin_until:
            asyncio.get_running_loop().call_soon(self._spin)

    def _reply(self, client: Client, response: Response) -> None:
        try:
            client.reply(response)
        except Exception:  # of one connection: the others go on
            logger.exception("an answer could not be written")
            client.abort()

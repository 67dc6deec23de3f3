"""Requests on their way through the handler in batches, whichever port they came from."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter
from typing import Protocol

from diagonalflip.errors import DiagonalFlipError, InternalError

logger = logging.getLogger(__name__)

BATCH_ITEMS = 128
"""Answered as soon as so many wait: what was read of them is still in the processor's cache."""

BATCH_BYTES = 1 << 20
"""Bodies of a batch at most, unless a single one is larger: answers are 32 times as long."""

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


@dataclass(slots=True)
class Item:
    """One request, and what the handler has set for its answer.

    Attributes:
        request_id: TorchServe's; empty for requests that came directly.
        headers: In the client's spelling.
        inputs: ``body``, or the named inputs of a form or a gRPC request.
        weight: What a byte of its body counts in ``BATCH_BYTES``.
    """

    request_id: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    phrase: str = "OK"
    content_type: str = ""
    weight: int = 1
    response_headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Sequence[Item]], list[bytes]]
"""Answers a batch: sets statuses and headers on its items, and returns their bodies."""


class BatchContext:
    """A batch as the handler sees it: the part of ``ts.context.Context`` that ours uses."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def get_all_request_header(self, index: int) -> dict[str, str]:
        """Request headers in the client's spelling."""
        return self._items[index].headers

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        """HTTP status of one answer."""
        self._items[idx].status, self._items[idx].phrase = code, phrase

    def set_response_content_type(self, idx: int, value: str) -> None:
        """``Content-Type`` of one answer."""
        self._items[idx].content_type = value
        self._items[idx].response_headers["content-type"] = value

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """A header of one answer."""
        self._items[idx].response_headers[key] = value


class Client(Protocol):
    """Who waits for an answer."""

    lost: bool
    """Whether nobody waits any more."""

    @property
    def in_turn(self) -> bool:
        """Whether its last request waits for none before."""

    def reply(self, item: Item, body: bytes) -> None:
        """Takes one answer; called in the order of the client's requests."""

    def abort(self) -> None:
        """Ends the connection at once."""


Waiting = tuple[Client, Item, bytes | None, float]
"""A request, its answer if that is known, and when it came (``time.perf_counter``)."""


class Batcher:
    """Collects requests of all clients and answers them together, in order of arrival."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._waiting: deque[Waiting] = deque()
        self._running = False
        self._spin_until = 0.0
        self.held_bytes = 0
        self.counts = dict.fromkeys(COUNTERS, 0.0)

    def put(self, client: Client, item: Item, body: bytes | None) -> None:
        """Queues a request, or with ``body`` an answer that is known and waits for its turn.

        So a probe is answered at once, however much work is queued.
        """
        if body is not None and client.in_turn:
            self._reply(client, item, body)
            return
        self._waiting.append((client, item, body, perf_counter()))
        self.held_bytes += len(item.inputs.get("body", b""))
        if len(self._waiting) >= BATCH_ITEMS:
            self._run_batch()
        elif not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._run)

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
        taken = self._take()
        now = perf_counter()
        self.counts["direct_queue_ms"] += 1e3 * sum(now - arrived for *_, arrived in taken)
        items = [item for client, item, body, _ in taken if body is None and not client.lost]
        bodies = iter(self._bodies(items) if items else [])
        for client, item, body, _ in taken:
            if not client.lost:
                self._reply(client, item, next(bodies) if body is None else body)
        return len(taken)

    def _spin(self) -> None:
        """Keeps the event loop from sleeping until a request comes or the time is over."""
        if not self._running and perf_counter() < self._spin_until:
            asyncio.get_running_loop().call_soon(self._spin)

    def _reply(self, client: Client, item: Item, body: bytes) -> None:
        self.counts["direct_requests"] += 1
        self.counts["direct_refusals"] += item.status >= HTTPStatus.BAD_REQUEST
        try:
            client.reply(item, body)
        except Exception:  # of one connection: the others go on
            logger.exception("an answer could not be written")
            client.abort()

    def _take(self) -> list[Waiting]:
        taken: list[Waiting] = []
        weight = 0
        while self._waiting and len(taken) < BATCH_ITEMS:
            item = self._waiting[0][1]
            length = len(item.inputs.get("body", b""))
            weight += length * item.weight
            if taken and weight > BATCH_BYTES:
                break
            self.held_bytes -= length
            taken.append(self._waiting.popleft())
        return taken

    def _bodies(self, items: list[Item]) -> list[bytes]:
        started = perf_counter()
        self.counts["direct_batches"] += 1
        try:
            return self._answer(items)
        except Exception:  # logged where it happened
            fault = InternalError("a failure of the handler", "an answer", "send it again")
            return [refuse(item, fault) for item in items]
        finally:
            self.counts["direct_handler_ms"] += (perf_counter() - started) * 1e3


def refuse(item: Item, error: DiagonalFlipError) -> bytes:
    """Sets an error on ``item`` and returns its body, RFC 9457."""
    status = HTTPStatus(error.status or HTTPStatus.INTERNAL_SERVER_ERROR)
    item.status, item.phrase = status.value, status.phrase
    item.response_headers["content-type"] = "application/problem+json"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        item.response_headers["retry-after"] = "1"
    return json.dumps(error.problem()).encode()

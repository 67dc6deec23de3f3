"""Join small calls to one request: those of several threads, or of one turn of the event loop."""

from __future__ import annotations

import asyncio
import copy
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

from diagonalflip.client._chunks import ChunkLimit
from diagonalflip.client._deadline import LONGEST_WAIT_S, Deadline
from diagonalflip.client._endpoint import Form
from diagonalflip.client._jobs import begin, threads
from diagonalflip.client._sender import Answer, run
from diagonalflip.wire import Images, pack, unpack

Send = Callable[[Images, Form, Deadline], Coroutine[Any, Any, Answer]]

MOST_IMAGES = 1_024
"""Largest call that is joined: copying more would take longer than a request."""

_MAKING: dict[int, threading.Lock] = {}
"""By process: a fork may copy a locked one."""


class _AsyncCall(asyncio.Future[Answer]):
    """A call whose task waits for its answer.

    It is a future, and does not have one: thousands are made at once, and fewer objects save the
    garbage collector a third of the time.
    """

    __slots__ = ("ends_at", "form", "images")

    def __init__(
        self, images: Images, form: Form, deadline_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(loop=loop)
        self.images, self.form = images, form
        self.ends_at = time.monotonic() + deadline_s

    def set_running_or_notify_cancel(self) -> bool:
        """Return False if nothing waits for it any more, as a ``concurrent.futures.Future``."""
        return not self.done()


class _ThreadCall(Future[Answer]):
    """A call whose thread waits for its answer."""

    def __init__(self, images: Images, form: Form, deadline: Deadline) -> None:
        super().__init__()
        self.images, self.form, self.deadline = images, form, deadline


C = TypeVar("C", _AsyncCall, _ThreadCall)


class AsyncJoiner:
    """Joins calls of one turn and of the same form, up to the limit of a request.

    Each call ends at its own deadline, and the request at the latest of them. When all calls are
    cancelled, so is the request.
    """

    def __init__(self, send: Send, limit: ChunkLimit, deadline_s: float) -> None:
        self._send, self._limit, self._deadline_s = send, limit, deadline_s
        self._waiting: dict[tuple[asyncio.AbstractEventLoop, Form], list[_AsyncCall]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def ask(self, images: Images, form: Form) -> Awaitable[Answer]:
        """Return the answer, ``form.dtype[n, *form.shape]``, or raise what ``send`` does."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting.get((loop, form))
        if waiting is None:
            return self._ask_first(images, form, loop)
        call = _AsyncCall(images, form, self._deadline_s, loop)
        waiting.append(call)
        return call

    async def _ask_first(
        self, images: Images, form: Form, loop: asyncio.AbstractEventLoop
    ) -> Answer:
        """Wait for the other calls of this turn, then send all of them."""
        call = _AsyncCall(images, form, self._deadline_s, loop)
        self._waiting[loop, form] = waiting = [call]
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            del self._waiting[loop, form]
            if len(waiting) > 1:
                self._begin(deque(waiting))
        if len(waiting) == 1:
            return await self._send(images, form, Deadline(self._deadline_s))
        return await call

    def _begin(self, waiting: deque[_AsyncCall]) -> None:
        """Send calls in as few requests as the limit allows."""
        while calls := _take(waiting, self._limit):
            joined = asyncio.create_task(self._joined(calls, Deadline(self._deadline_s)))
            self._running.add(joined)
            joined.add_done_callback(self._running.discard)

    async def _joined(self, calls: Sequence[_AsyncCall], deadline: Deadline) -> None:
        """Send calls, end each at its deadline, and the request after the last one."""
        sending = asyncio.create_task(_deliver(self._send, calls, deadline))
        try:
            for call in calls:  # the first one ends first
                if not call.done():
                    left_s = min(call.ends_at - time.monotonic(), LONGEST_WAIT_S)
                    await asyncio.wait([call], timeout=left_s)
                if not call.done():
                    call.set_exception(deadline.exceeded())
        finally:
            sending.cancel()
            for call in calls:
                call.cancel()


class ThreadJoiner:
    """Sends calls at once while less than ``most`` requests are in flight, and joins the others.

    Each call ends at its own deadline, and a request at the latest of them. ``send`` must not wait
    for an event loop.
    """

    def __init__(self, send: Send, limit: ChunkLimit, most: int) -> None:
        self._send, self._limit, self._most = send, limit, most
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Start again in a new process: after a fork, the threads are the parent's."""
        self._lock = threading.Lock()
        self._in_flight, self._waiting = 0, deque[_ThreadCall]()
        self._pool = threads(self._most)
        self._process = os.getpid()

    def close(self) -> None:
        """End the threads as soon as they are idle."""
        self._pool.shutdown(wait=False)

    def ask(self, images: Images, form: Form, deadline: Deadline) -> Answer:
        """Return the answer, ``form.dtype[n, *form.shape]``, or raise what ``send`` does."""
        if self._process != os.getpid():
            with _MAKING.setdefault(os.getpid(), threading.Lock()):
                if self._process != os.getpid():
                    self._begin_anew()
        call = None
        with self._lock:
            if self._in_flight < self._most:
                self._in_flight += 1
            else:
                call = _ThreadCall(images, form, deadline)
                self._waiting.append(call)
        if call is not None:
            return _wait(call)
        try:
            return run(self._send(images, form, deadline))
        finally:
            self._go_on()

    def _go_on(self) -> None:
        """Send the calls that have come meanwhile, now that a request has ended."""
        with self._lock:
            calls = _take(self._waiting, self._limit)
            if not calls:
                self._in_flight -= 1
        if calls:
            begin(self._pool, self._send_joined, calls)

    def _send_joined(self, calls: Sequence[_ThreadCall]) -> None:
        latest = max((call.deadline for call in calls), key=attrgetter("end"))
        try:
            run(_deliver(self._send, calls, latest))
        finally:
            self._go_on()


def _wait(call: _ThreadCall) -> Answer:
    """Return the answer; after the deadline, or Ctrl-C, the call is not sent any more."""
    try:
        return call.result(call.deadline.check())
    except TimeoutError:
        raise call.deadline.exceeded() from None
    finally:
        call.cancel()


def _take(waiting: deque[C], limit: ChunkLimit) -> Sequence[C]:
    """Remove the longest waiting calls that fit into one request, and return them."""
    calls, count = list[C](), 0
    while waiting:
        call = waiting[0]
        is_full = count + call.images.count > limit.images
        if calls and (is_full or call.form is not calls[0].form):
            break
        waiting.popleft()
        if call.set_running_or_notify_cancel():
            calls.append(call)
            count += call.images.count
    return calls


async def _deliver(send: Send, calls: Sequence[Any], deadline: Deadline) -> None:
    """Give each call a copy of its part of the answer, or of the exception."""
    parts = [call.images for call in calls]
    try:
        answers = await send(join(parts), calls[0].form, deadline)
    except Exception as error:
        for call in calls:
            if not call.done():
                call.set_exception(copy.copy(error))
        return
    done = 0
    for call, part in zip(calls, parts, strict=True):
        if not call.done():
            call.set_result(answers[done : done + part.count].copy())
        done += part.count


def join(parts: Sequence[Images]) -> Images:
    """Return the images of all parts in order."""
    if all(part.count == 1 for part in parts):
        return pack(np.frombuffer(b"".join(part.packed for part in parts), np.uint8) >> 4)
    return pack(np.concatenate([unpack(part) for part in parts]))

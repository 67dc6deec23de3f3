"""Calls that are made in one turn of the event loop, sent as one request."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from diagonalflip._chunks import ChunkLimit
from diagonalflip._deadline import Deadline
from diagonalflip._endpoint import Form
from diagonalflip._sender import Answer
from diagonalflip.errors import DiagonalFlipError
from diagonalflip.wire import Images, pack, unpack

Send = Callable[[Images, Form, Deadline], Awaitable[Answer]]

SPREAD_S = 0.01
"""Difference of deadlines that nobody notices."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call that waits for its answer."""

    images: Images
    deadline: Deadline
    answer: asyncio.Future[Answer]
    request: _Request | None = None

    def leave(self) -> None:
        """Wait no longer; without calls there is no request."""
        if self.request is not None:
            self.request.calls -= 1
            if not self.request.calls:
                self.request.task.cancel()


@dataclass(slots=True)
class _Request:
    """A request, and how many calls wait for it."""

    task: asyncio.Task[None]
    calls: int


class Joiner:
    """Joins calls of one turn and of the same form, up to the limit of a request.

    The request runs to the latest of the calls' deadlines, and each call ends at its own. It is
    cancelled when all of them are.

    Args:
        send: Gets the answers of one request.
        limit: Images per request.
    """

    def __init__(self, send: Send, limit: ChunkLimit) -> None:
        self._send, self._limit = send, limit
        self._waiting: dict[tuple[asyncio.AbstractEventLoop, Form], list[_Call]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def ask(self, images: Images, form: Form, deadline: Deadline) -> Answer:
        """Return the answer, ``form.dtype[n, *form.shape]``.

        Raises:
            DiagonalFlipError: As ``send`` does.
        """
        loop = asyncio.get_running_loop()
        call = _Call(images, deadline, loop.create_future())
        waiting = self._waiting.get((loop, form))
        if waiting is None:
            self._waiting[loop, form] = waiting = [call]
            try:
                await asyncio.sleep(0)  # all others of this turn come in between
            except asyncio.CancelledError:
                waiting.remove(call)
                raise
            finally:
                del self._waiting[loop, form]
                if len(waiting) > 1 or call not in waiting:
                    self._begin_all(waiting, form)
            if len(waiting) == 1:
                return await self._send(images, form, deadline)
        else:
            waiting.append(call)
        try:
            return await call.answer
        except asyncio.CancelledError:
            call.leave()
            raise

    def _begin_all(self, calls: Sequence[_Call], form: Form) -> None:
        """Send calls in as few requests as the limit allows."""
        joined, count = list[_Call](), 0
        for call in calls:
            if joined and count + call.images.count > self._limit.images:
                self._begin(joined, form)
                joined, count = [], 0
            joined.append(call)
            count += call.images.count
        if joined:
            self._begin(joined, form)

    def _begin(self, calls: Sequence[_Call], form: Form) -> None:
        """Send calls as one request."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._answer(calls, form))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        request = _Request(task, len(calls))
        soon = max(call.deadline.end for call in calls) - SPREAD_S
        for call in calls:
            call.request = request
            if call.deadline.end < soon:
                loop.call_later(call.deadline.left_s(), _end, call)

    async def _answer(self, calls: Sequence[_Call], form: Form) -> None:
        """Give each call its part of one answer, or an exception of its own."""
        latest = max((call.deadline for call in calls), key=attrgetter("end"))
        try:
            answers = await self._send(join([call.images for call in calls]), form, latest)
        except DiagonalFlipError as error:
            for call in calls:
                if not call.answer.done():
                    call.answer.set_exception(copy.copy(error))
            return
        except BaseException:
            for call in calls:
                call.answer.cancel()
            raise
        done = 0
        for call in calls:
            count = call.images.count
            if not call.answer.done():
                call.answer.set_result(answers[done : done + count].copy())
            done += count


def _end(call: _Call) -> None:
    """End a call whose deadline has passed."""
    if not call.answer.done():
        call.answer.set_exception(call.deadline.exceeded())


def join(parts: Sequence[Images]) -> Images:
    """Return all images of several, in their order."""
    if all(part.count == 1 for part in parts):
        return pack(np.frombuffer(b"".join(part.packed for part in parts), np.uint8) >> 4)
    return pack(np.concatenate([unpack(part) for part in parts]))

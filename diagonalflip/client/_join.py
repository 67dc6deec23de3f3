"""Calls that are made in one turn of the event loop, sent as one request."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import numpy as np

from diagonalflip.client._chunks import ChunkLimit
from diagonalflip.client._deadline import LONGEST_WAIT_S, Deadline
from diagonalflip.client._endpoint import Form
from diagonalflip.client._sender import Answer
from diagonalflip.errors import DiagonalFlipError
from diagonalflip.wire import Images, pack, unpack

Send = Callable[[Images, Form, Deadline], Awaitable[Answer]]

SPREAD_S = 0.01
"""Difference of deadlines that nobody notices."""


class _Call(asyncio.Future[Answer]):
    """A call that waits for its answer.

    It is a future instead of having one: thousands are made at once, and a third of their time is
    what the garbage collector has to walk.
    """

    __slots__ = ("ends_at", "images", "request")

    def __init__(self, images: Images, deadline_s: float, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.images = images
        self.ends_at = time.monotonic() + deadline_s
        self.request: _Request | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Wait no longer; called when the task that waits is cancelled."""
        is_new = super().cancel(msg)
        if is_new and self.request is not None:
            self.request.leave()
        return is_new


class _Request:
    """Calls that travel together.

    Args:
        calls: At least one; all of the same form.
        deadline: Of the request.
    """

    def __init__(self, calls: Sequence[_Call], deadline: Deadline) -> None:
        self._calls, self._left, self._deadline = calls, len(calls), deadline

    def begin(self, send: Send, form: Form) -> None:
        """Send it; its calls and its timer keep it."""
        for call in self._calls:
            call.request = self
        self._task = asyncio.create_task(self._run(send, form))
        self._watch()

    def leave(self) -> None:
        """Count a call that waits no longer; without calls there is no request."""
        self._left -= 1
        if not self._left:
            self._task.cancel()

    def _watch(self) -> None:
        """End the calls whose deadline has passed, and do so again for the others."""
        now = time.monotonic()
        waiting = [call for call in self._calls if not call.done()]
        for call in waiting:
            if call.ends_at <= now:
                call.set_exception(self._deadline.exceeded())
                self.leave()
        if self._left:
            soonest_s = min(call.ends_at for call in waiting if not call.done()) - now
            wait_s = min(max(soonest_s, SPREAD_S), LONGEST_WAIT_S)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._watch)

    async def _run(self, send: Send, form: Form) -> None:
        """Give each call its part of one answer, or an exception of its own."""
        calls, parts = self._calls, [call.images for call in self._calls]
        try:
            answers = await send(join(parts), form, self._deadline)
        except DiagonalFlipError as error:
            for call in calls:
                if not call.done():
                    call.set_exception(copy.copy(error))
            return
        except BaseException:
            self._left = 0  # nobody is to cancel this once more
            for call in calls:
                call.cancel()
            raise
        finally:
            self._timer.cancel()
            self._calls = ()  # that know this request: a cycle
        for call, answer in zip(calls, shares(answers, parts), strict=True):
            if not call.done():
                call.set_result(answer)


class Joiner:
    """Joins calls of one turn and of the same form, up to the limit of a request.

    The request runs to the latest of the calls' deadlines, and each call ends at its own. It is
    cancelled when all of them are.

    Args:
        send: Gets the answers of one request.
        limit: Images per request.
        deadline_s: Of each call.
    """

    def __init__(self, send: Send, limit: ChunkLimit, deadline_s: float) -> None:
        self._send, self._limit, self._deadline_s = send, limit, deadline_s
        self._waiting: dict[tuple[asyncio.AbstractEventLoop, Form], list[_Call]] = {}

    def ask(self, images: Images, form: Form) -> Awaitable[Answer]:
        """Return the answer, ``form.dtype[n, *form.shape]``.

        Raises:
            DiagonalFlipError: As ``send`` does.
        """
        loop = asyncio.get_running_loop()
        waiting = self._waiting.get((loop, form))
        if waiting is None:
            return self._ask_first(images, form, loop)
        call = _Call(images, self._deadline_s, loop)
        waiting.append(call)
        return call

    async def _ask_first(
        self, images: Images, form: Form, loop: asyncio.AbstractEventLoop
    ) -> Answer:
        """Let the others of this turn come in, then send all of them."""
        key = loop, form
        call = _Call(images, self._deadline_s, loop)
        self._waiting[key] = waiting = [call]
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            del self._waiting[key]
            if len(waiting) > 1:
                self._begin_all(waiting, form)
        if call.request is None:
            return await self._send(images, form, Deadline(self._deadline_s))
        return await call

    def _begin_all(self, calls: Sequence[_Call], form: Form) -> None:
        """Send calls in as few requests as the limit allows."""
        joined, count = list[_Call](), 0
        for call in calls:
            if call.done():
                continue
            if joined and count + call.images.count > self._limit.images:
                self._begin(joined, form)
                joined, count = [], 0
            joined.append(call)
            count += call.images.count
        if joined:
            self._begin(joined, form)

    def _begin(self, calls: Sequence[_Call], form: Form) -> None:
        request = _Request(calls, Deadline(self._deadline_s))
        request.begin(self._send, form)


def shares(answers: Answer, parts: Sequence[Images]) -> Iterator[Answer]:
    """Return each part's share of the answer to all of them, in memory of its own."""
    done = 0
    for part in parts:
        yield answers[done : done + part.count].copy()
        done += part.count


def join(parts: Sequence[Images]) -> Images:
    """Return all images of several, in their order."""
    if all(part.count == 1 for part in parts):
        return pack(np.frombuffer(b"".join(part.packed for part in parts), np.uint8) >> 4)
    return pack(np.concatenate([unpack(part) for part in parts]))

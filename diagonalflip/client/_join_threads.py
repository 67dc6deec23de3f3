"""Calls of several threads, sent as one request while enough requests are in flight."""

from __future__ import annotations

import copy
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter

from diagonalflip.client._chunks import ChunkLimit
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import Form
from diagonalflip.client._join import join, shares
from diagonalflip.client._sender import Answer, begin
from diagonalflip.wire import Images

Send = Callable[[Images, Form, Deadline], Answer]

MOST_IMAGES = 1_024
"""Of a call that is joined: to copy more takes longer than a request of its own."""


_MAKING = threading.Lock()


class _Call:
    """A call whose thread waits for the answer."""

    __slots__ = ("answer", "deadline", "form", "images")

    def __init__(self, images: Images, form: Form, deadline: Deadline) -> None:
        self.images, self.form, self.deadline = images, form, deadline
        self.answer = Future[Answer]()


class ThreadJoiner:
    """Sends calls at once while few requests are in flight, and joins those that come meanwhile.

    A request runs to the latest of its calls' deadlines, and each call ends at its own.

    Args:
        send: Gets the answers of one request.
        limit: Images per request.
        most: Requests in flight at once.
    """

    def __init__(self, send: Send, limit: ChunkLimit, most: int) -> None:
        self._send, self._limit, self._most = send, limit, most
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Count from 0 in a new process: after a fork the threads are the parent's."""
        self._lock = threading.Lock()
        self._in_flight, self._waiting = 0, deque[_Call]()
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="diagonalflip")
        self._process = os.getpid()

    def close(self) -> None:
        """End the threads, as soon as they have nothing to do."""
        self._pool.shutdown(wait=False)

    def ask(self, images: Images, form: Form, deadline: Deadline) -> Answer:
        """Return the answer, ``form.dtype[n, *form.shape]``.

        Raises:
            DiagonalFlipError: As ``send`` does.
        """
        if self._process != os.getpid():
            with _MAKING:
                if self._process != os.getpid():
                    self._begin_anew()
        call = None
        with self._lock:
            if self._in_flight < self._most:
                self._in_flight += 1
            else:
                call = _Call(images, form, deadline)
                self._waiting.append(call)
        if call is not None:
            return _wait(call)
        try:
            return self._send(images, form, deadline)
        finally:
            self._go_on()

    def _go_on(self) -> None:
        """Send what has come together, now that a request less is in flight."""
        with self._lock:
            calls = self._take()
            if not calls:
                self._in_flight -= 1
        if calls:
            begin(self._pool, self._run, calls)

    def _take(self) -> Sequence[_Call]:
        """Return the longest waiting calls that can travel together."""
        calls, count = list[_Call](), 0
        while self._waiting:
            call = self._waiting[0]
            is_full = count + call.images.count > self._limit.images
            if calls and (is_full or call.form is not calls[0].form):
                break
            self._waiting.popleft()
            if call.answer.set_running_or_notify_cancel():
                calls.append(call)
                count += call.images.count
        return calls

    def _run(self, calls: Sequence[_Call]) -> None:
        """Give each call its part of one answer, or an exception of its own."""
        parts = [call.images for call in calls]
        try:
            latest = max((call.deadline for call in calls), key=attrgetter("end"))
            answers = self._send(join(parts), calls[0].form, latest)
        except BaseException as error:
            for call in calls:
                call.answer.set_exception(copy.copy(error))
        else:
            for call, answer in zip(calls, shares(answers, parts), strict=True):
                call.answer.set_result(answer)
        finally:
            self._go_on()


def _wait(call: _Call) -> Answer:
    """Return the answer; after a deadline, or Ctrl-C, nothing is sent any more for this call."""
    try:
        return call.answer.result(call.deadline.check())
    except TimeoutError:
        raise call.deadline.exceeded() from None
    finally:
        call.answer.cancel()

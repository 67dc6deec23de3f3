"""Chunks on their way: sent again where that helps, cut smaller if told so, kept in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip.client import _answers
from diagonalflip.client._answers import ServerInfo
from diagonalflip.client._chunks import ChunkLimit, split
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import DESCRIPTION, NO_IMAGES, Form, Reply
from diagonalflip.client._retry import retrying
from diagonalflip.client._transport import Transport
from diagonalflip.errors import TooManyImages
from diagonalflip.wire import Images

Answer = npt.NDArray[Any]
"""``form.dtype[n, *form.shape]``"""


class Sender:
    """Gets answers for images, however many; any number of threads.

    Args:
        transport: Sends single requests.
        limit: Images per request.
        connections: Chunks of one job in flight at once.
    """

    def __init__(self, transport: Transport, limit: ChunkLimit, connections: int) -> None:
        self._transport = transport
        self._limit = limit
        self._connections = connections
        self._has_answered = False

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def collect(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> Answer:
        """The answers of all images as one array, ``out`` if there is one, within one deadline."""
        if images.count <= self._limit.images:
            answer = self.answer(images, form, deadline, out)
            return answer if out is None else out
        answers = np.empty((images.count, *form.shape), form.dtype) if out is None else out
        size = max(1, self._limit.images // 2)
        starts = iter(range(0, len(images.packed), size))
        packed, taking = memoryview(images.packed), threading.Lock()
        failures: list[BaseException] = []

        def work() -> None:
            while True:
                with taking:
                    start = next(starts, None)
                if start is None or deadline.left_s() <= 0:
                    return
                first, last = 2 * start, min(2 * (start + size), images.count)
                chunk = Images(bytes(packed[start : start + size]), last - first)
                try:
                    self.answer(chunk, form, deadline, answers[first:last])
                except BaseException as error:
                    failures.append(error)
                    deadline.cancel()  # the others end too
                    return

        pool = ThreadPoolExecutor(self._connections, thread_name_prefix="diagonalflip")
        try:
            for worker in [begin(pool, work) for _ in range(self._connections)]:
                worker.result()
        except BaseException:  # Ctrl-C
            deadline.cancel()
            raise
        finally:
            pool.shutdown()
        if failures:
            raise failures[0]
        deadline.check()
        return answers

    def stream(
        self,
        cut: Iterator[Images],
        form: Form,
        deadline: Deadline,
        next_deadline: Callable[[], Deadline],
    ) -> Generator[Answer, None, None]:
        """Answers of chunks, in order; at most twice ``connections`` are held at once.

        Args:
            cut: The chunks.
            form: Of the answers.
            deadline: Is cancelled when the caller takes no more answers.
            next_deadline: A chunk's deadline, when it is queued; cancelled with ``deadline``.
        """
        window: deque[Future[Answer]] = deque()
        pool = ThreadPoolExecutor(self._connections, thread_name_prefix="diagonalflip")
        try:
            for images in cut:
                window.append(begin(pool, self.answer, images, form, next_deadline()))
                while window and (window[0].done() or len(window) >= 2 * self._connections):
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            deadline.cancel()
            pool.shutdown(cancel_futures=True)

    def exchange(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> tuple[Reply, Answer]:
        """One request, sent again where that helps."""
        once = partial(self.once, images, form, deadline, out)
        return retrying(once, deadline, lambda: self._has_answered)

    def once(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> tuple[Reply, Answer]:
        """One request, sent once; the answer is in ``out`` if there is such an array."""
        into = None
        if form.is_plain and images.count:
            into = np.empty((images.count, *form.shape), form.dtype) if out is None else out
        reply = self._transport.exchange(images, form, deadline, into)
        self._has_answered = True
        answer = _answers.read(reply, images.count, form)
        if out is not None and into is None:
            out[...] = answer
        return reply, answer

    def info(self, deadline: Deadline) -> ServerInfo:
        """Return the description of the server."""

        def once() -> ServerInfo:
            return _answers.info(self._transport.exchange(NO_IMAGES, DESCRIPTION, deadline))

        return retrying(once, deadline, lambda: self._has_answered)

    def answer(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> Answer:
        """The answers of one chunk, in several requests if the server takes no such many."""
        if images.count <= self._limit.images:
            try:
                return self.exchange(images, form, deadline, out)[1]
            except TooManyImages as error:
                self._limit.lower(error.limit)
        answers = np.empty((images.count, *form.shape), form.dtype) if out is None else out
        done = 0
        for part in split(images, self._limit.images):
            self.answer(part, form, deadline, answers[done : done + part.count])
            done += part.count
        return answers


def begin(pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Begin work in a thread; at the interpreter's exit, where none starts, do it in this one."""
    try:
        return pool.submit(work, *arguments)
    except RuntimeError:
        done: Future[Any] = Future()
        done.set_result(work(*arguments))
        return done

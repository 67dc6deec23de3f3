"""Jobs: more images than one request carries, as chunks that threads send."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from threading import Event
from typing import Any, Self

import numpy as np

from diagonalflip.client._chunks import ChunkLimit
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import Form
from diagonalflip.client._sender import Answer, Sender, run
from diagonalflip.wire import Images


def threads(count: int) -> ThreadPoolExecutor:
    """Return threads of the client."""
    return ThreadPoolExecutor(count, thread_name_prefix="diagonalflip")


def begin(pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Begin work in a thread; at the interpreter's exit, where none starts, do it in this one."""
    try:
        return pool.submit(work, *arguments)
    except RuntimeError:
        done: Future[Any] = Future()
        done.set_result(work(*arguments))
        return done


class Jobs:
    """Gets answers for any number of images by a transport that blocks.

    Args:
        sender: Gets the answers of a chunk.
        limit: Images per chunk.
        connections: Chunks of one job in flight at once.
    """

    def __init__(self, sender: Sender, limit: ChunkLimit, connections: int) -> None:
        self._sender, self._limit, self.connections = sender, limit, connections

    def answer(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> Answer:
        """Return the answers of one chunk, which are in ``out`` if there is such an array."""
        return run(self._sender.answer(images, form, deadline, out))

    def collect(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> Answer:
        """Return the answers of all images as one array, ``out`` if there is one.

        Args:
            images: In any number.
            form: The answers'.
            deadline: For the whole job alone: it is cancelled at the end.
            out: Where to put the answers.
        """
        if images.count <= self._limit.images:
            return self.answer(images, form, deadline, out)
        answers = np.empty((images.count, *form.shape), form.dtype) if out is None else out
        size = max(1, self._limit.images // 2)
        packed, failed = memoryview(images.packed), Event()

        def work(start: int) -> None:
            if failed.is_set():
                return
            first, last = 2 * start, min(2 * (start + size), images.count)
            chunk = Images(bytes(packed[start : start + size]), last - first)
            try:
                self.answer(chunk, form, deadline, answers[first:last])
            except BaseException:
                failed.set()
                raise

        pool = threads(self.connections)
        try:
            begun = [begin(pool, work, start) for start in range(0, len(packed), size)]
            for chunk in as_completed(begun):
                chunk.result()
        finally:
            deadline.cancel()  # after a failure, or Ctrl-C, the others end too
            pool.shutdown(cancel_futures=True)
        return answers


class Window:
    """Chunks of one job in flight; at most twice ``connections``, and their answers in order.

    Args:
        jobs: Gets the answers.
        form: The answers'.
        deadline: For each chunk, from when it was added; at the end, all are cancelled.
    """

    def __init__(self, jobs: Jobs, form: Form, deadline: Deadline) -> None:
        self._jobs, self._form, self._deadline = jobs, form, deadline
        self._begun = deque[Future[Answer]]()
        self._pool = threads(jobs.connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._pool.shutdown()

    def cancel(self) -> None:
        """End what is still in flight, soon."""
        self._deadline.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def add(self, images: Images) -> Iterator[Future[Answer]]:
        """Begin a chunk; yield what is to be taken before the next one."""
        deadline = self._deadline.restarted()
        self._begun.append(begin(self._pool, self._jobs.answer, images, self._form, deadline))
        full = 2 * self._jobs.connections
        while self._begun and (self._begun[0].done() or len(self._begun) >= full):
            yield self._begun.popleft()

    def rest(self) -> Iterator[Future[Answer]]:
        """Yield what is left after the last chunk."""
        while self._begun:
            yield self._begun.popleft()

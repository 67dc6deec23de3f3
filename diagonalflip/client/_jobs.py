"""Jobs: more images than one request may have, sent in chunks by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, Self

import numpy as np

from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import Form
from diagonalflip.client._sender import Answer
from diagonalflip.client._transport import Transport
from diagonalflip.wire import Images


def threads(count: int) -> ThreadPoolExecutor:
    """Return a pool of threads for the client."""
    return ThreadPoolExecutor(count, thread_name_prefix="diagonalflip")


def begin(pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Start work in a thread; in this one if none can start, as at the interpreter's exit."""
    job = _Job(work)
    try:
        return pool.submit(job, *arguments)
    except RuntimeError:  # the pool may have queued it nevertheless, for a thread that starts later
        done: Future[Any] = Future()
        done.set_result(job(*arguments))
        return done


class _Job:
    """Work that is done once, by whoever calls this first."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = [work]

    def __call__(self, *arguments: Any) -> Any:
        """Do the work, unless it was begun already."""
        try:
            work = self._work.pop()
        except IndexError:
            return None
        return work(*arguments)


def collect(
    transport: Transport, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
) -> Answer:
    """Return the answers for any number of images as one array, ``out`` if given.

    The deadline must belong to this job only: it is cancelled at the end.
    """
    limit = transport.endpoint.limit.images
    if images.count <= limit:
        return transport.ask(images, form, deadline, out)
    answers = np.empty((images.count, *form.shape), form.dtype) if out is None else out
    packed, size = memoryview(images.packed), max(1, limit // 2)
    starts = range(0, len(packed), size)
    left = iter(starts)

    def work() -> None:
        for start in left:  # the threads share this iterator
            first, last = 2 * start, min(2 * (start + size), images.count)
            chunk = Images(bytes(packed[start : start + size]), last - first)
            transport.ask(chunk, form, deadline, answers[first:last])

    pool = threads(transport.connections)
    try:
        begun = [begin(pool, work) for _ in starts[: transport.connections]]
        for finished in as_completed(begun):
            finished.result()
    finally:
        deadline.cancel()  # after a failure or Ctrl-C, the other threads end, too
        pool.shutdown(cancel_futures=True)
    return answers


class Window:
    """Chunks of one job in flight, at most twice ``connections``; their answers come in order.

    Args:
        transport: Gets the answers.
        form: Form of the answers.
        deadline: For each chunk, from when it is added; cancelled at the end.
    """

    def __init__(self, transport: Transport, form: Form, deadline: Deadline) -> None:
        self._transport, self._form, self._deadline = transport, form, deadline
        self._begun = deque[Future[Answer]]()
        self._pool = threads(transport.connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._pool.shutdown()

    def cancel(self) -> None:
        """End the requests that are still in flight."""
        self._deadline.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def add(self, images: Images) -> Iterator[Future[Answer]]:
        """Start a chunk; yield the answers to take before adding the next one."""
        deadline = self._deadline.restarted()
        self._begun.append(begin(self._pool, self._transport.ask, images, self._form, deadline))
        full = 2 * self._transport.connections
        while self._begun and (self._begun[0].done() or len(self._begun) >= full):
            yield self._begun.popleft()

    def rest(self) -> Iterator[Future[Answer]]:
        """Yield the answers that are left after the last chunk."""
        while self._begun:
            yield self._begun.popleft()

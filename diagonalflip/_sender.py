"""Chunks on their way: sent again where that helps, cut smaller if told so, kept in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip import _answers
from diagonalflip._answers import ServerInfo
from diagonalflip._chunks import ChunkLimit, chunks, split
from diagonalflip._deadline import Deadline
from diagonalflip._endpoint import DESCRIPTION, NO_IMAGES, Form, Reply
from diagonalflip._retry import retrying
from diagonalflip._transport import Transport
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

    def collect(self, images: Images, form: Form, deadline: Deadline) -> Answer:
        """The answers of all images as one array, within one deadline."""
        if images.count <= self._limit.images:
            return self._answer(images, form, deadline)
        answers = np.empty((images.count, *form.shape), form.dtype)
        done = 0
        cut = chunks(iter([images.packed]), self._limit, images.count)
        with closing(self.stream(cut, form, deadline, lambda: deadline)) as stream:
            for answer in stream:
                answers[done : done + len(answer)] = answer
                done += len(answer)
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
                window.append(self._begin(pool, images, form, next_deadline()))
                while window and (window[0].done() or len(window) >= 2 * self._connections):
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            deadline.cancel()
            pool.shutdown(cancel_futures=True)

    def _begin(
        self, pool: ThreadPoolExecutor, images: Images, form: Form, deadline: Deadline
    ) -> Future[Answer]:
        """Ask for a chunk in a thread; in this one at the interpreter's exit, where none starts."""
        try:
            return pool.submit(self._answer, images, form, deadline)
        except RuntimeError:
            answered: Future[Answer] = Future()
            answered.set_result(self._answer(images, form, deadline))
            return answered

    def exchange(self, images: Images, form: Form, deadline: Deadline) -> tuple[Reply, Answer]:
        """One request, sent again where that helps."""
        attempts = retrying(deadline, lambda: self._has_answered)
        return attempts(self.once, images, form, deadline)

    def once(self, images: Images, form: Form, deadline: Deadline) -> tuple[Reply, Answer]:
        """One request, sent once."""
        reply = self._transport.exchange(images, form, deadline)
        self._has_answered = True
        return reply, _answers.read(reply, images.count, form)

    def info(self, deadline: Deadline) -> ServerInfo:
        """Return the description of the server."""

        def once() -> ServerInfo:
            return _answers.info(self._transport.exchange(NO_IMAGES, DESCRIPTION, deadline))

        return retrying(deadline, lambda: self._has_answered)(once)

    def _answer(self, images: Images, form: Form, deadline: Deadline) -> Answer:
        """The answers of one chunk, in several requests if the server takes no such many."""
        if images.count <= self._limit.images:
            try:
                return self.exchange(images, form, deadline)[1]
            except TooManyImages as error:
                self._limit.lower(error.limit)
        parts = split(images, self._limit.images)
        return np.concatenate([self._answer(part, form, deadline) for part in parts])

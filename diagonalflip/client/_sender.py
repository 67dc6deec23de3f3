"""One chunk of work: sent, sent again if that helps, cut smaller if necessary, and checked.

Both clients use this, with different transports. The coroutines here wait only for the transport.
If the transport blocks instead, ``run`` runs them without an event loop.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from diagonalflip.client import _answers
from diagonalflip.client._answers import ServerInfo
from diagonalflip.client._chunks import split
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import DESCRIPTION, NO_IMAGES, PREDICTIONS, Endpoint, Form, Reply
from diagonalflip.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    DiagonalFlipError,
    InvalidAnswer,
    ModelNotFound,
    TooManyImages,
)
from diagonalflip.wire import Images, pack

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

STRANGERS_ATTEMPTS = 6
"""Attempts to connect to a server that has never answered: its address may be wrong."""

PROBE_S = 5.0
"""Longest wait for one answer while the server is starting."""

Answer = npt.NDArray[Any]
"""``form.dtype[n, *form.shape]``"""

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    raise AssertionError("a transport that blocks has waited")


class Sender(ABC):
    """Gets answers from a server on kept connections, for any number of threads or tasks."""

    def __init__(self, endpoint: Endpoint, connections: int = 1) -> None:
        self.endpoint, self.connections = endpoint, connections
        self._closed = self._has_answered = False

    @abstractmethod
    async def _exchange(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None, /
    ) -> Reply:
        """Send one request and read the whole answer, of any status; possibly into ``out``.

        Raises:
            ConnectionFailed: The connection failed before the answer was complete.
            DeadlineExceeded: The deadline passed before the answer was complete.
            ClientError: The request cannot be sent (TLS, or a malformed URL or header), or the
                client is closed.
        """

    @abstractmethod
    async def _sleep(self, seconds: float, deadline: Deadline, /) -> None:
        """Sleep, but not past the deadline."""

    async def answer(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> Answer:
        """Return the answers for one chunk, in ``out`` if given.

        If the server rejects so many images, they are sent in several requests.
        """
        limit = self.endpoint.limit
        if images.count <= limit.images:
            try:
                return await self._repeated(
                    lambda: self._once(images, form, deadline, out), deadline
                )
            except TooManyImages as error:
                limit.lower(error.limit)
        answers = np.empty((images.count, *form.shape), form.dtype) if out is None else out
        done = 0
        for part in split(images, limit.images):
            await self.answer(part, form, deadline, answers[done : done + part.count])
            done += part.count
        return answers

    async def info(self, deadline: Deadline) -> ServerInfo:
        """Return the description of the server."""

        async def once() -> ServerInfo:
            return _answers.info(await self._reply(NO_IMAGES, DESCRIPTION, deadline))

        return await self._repeated(once, deadline)

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the server predicts all 16 images, the same alone and together.

        Raises:
            DeadlineExceeded: It did not in time; the error says how the last check failed.
            InvalidAnswer: It answers, but wrongly.
        """
        deadline = Deadline(timeout_s)
        failure: DiagonalFlipError | None = None
        while True:
            try:
                await self._check_all_16(deadline)
            except DiagonalFlipError as error:
                is_starting = isinstance(error, DeadlineExceeded | ModelNotFound)
                if not (is_starting or error.retryable):
                    raise
                if failure is None or deadline.left_s() > 0:
                    failure = error  # otherwise the check was cut short, which says nothing
                pause_s = random.uniform(0.05, 0.25)  # noqa: S311
                if pause_s >= deadline.left_s():
                    raise DeadlineExceeded(
                        f"no correct prediction in {timeout_s:g} s",
                        "one",
                        f"the last error was: {failure}",
                    ) from error
            else:
                return
            await self._sleep(pause_s, deadline)

    async def _check_all_16(self, deadline: Deadline) -> None:
        def probe() -> Deadline:
            return Deadline(min(PROBE_S, deadline.check()))

        together = await self._once(pack(range(16)), PREDICTIONS, probe())
        # With retries: a token may be allowed fewer requests per second.
        alone = [await self.answer(pack([n]), PREDICTIONS, probe()) for n in range(16)]
        _answers.check_all_16(together, alone)

    async def _once(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> Answer:
        """Return the answer to one request, sent once."""
        reply = await self._reply(images, form, deadline, out)
        answer = _answers.read(reply, images.count, form)
        if out is None:
            return answer
        if not np.may_share_memory(answer, out):
            out[...] = answer
        return out

    async def _reply(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> Reply:
        reply = await self._exchange(images, form, deadline, out)
        self._has_answered = True
        version, wanted = reply.headers.get("Flip-Model-Version"), self.endpoint.version
        if wanted not in (None, version) and reply.status == 200:
            raise InvalidAnswer(f"version {version} answered", f"version {wanted}")
        return reply

    async def _repeated(self, once: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        """Call a function until it succeeds; raise its error if another attempt cannot help.

        A pause is as long as ``Retry-After`` says plus a random part, so that not all clients come
        back at once. There is no attempt after the deadline.
        """
        attempts, longest_s = 0, FIRST_PAUSE_S
        while True:
            try:
                return await once()
            except DiagonalFlipError as error:
                attempts += 1
                is_lost = isinstance(error, ConnectionFailed) and not self._has_answered
                if not error.retryable or (is_lost and attempts >= STRANGERS_ATTEMPTS):
                    raise
                pause_s = getattr(error, "retry_after_s", 0.0) + random.uniform(0, longest_s)  # noqa: S311
                if pause_s >= deadline.left_s():
                    raise
                deadline.failure = error
            longest_s = min(2 * longest_s, LONGEST_PAUSE_S)
            await self._sleep(pause_s, deadline)

"""The client for asyncio, on aiohttp (extra ``aio``): many small requests in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt

from diagonalflip.client import _answers, _files
from diagonalflip.client._aio_transport import AsyncTransport
from diagonalflip.client._answers import ServerInfo
from diagonalflip.client._chunks import ChunkLimit, chunks_async
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import (
    DESCRIPTION,
    FLIPS,
    NO_IMAGES,
    PREDICTIONS,
    Copied,
    Endpoint,
    Form,
    Reply,
    check_positive,
)
from diagonalflip.client._files import Destination, Source
from diagonalflip.client._images import ImagesLike, Packed, packed_images, to_images
from diagonalflip.client._join import Joiner
from diagonalflip.client._retry import retrying_async, until_ready_async
from diagonalflip.client._sender import Answer, Sender, begin
from diagonalflip.client._transport import Transport
from diagonalflip.errors import TooManyImages
from diagonalflip.wire import MODEL, Images, pack

__all__ = ["AsyncClient"]

Pieces = Iterable[Packed] | AsyncIterable[Packed]
AsyncStream = AsyncGenerator[Answer, None]

JOB_CONNECTIONS = 4
"""As many as ``Client`` has: more do not make a job faster."""


class AsyncClient(Copied):
    """``diagonalflip.Client`` with coroutines: the same arguments, operations and errors.

    Args:
        url, model, version, deadline_s, token, verify, cert, model_digest, images_per_request: As
            ``Client``'s.
        connections: Of all calls together, and so requests in flight; others queue. A job, which
            is a call of more images than one request carries, has four of its own at most.
        join_calls: Whether calls of one turn of the event loop travel in one request. A token's
            rate counts requests.
    """

    def __init__(  # noqa: PLR0913 - settings, by keyword
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        model: str = MODEL,
        version: str | None = None,
        deadline_s: float = 60.0,
        connections: int = 32,
        token: str | None = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        model_digest: str | None = None,
        images_per_request: int = 131_072,
        join_calls: bool = True,
    ) -> None:
        check_positive(
            deadline_s=deadline_s, connections=connections, images_per_request=images_per_request
        )
        endpoint = Endpoint(url, model, token, model_digest, version)
        self._transport = AsyncTransport(endpoint, verify, cert, connections)
        self._limit = ChunkLimit(images_per_request)
        threads = min(connections, JOB_CONNECTIONS)
        self._sender = Sender(Transport(endpoint, verify, cert, threads), self._limit, threads)
        self._joiner = Joiner(self._answer, self._limit, deadline_s)
        self._joins = join_calls
        self._deadline_s = deadline_s
        self._connections = connections
        self._has_answered = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections, and ends calls that run with ``ClientError``."""
        await self._transport.close()
        self._sender.close()

    async def predict(self, images: ImagesLike) -> npt.NDArray[np.float32]:
        """Predictions, ``float32[n, 4]``; see ``Client.predict``."""
        return await self._collect(to_images(images), PREDICTIONS)

    async def predict_packed(
        self, packed: Packed, count: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Predictions, ``float32[count, 4]``; see ``Client.predict_packed``."""
        return await self._collect(packed_images(packed, count), PREDICTIONS)

    async def flip(self, images: ImagesLike) -> npt.NDArray[np.uint8]:
        """The images flipped, ``uint8[n, 2, 2]``; see ``Client.flip``."""
        return await self._collect(to_images(images), FLIPS)

    def predict_chunks(
        self, pieces: Pieces, *, count: int | None = None
    ) -> AsyncGenerator[npt.NDArray[np.float32], None]:
        """Predictions, ``float32[m, 4]`` each, in order; see ``Client.predict_chunks``."""
        return self._stream(pieces, PREDICTIONS, count)

    async def predict_file(
        self,
        source: Source,
        destination: Destination,
        *,
        count: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Number of images predicted; see ``Client.predict_file``."""
        done = 0
        with (
            _files.reading(source) as images,
            _files.writing(destination) as output,
            ThreadPoolExecutor(1, thread_name_prefix="diagonalflip") as pool,
        ):
            answers = self.predict_chunks(_files.pieces(images), count=count)
            async with aclosing(answers):
                async for predictions in answers:
                    await asyncio.wrap_future(begin(pool, _files.write, output, predictions))
                    done += len(predictions)
                    if progress is not None:
                        progress(done)
        return done

    async def info(self) -> ServerInfo:
        """Return the server's model, device, workers and limits."""
        deadline = Deadline(self._deadline_s)

        async def once() -> ServerInfo:
            reply = await self._transport.exchange(NO_IMAGES, DESCRIPTION, deadline)
            return _answers.info(reply)

        async with self._transport.call():
            return await retrying_async(once, deadline, lambda: self._has_answered)

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Waits for a correct prediction of all 16 images; see ``Client.wait_until_ready``."""

        async def check(deadline: Deadline) -> None:
            async def one(images: Images) -> Answer:
                return (await self._once(images, PREDICTIONS, deadline))[1]

            together = await one(pack(range(16)))
            _answers.check_all_16(together, [await one(pack([n])) for n in range(16)])

        async with self._transport.call():
            await until_ready_async(check, timeout_s)

    def _collect(self, images: Images, form: Form) -> Awaitable[Answer]:
        if self._joins and images.count <= self._limit.images:
            return self._joiner.ask(images, form)
        deadline = Deadline(self._deadline_s)
        if images.count <= self._limit.images:
            return self._answer(images, form, deadline)
        return self._in_threads(self._sender.collect, images, form, deadline)

    async def _stream(self, pieces: Pieces, form: Form, count: int | None) -> AsyncStream:
        """Answers of chunks, in order, by threads: asyncio's streams are slow for large answers."""
        deadline, threads = Deadline(self._deadline_s), min(self._connections, JOB_CONNECTIONS)
        window: deque[asyncio.Future[Answer]] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="diagonalflip")
        try:
            async with aclosing(chunks_async(pieces, self._limit, count)) as chunks:
                async for images in chunks:
                    work = begin(pool, self._sender.answer, images, form, deadline.restarted())
                    window.append(asyncio.wrap_future(work))
                    while window and (window[0].done() or len(window) >= 2 * threads):
                        yield await self._answered(window.popleft())
            while window:
                yield await self._answered(window.popleft())
        finally:
            deadline.cancel()
            await asyncio.gather(*window, return_exceptions=True)
            pool.shutdown(wait=False)

    async def _answered(self, answer: asyncio.Future[Answer]) -> Answer:
        async with self._transport.call():
            return await answer

    async def _in_threads(
        self,
        work: Callable[[Images, Form, Deadline], Answer],
        images: Images,
        form: Form,
        deadline: Deadline,
    ) -> Answer:
        """Do a job in threads; if it is cancelled, they end soon."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="diagonalflip")
        try:
            async with self._transport.call():
                answer: Answer = await asyncio.wrap_future(
                    begin(pool, work, images, form, deadline)
                )
                return answer
        except BaseException:
            deadline.cancel()
            raise
        finally:
            pool.shutdown(wait=False)

    async def _answer(self, images: Images, form: Form, deadline: Deadline) -> Answer:
        """The answers of one request, or of several if the server takes no such many."""
        try:
            return (await self._exchange(images, form, deadline))[1]
        except TooManyImages as error:
            self._limit.lower(error.limit)
        return await self._in_threads(self._sender.answer, images, form, deadline)

    async def _exchange(
        self, images: Images, form: Form, deadline: Deadline
    ) -> tuple[Reply, Answer]:
        """One request, sent again where that helps."""
        async with self._transport.call():
            once = partial(self._once, images, form, deadline)
            return await retrying_async(once, deadline, lambda: self._has_answered)

    async def _once(self, images: Images, form: Form, deadline: Deadline) -> tuple[Reply, Answer]:
        reply = await self._transport.exchange(images, form, deadline)
        self._has_answered = True
        return reply, _answers.read(reply, images.count, form)

"""The client for asyncio, with aiohttp (extra ``aio``): many small requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from diagonalflip.client import _files
from diagonalflip.client._aio_transport import AsyncTransport
from diagonalflip.client._answers import ServerInfo
from diagonalflip.client._chunks import chunks_async
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import FLIPS, PREDICTIONS, Copied, Endpoint, Form, check_positive
from diagonalflip.client._files import Destination, Source
from diagonalflip.client._images import ImagesLike, Packed, packed_images, to_images
from diagonalflip.client._jobs import Window, begin, collect, threads
from diagonalflip.client._join import AsyncJoiner
from diagonalflip.client._sender import Answer
from diagonalflip.client._transport import Transport
from diagonalflip.wire import MODEL, Images

__all__ = ["AsyncClient"]

JOB_CONNECTIONS = 4
"""As many as ``Client`` has; more do not make a job faster."""


class AsyncClient(Copied):
    """``diagonalflip.Client`` with coroutines: the same arguments, operations and errors.

    Args:
        url, model, version, deadline_s, token, verify, cert, model_digest, images_per_request: As
            ``Client``'s.
        connections: For all calls together, and so requests in flight; further calls wait. A job,
            which is a call with more images than a request may have, uses up to four others.
        join_calls: Whether calls of one turn of the event loop are joined to one request. A
            token's rate counts requests.
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
        endpoint = Endpoint(
            url, model, token, model_digest, version, verify, cert, images_per_request
        )
        self._limit = endpoint.limit
        self._transport = AsyncTransport(endpoint, connections)
        self._blocking = Transport(endpoint, min(connections, JOB_CONNECTIONS))
        self._joiner = AsyncJoiner(self._transport.answer, self._limit, deadline_s)
        self._joins, self._deadline_s = join_calls, deadline_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls that are running raise ``ClientError``."""
        await self._transport.close()
        self._blocking.close()

    async def predict(self, images: ImagesLike) -> npt.NDArray[np.float32]:
        """Return predictions, ``float32[n, 4]``; see ``Client.predict``."""
        return await self._collect(to_images(images), PREDICTIONS)

    async def predict_packed(
        self, packed: Packed, count: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return predictions, ``float32[count, 4]``; see ``Client.predict_packed``."""
        return await self._collect(packed_images(packed, count), PREDICTIONS)

    async def flip(self, images: ImagesLike) -> npt.NDArray[np.uint8]:
        """Return the images flipped, ``uint8[n, 2, 2]``; see ``Client.flip``."""
        return await self._collect(to_images(images), FLIPS)

    async def predict_chunks(
        self, pieces: Iterable[Packed] | AsyncIterable[Packed], *, count: int | None = None
    ) -> AsyncGenerator[npt.NDArray[np.float32], None]:
        """Yield predictions, ``float32[m, 4]`` each, in order; see ``Client.predict_chunks``.

        Threads receive them: asyncio's streams are slow for large answers.
        """
        window = Window(self._blocking, PREDICTIONS, Deadline(self._deadline_s))
        try:
            async with aclosing(chunks_async(pieces, self._limit, count)) as chunks:
                async for images in chunks:
                    for answer in window.add(images):
                        yield await self._answered(answer)
            for answer in window.rest():
                yield await self._answered(answer)
        finally:
            window.cancel()
            rest = map(asyncio.wrap_future, window.rest())
            await asyncio.gather(*rest, return_exceptions=True)

    async def predict_file(
        self,
        source: Source,
        destination: Destination,
        *,
        count: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Return the number of images predicted; see ``Client.predict_file``."""
        done = 0
        with _files.reading(source) as images, _files.writing(destination) as output:
            async with (
                _thread() as pool,
                aclosing(_pieces(images, pool)) as pieces,
                aclosing(self.predict_chunks(pieces, count=count)) as answers,
            ):
                async for predictions in answers:
                    await asyncio.wrap_future(begin(pool, _files.write, output, predictions))
                    done += len(predictions)
                    if progress is not None:
                        progress(done)
        return done

    async def info(self) -> ServerInfo:
        """Return the server's model, device, workers and limits."""
        return await self._transport.info(Deadline(self._deadline_s))

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Wait for correct predictions of all 16 images; see ``Client.wait_until_ready``."""
        await self._transport.wait_until_ready(timeout_s)

    def _collect(self, images: Images, form: Form) -> Awaitable[Answer]:
        if images.count > self._limit.images:
            return self._job(images, form)
        if self._joins:
            return self._joiner.ask(images, form)
        return self._transport.answer(images, form, Deadline(self._deadline_s))

    async def _job(self, images: Images, form: Form) -> Answer:
        """Do a job in threads, which end soon if it is cancelled."""
        deadline, pool = Deadline(self._deadline_s), threads(1)
        try:
            job = begin(pool, collect, self._blocking, images, form, deadline)
            return await self._answered(job)
        finally:
            deadline.cancel()
            pool.shutdown(wait=False)

    async def _answered(self, answer: Future[Answer]) -> Answer:
        async with self._transport.waiting():
            return await asyncio.wrap_future(answer)


@asynccontextmanager
async def _thread() -> AsyncIterator[ThreadPoolExecutor]:
    """Yield a pool of one thread; at the end, wait for its work, while other tasks go on."""
    pool = threads(1)
    try:
        yield pool
    finally:
        try:
            await asyncio.wrap_future(begin(pool, int))  # behind everything else
        finally:
            pool.shutdown(wait=False)


async def _pieces(file: BinaryIO, pool: ThreadPoolExecutor) -> AsyncGenerator[bytes, None]:
    """Yield the rest of a file; a thread reads it, because a pipe may have no data for long."""
    rest = _files.pieces(file)
    while piece := await asyncio.wrap_future(begin(pool, next, rest, b"")):
        yield piece

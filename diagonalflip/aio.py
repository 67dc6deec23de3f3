"""The client for asyncio, on aiohttp (extra ``aio``): many small requests in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diagonalflip import _answers, _files
from diagonalflip._aio_transport import AsyncTransport
from diagonalflip._answers import ServerInfo
from diagonalflip._chunks import ChunkLimit, Rechunker, split
from diagonalflip._deadline import Deadline
from diagonalflip._endpoint import (
    DESCRIPTION,
    FLIPS,
    NO_IMAGES,
    PREDICTIONS,
    Endpoint,
    Form,
    Reply,
    check_positive,
)
from diagonalflip._files import Destination, Source
from diagonalflip._images import ImagesLike, Packed, packed_images, to_images
from diagonalflip._retry import retrying_async, until_ready_async
from diagonalflip._sender import Answer
from diagonalflip.errors import TooManyImages
from diagonalflip.wire import MODEL, Images, pack

__all__ = ["AsyncClient"]

Pieces = Iterable[Packed] | AsyncIterable[Packed]


class AsyncClient:
    """``diagonalflip.Client`` with coroutines: the same arguments, operations and errors.

    Args:
        url, model, version, deadline_s, token, verify, cert, model_digest, images_per_request: As
            ``Client``'s.
        connections: Of all calls together, and so requests in flight; others queue.
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
        images_per_request: int = 65536,
    ) -> None:
        self._settings = {
            "url": url,
            "model": model,
            "version": version,
            "deadline_s": deadline_s,
            "connections": connections,
            "token": token,
            "verify": verify,
            "cert": cert,
            "model_digest": model_digest,
            "images_per_request": images_per_request,
        }
        check_positive(
            deadline_s=deadline_s, connections=connections, images_per_request=images_per_request
        )
        endpoint = Endpoint(url, model, token, model_digest, version)
        self._transport = AsyncTransport(endpoint, verify, cert, connections)
        self._limit = ChunkLimit(images_per_request)
        self._deadline_s = deadline_s
        self._connections = connections
        self._has_answered = False

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings, the token among them: a copy has connections of its own."""
        return self._settings

    def __setstate__(self, settings: dict[str, Any]) -> None:
        AsyncClient.__init__(self, **settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections, and ends calls that run with ``ClientError``."""
        await self._transport.close()

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
        return self._stream(pieces, PREDICTIONS, count, lambda: Deadline(self._deadline_s))

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
        with _files.reading(source) as images, _files.writing(destination) as output:
            answers = self.predict_chunks(_files.pieces(images), count=count)
            async with aclosing(answers):
                async for predictions in answers:
                    await _in_a_thread(_files.write, output, predictions)
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
            return await retrying_async(deadline, lambda: self._has_answered)(once)

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Waits for a correct prediction of all 16 images; see ``Client.wait_until_ready``."""

        async def check(patience: Deadline) -> None:
            async def one(images: Images) -> Answer:
                return (await self._once(images, PREDICTIONS, patience))[1]

            together = await one(pack(range(16)))
            _answers.check_all_16(together, [await one(pack([n])) for n in range(16)])

        async with self._transport.call():
            await until_ready_async(check, timeout_s)

    async def _collect(self, images: Images, form: Form) -> Answer:
        deadline = Deadline(self._deadline_s)
        if images.count <= self._limit.images:
            return await self._answer(images, form, deadline)
        answers = np.empty((images.count, *form.shape), form.dtype)
        done = 0
        stream = self._stream([images.packed], form, images.count, lambda: deadline)
        async with aclosing(stream):
            async for answer in stream:
                answers[done : done + len(answer)] = answer
                done += len(answer)
        return answers

    async def _stream(
        self,
        pieces: Pieces,
        form: Form,
        count: int | None,
        next_deadline: Callable[[], Deadline],
    ) -> AsyncGenerator[Answer, None]:
        window: deque[asyncio.Task[Answer]] = deque()
        try:
            async with aclosing(_cut(pieces, Rechunker(self._limit, count))) as chunks:
                async for images in chunks:
                    chunk = self._answer(images, form, next_deadline())
                    window.append(asyncio.create_task(chunk))
                    while window and (window[0].done() or len(window) >= self._connections):
                        yield await window.popleft()
            while window:
                yield await window.popleft()
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    async def _answer(self, images: Images, form: Form, deadline: Deadline) -> Answer:
        if images.count <= self._limit.images:
            try:
                return (await self._exchange(images, form, deadline))[1]
            except TooManyImages as error:
                self._limit.lower(error.limit)
        parts = split(images, self._limit.images)
        return np.concatenate([await self._answer(part, form, deadline) for part in parts])

    async def _exchange(
        self, images: Images, form: Form, deadline: Deadline
    ) -> tuple[Reply, Answer]:
        attempts = retrying_async(deadline, lambda: self._has_answered)
        async with self._transport.call():
            return await attempts(self._once, images, form, deadline)

    async def _once(self, images: Images, form: Form, deadline: Deadline) -> tuple[Reply, Answer]:
        reply = await self._transport.exchange(images, form, deadline)
        self._has_answered = True
        return reply, _answers.read(reply, images.count, form)


async def _in_a_thread(work: Callable[..., None], *arguments: Any) -> None:
    """Run what may take long in a thread; at the interpreter's exit, where none starts, here."""
    try:
        await asyncio.to_thread(work, *arguments)
    except RuntimeError:
        work(*arguments)


async def _cut(pieces: Pieces, rechunker: Rechunker) -> AsyncGenerator[Images, None]:
    async for piece in _each(pieces):
        for images in rechunker.feed(piece):
            yield images
    for images in rechunker.end():
        yield images


async def _each(pieces: Pieces) -> AsyncIterator[Packed]:
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece

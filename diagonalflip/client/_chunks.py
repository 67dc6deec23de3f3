"""Cut many images into chunks that the server accepts."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator

from diagonalflip.client._images import Packed, checked_count, packed_bytes
from diagonalflip.wire import Images, pack, unpack


class ChunkLimit:
    """The most images in a request, which only decreases. Shared by all threads.

    Args:
        images: The first value; at least 1.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self._lock = threading.Lock()

    def lower(self, images: int) -> None:
        """Adopt the server's limit if it is lower."""
        with self._lock:
            self.images = min(self.images, images)


class Rechunker:
    """Turns pieces of packed bytes of any sizes into chunks of whole bytes; keeps one chunk.

    Args:
        limit: Images per chunk, read again for every chunk. A chunk may be larger if the limit
            decreases meanwhile, or is below 2 images.
        count: Images in all; None means two per byte.
    """

    def __init__(self, limit: ChunkLimit, count: int | None) -> None:
        self._limit, self._count = limit, count
        self._held = bytearray()
        self._total_bytes = 0

    def feed(self, piece: Packed) -> Iterator[Images]:
        """Yield the chunks that a further piece fills; keep the last one, which may have padding.

        Raises:
            InvalidImage: The piece is no buffer of bytes.
            InvalidPadding: There are more bytes than ``count`` images have.
        """
        rest = packed_bytes(piece).cast("B")
        self._total_bytes += len(rest)
        if self._count is not None and self._total_bytes > (self._count + 1) // 2:
            checked_count(self._total_bytes, b"", self._count)
        while rest:
            size = max(1, self._limit.images // 2)
            if len(self._held) >= size:
                chunk = bytes(self._held)
                self._held.clear()
                yield Images(chunk, 2 * len(chunk))
            room = max(0, size - len(self._held))
            self._held += rest[:room]
            rest = rest[room:]

    def end(self) -> Images:
        """Return the last chunk.

        Raises:
            EmptyPayload: There were no bytes.
            InvalidPadding: ``count`` fits another number of bytes, or the padding is not 0.
        """
        count = checked_count(self._total_bytes, self._held[-1:], self._count)
        return Images(bytes(self._held), count - 2 * (self._total_bytes - len(self._held)))


def chunks(
    pieces: Iterable[Packed], limit: ChunkLimit, count: int | None = None
) -> Iterator[Images]:
    """Yield chunks of pieces of packed images; see ``Rechunker``."""
    rechunker = Rechunker(limit, count)
    for piece in pieces:
        yield from rechunker.feed(piece)
    yield rechunker.end()


async def chunks_async(
    pieces: Iterable[Packed] | AsyncIterable[Packed], limit: ChunkLimit, count: int | None
) -> AsyncGenerator[Images, None]:
    """Yield chunks of pieces that may come asynchronously."""
    if not isinstance(pieces, AsyncIterable):
        for images in chunks(pieces, limit, count):
            yield images
        return
    rechunker = Rechunker(limit, count)
    async for piece in pieces:
        for images in rechunker.feed(piece):
            yield images
    yield rechunker.end()


def split(images: Images, limit: int) -> list[Images]:
    """Cut images into parts of at most ``limit`` images, which may be odd."""
    numbers = unpack(images)
    return [pack(numbers[start : start + limit]) for start in range(0, images.count, limit)]

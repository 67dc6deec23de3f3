"""Cutting many images into requests that the server takes."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator

from diagonalflip.client._images import Packed, checked_count, packed_bytes
from diagonalflip.errors import EmptyPayload, InvalidPadding
from diagonalflip.wire import Images, pack, unpack


class ChunkLimit:
    """Images that one request may carry; only ever falls. Shared by all threads.

    Args:
        images: Where to start; at least 1.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self._lock = threading.Lock()

    def lower(self, images: int) -> None:
        """Takes over a limit that the server told, if it is a lower one."""
        with self._lock:
            self.images = min(self.images, images)


class Rechunker:
    """Packed bytes in pieces of any sizes in, chunks of whole bytes out; holds one chunk.

    Args:
        limit: Images per chunk; read anew for every chunk, which may still be larger if the
            limit falls under it, or under 2 images.
        count: Images in all; None means two per byte.
    """

    def __init__(self, limit: ChunkLimit, count: int | None) -> None:
        self._limit = limit
        self._count = count
        self._held = bytearray()
        self._sent_bytes = 0

    def feed(self, piece: Packed) -> Iterator[Images]:
        """The chunks that a further piece fills; the last one is held back for its padding.

        Raises:
            InvalidImage: The piece is no buffer of bytes.
            InvalidPadding: These are more bytes than ``count`` images have.
        """
        rest = packed_bytes(piece).cast("B")
        self._reject_more_than_announced(len(rest))
        while rest:
            size = max(1, self._limit.images // 2)
            if len(self._held) >= size:
                yield self._take()
            room = max(0, size - len(self._held))
            self._held += rest[:room]
            rest = rest[room:]

    def end(self) -> Iterator[Images]:
        """The last chunk.

        Raises:
            EmptyPayload: There was no byte.
            InvalidPadding: ``count`` fits another number of bytes, or the padding is not 0.
        """
        total_bytes = self._sent_bytes + len(self._held)
        count = checked_count(total_bytes, self._held[-1:], self._count)
        yield Images(bytes(self._held), count - 2 * self._sent_bytes)

    def _take(self) -> Images:
        chunk = bytes(self._held)
        self._held.clear()
        self._sent_bytes += len(chunk)
        return Images(chunk, 2 * len(chunk))

    def _reject_more_than_announced(self, more_bytes: int) -> None:
        total_bytes = self._sent_bytes + len(self._held) + more_bytes
        if self._count is not None and total_bytes > (self._count + 1) // 2:
            if self._count == 0:
                raise EmptyPayload("count=0", "at least one image")
            raise InvalidPadding(
                f"{total_bytes} bytes or more for {self._count} images",
                f"{(self._count + 1) // 2} bytes",
                "pack two images per byte, and count the images",
            )


def chunks(
    pieces: Iterator[Packed], limit: ChunkLimit, count: int | None = None
) -> Iterator[Images]:
    """Cuts pieces of packed images; see ``Rechunker``."""
    rechunker = Rechunker(limit, count)
    for piece in pieces:
        yield from rechunker.feed(piece)
    yield from rechunker.end()


async def chunks_async(
    pieces: Iterable[Packed] | AsyncIterable[Packed], limit: ChunkLimit, count: int | None
) -> AsyncGenerator[Images, None]:
    """``chunks`` of pieces that may come with time."""
    rechunker = Rechunker(limit, count)
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            for images in rechunker.feed(piece):
                yield images
    else:
        for piece in pieces:
            for images in rechunker.feed(piece):
                yield images
    for images in rechunker.end():
        yield images


def split(images: Images, limit: int) -> list[Images]:
    """Images in several parts of at most ``limit`` each, which may be odd."""
    numbers = unpack(images)
    return [pack(numbers[start : start + limit]) for start in range(0, images.count, limit)]

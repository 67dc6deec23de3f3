"""Files of images in any form, read as packed pieces in memory that does not grow."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from diagonalflip.client._images import to_images
from diagonalflip.errors import EmptyPayload, InvalidImage, InvalidPadding
from diagonalflip.wire import PIXELS, Images, pack_pixels

PIECE_IMAGES = 1 << 16
"""Images read at once; even, so that only the last piece can end inside a byte."""


class Reader(ABC):
    """Images of a file, as packed pieces; iterate once.

    Attributes:
        total: Images in all, None where only reading to the end tells.
        count: Images read so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.total: int | None = None
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        """Packed pieces; the low nibble after an odd number of images is 0."""
        for images in self.read():
            self.count += images.count
            yield bytes(images.packed)
        if not self.count:
            raise EmptyPayload("the input has no images", "at least one image")

    @abstractmethod
    def read(self) -> Iterator[Images]:
        """Pieces, all of an even number of images but the last."""


class PackedReader(Reader):
    """Two images per byte, high nibble first.

    Args:
        file: What to read.
        total: Images, or None for two per byte.
    """

    def __init__(self, file: BinaryIO, total: int | None) -> None:
        super().__init__(file)
        size = _size_bytes(file)
        self.total = total if total or size is None else 2 * size
        self._announced = total
        if total is not None and size is not None:
            self._check(size)

    def read(self) -> Iterator[Images]:
        """Pieces of the file; an announced number of images must be what it holds."""
        read_bytes = 0
        piece = self.file.read(PIECE_IMAGES // 2)
        while piece:
            read_bytes += len(piece)
            further = self.file.read(PIECE_IMAGES // 2)
            odd = not further and self._announced == 2 * read_bytes - 1
            if odd and piece[-1] & 0x0F:
                raise InvalidPadding(f"a last byte of 0x{piece[-1]:02x}", "its low nibble to be 0")
            yield Images(piece, 2 * len(piece) - odd)
            piece = further
        self._check(read_bytes)

    def _check(self, size: int) -> None:
        wanted = self._announced
        if wanted is not None and size != (wanted + 1) // 2:
            raise InvalidPadding(
                f"{size} bytes for --count {wanted}", f"{(wanted + 1) // 2} bytes", "check --count"
            )


class NpyReader(Reader):
    """An ``.npy`` file of pixels, ``uint8[n, 2, 2]`` or ``uint8[n, 4]``."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        shape, fortran_order, dtype = _npy_header(file)
        if dtype != np.uint8 or fortran_order or shape[1:] not in ((PIXELS,), (2, 2)):
            order = " in Fortran order" if fortran_order else ""
            raise InvalidImage(
                f"{dtype}{list(shape)}{order}", "uint8[n, 2, 2] or uint8[n, 4], row by row"
            )
        self.total = shape[0]

    def read(self) -> Iterator[Images]:
        """Pieces of the array; every pixel is checked."""
        assert self.total is not None  # noqa: S101 - the header has said it
        for start in range(0, self.total, PIECE_IMAGES):
            count = min(PIECE_IMAGES, self.total - start)
            body = _read_all(self.file, PIXELS * count)
            pixels = np.frombuffer(body, np.uint8)
            if pixels.size < PIXELS * count:
                raise InvalidImage(
                    f"the file ends in image {start + pixels.size // PIXELS}",
                    f"{self.total} images, as its header says",
                )
            if pixels.max() > 1:
                wrong = int(np.argmax(pixels > 1))
                image = start + wrong // PIXELS
                raise InvalidImage(f"pixel {pixels[wrong]} in image {image}", "pixels 0 or 1")
            yield pack_pixels(pixels.reshape(-1, PIXELS))


class JsonLinesReader(Reader):
    """An image a line, in any form that JSON requests know; empty lines are ignored."""

    def read(self) -> Iterator[Images]:
        """Pieces of the lines; the first wrong line is named."""
        lines = ((n, line) for n, line in enumerate(self.file, 1) if line.strip())
        while batch := list(islice(lines, PIECE_IMAGES)):
            values = [_parse(number, line) for number, line in batch]
            try:
                yield to_images(values)
            except InvalidImage:
                _name_the_line(batch, values)
                raise


def _parse(number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidImage(f"line {number} is not JSON", "one image per line") from error


def _name_the_line(batch: list[tuple[int, bytes]], values: list[Any]) -> None:
    for (number, line), value in zip(batch, values, strict=True):
        try:
            to_images([value])
        except InvalidImage as error:
            text = line.decode(errors="replace").strip()[:60]
            raise InvalidImage(f"line {number}: {text}", error.expected) from error


def _npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)
    except ValueError as error:
        raise InvalidImage("the file is not a .npy", "uint8[n, 2, 2]", "check --from") from error


def _read_all(file: BinaryIO, size: int) -> bytes:
    """Read up to ``size`` bytes, waiting for a pipe that gives fewer at once."""
    pieces = []
    while size > 0 and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _size_bytes(file: BinaryIO) -> int | None:
    """Bytes from here to the end, or None for a pipe."""
    try:
        return os.fstat(file.fileno()).st_size - file.tell() if file.seekable() else None
    except OSError:
        return None

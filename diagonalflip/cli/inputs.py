"""Read files of images, in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from tokenize import TokenError
from typing import BinaryIO, Literal

import numpy as np

from diagonalflip.client._files import pieces
from diagonalflip.client._images import checked_count, to_images
from diagonalflip.errors import EmptyPayload, InvalidImage
from diagonalflip.wire import PBM, PIXELS, PNG, Images, pack_pixels

PIECE_IMAGES = 1 << 16
"""Images per read; even, so that only the last piece can end inside a byte."""

InputForm = Literal["packed", "npy", "jsonl", "png", "pbm"]

NOT_NPY = ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError
"""Errors that NumPy raises for malformed headers, which it parses as Python."""

PICTURES: dict[InputForm, str] = {"png": PNG, "pbm": PBM}
"""Forms that the server decodes, and their media types."""

SUFFIXES: dict[str, InputForm] = {
    ".bin": "packed",
    ".png": "png",
    ".pbm": "pbm",
    ".npy": "npy",
    ".jsonl": "jsonl",
}


@dataclass
class Input:
    """Images of a file, as packed pieces; iterate once.

    Attributes:
        images: The pieces; each but the last has an even number of images.
        total: Images in all; None if that is known only at the end.
        count: Images read so far.
    """

    images: Iterator[Images]
    total: int | None = None
    count: int = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield packed pieces; the low nibble after an odd number of images is 0."""
        for images in self.images:
            self.count += images.count
            yield bytes(images.packed)
        if not self.count:
            raise EmptyPayload("the input has no images", "at least one image")


def read(form: InputForm, file: BinaryIO, count: int | None = None) -> Input:
    """Return the images of a file; for a packed one, ``count`` of None means two per byte.

    Raises:
        InvalidPayload: The header is malformed, or the size does not fit.
    """
    if form == "npy":
        total = _npy_count(file)
        return Input(_pixels(file, total), total)
    if form == "jsonl":
        return Input(_json_lines(file))
    try:
        size = os.fstat(file.fileno()).st_size - file.tell()
    except OSError:  # it is a pipe, or not a file of the operating system
        size = 0
    if size:  # devices have size 0
        count = checked_count(size, b"\0", count)
    return Input((Images(piece, 2 * len(piece)) for piece in pieces(file)), count)


def _npy_count(file: BinaryIO) -> int:
    """Read the header of pixels, ``uint8`` or ``bool``, ``[n, 2, 2]`` or ``[n, 4]``; return n."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    except NOT_NPY as error:
        raise InvalidImage("the file is not a .npy", "uint8[n, 2, 2]", "check --from") from error
    if dtype not in (np.uint8, np.bool_) or fortran_order or shape[1:] not in ((PIXELS,), (2, 2)):
        got = f"{dtype}{list(shape)}{' in Fortran order' if fortran_order else ''}"
        raise InvalidImage(got, "uint8 or bool, [n, 2, 2] or [n, 4], row by row")
    return int(shape[0])


def _pixels(file: BinaryIO, total: int) -> Iterator[Images]:
    for start in range(0, total, PIECE_IMAGES):
        count = min(PIECE_IMAGES, total - start)
        pixels = np.frombuffer(file.read(PIXELS * count), np.uint8)
        if pixels.size < PIXELS * count:
            got = f"the file ends in image {start + pixels.size // PIXELS}"
            raise InvalidImage(got, f"{total} images, as its header says")
        if pixels.max() > 1:
            wrong = int(np.argmax(pixels > 1))
            image = start + wrong // PIXELS
            raise InvalidImage(f"pixel {pixels[wrong]} in image {image}", "pixels 0 or 1")
        yield pack_pixels(pixels.reshape(-1, PIXELS))


def _json_lines(file: BinaryIO) -> Iterator[Images]:
    """Read one image per line, in any form of JSON requests; ignore empty lines."""
    lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    while batch := list(islice(lines, PIECE_IMAGES)):
        try:
            yield to_images([json.loads(line) for _, line in batch])
        except (InvalidImage, ValueError, RecursionError):
            for number, line in batch:
                _check_line(number, line)
            raise


def _check_line(number: int, line: bytes) -> None:
    try:
        to_images([json.loads(line)])
    except InvalidImage as error:
        text = line.decode(errors="replace").strip()[:60]
        raise InvalidImage(f"line {number}: {text}", error.expected) from error
    except (ValueError, RecursionError) as error:
        raise InvalidImage(f"line {number} is not JSON", "one image per line") from error

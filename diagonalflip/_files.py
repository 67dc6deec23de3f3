"""Files of images in and of predictions out, in pieces."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

PIECE_BYTES = 1 << 16

Source = str | os.PathLike[str] | BinaryIO
Destination = str | os.PathLike[str] | BinaryIO


@contextmanager
def reading(source: Source) -> Iterator[BinaryIO]:
    """The source as an open file; closed at the end if it was a path."""
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as file:
            yield file
    else:
        yield source


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file, piece by piece."""
    while piece := file.read(PIECE_BYTES):
        yield piece


@contextmanager
def writing(destination: Destination) -> Iterator[BinaryIO]:
    """The destination as an open file; at a path, nothing appears until all is written.

    What was written so far lies beside it in a hidden ``.part`` file, which goes away on
    any error, and stays if the process is killed.
    """
    if not isinstance(destination, str | os.PathLike):
        yield destination
        return
    path = Path(destination).resolve()
    if path.exists() and not path.is_file():  # /dev/stdout, a pipe: never to be replaced
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write(file: BinaryIO, predictions: npt.NDArray[np.float32]) -> None:
    """Writes all of ``float32[n, 4]`` as little-endian bytes, even to an unbuffered pipe."""
    rest: memoryview[Any] = predictions.astype("<f4", copy=False).data.cast("B")
    while rest:
        written = file.write(rest)
        rest = rest[written:]

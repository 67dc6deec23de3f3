"""Files of images in and of predictions out, in pieces."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

PIECE_BYTES = 1 << 16

Source = str | os.PathLike[str] | BinaryIO
Destination = str | os.PathLike[str] | BinaryIO


def reading(source: Source) -> AbstractContextManager[BinaryIO]:
    """Open the source; closed at the end if it was a path."""
    if isinstance(source, str | os.PathLike):
        return Path(source).open("rb")
    return nullcontext(source)


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file, piece by piece.

    Raises:
        BlockingIOError: It has nothing yet and does not wait, which is no end.
    """
    while piece := file.read(PIECE_BYTES):
        yield piece
    if piece is None:
        raise BlockingIOError(errno.EAGAIN, "the input does not wait for what comes")


@contextmanager
def writing(destination: Destination, unfinished: set[Path] | None = None) -> Iterator[BinaryIO]:
    """Open the destination; at a path, nothing appears until all is written.

    What was written so far lies beside it in a hidden ``.part`` file, which goes away on
    any error, and stays if the process is killed. A file that is there keeps its mode and owner;
    where it cannot be replaced, it is written over at the end.

    Args:
        destination: A path, or a file that is open.
        unfinished: Has the path of the ``.part`` file meanwhile.

    Raises:
        OSError: It cannot be written, which is known before anything is.
    """
    if not isinstance(destination, str | os.PathLike):
        yield destination
        return
    path, is_file = Path(destination), True
    with suppress(FileNotFoundError):
        is_file = stat.S_ISREG(path.stat().st_mode)
    if not is_file:  # /dev/stdout, a pipe: never to be replaced
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    if path.exists():
        path.open("ab").close()  # or it may not be written
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    unfinished = set() if unfinished is None else unfinished
    unfinished.add(part)
    try:
        begun = part.open("xb")
    except OSError as error:
        if not path.exists():
            raise type(error)(error.errno, error.strerror, str(path)) from error
        with tempfile.TemporaryFile() as whole:  # the folder cannot be written, but the file
            yield whole
            whole.seek(0)
            _write_over(path, whole)
        return
    try:
        with begun:
            yield begun
            begun.flush()
            os.fsync(begun.fileno())
        if not _replace(path, part):
            with part.open("rb") as finished:
                _write_over(path, finished)
    finally:
        part.unlink(missing_ok=True)
        unfinished.discard(part)


def _replace(path: Path, part: Path) -> bool:
    """Put a finished file in place; return False if what is there cannot be replaced.

    That is so for a file of another owner, and one that is mounted.
    """
    before = path.stat() if path.exists() else None
    try:
        if before is not None:
            if hasattr(os, "chown"):
                os.chown(part, before.st_uid, before.st_gid)
            part.chmod(stat.S_IMODE(before.st_mode))
        part.replace(path)
    except OSError:
        if before is None:
            raise
        return False
    return True


def _write_over(path: Path, file: BinaryIO) -> None:
    """Write what is left of a file over another."""
    with path.open("wb") as there:
        shutil.copyfileobj(file, there)


def write(file: BinaryIO, data: bytes | npt.NDArray[np.float32]) -> None:
    """Write all of bytes, or of ``float32[n, 4]`` little-endian, even to an unbuffered pipe."""
    plain = data.astype("<f4", copy=False).data if isinstance(data, np.ndarray) else data
    rest: memoryview[Any] = memoryview(plain).cast("B")
    while rest:
        written = file.write(rest)
        if written is None and not isinstance(file, io.RawIOBase):
            return  # that is how objects that are no files of Python's say that they took all
        rest = rest[written:]

"""Read files of images and write files of predictions, piece by piece."""

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
    """Open a source; at the end, close it if it is a path."""
    if isinstance(source, str | os.PathLike):
        return Path(source).open("rb")
    return nullcontext(source)


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file, piece by piece.

    Raises:
        BlockingIOError: It does not block, and has no data yet, which is not its end.
    """
    while piece := file.read(PIECE_BYTES):
        yield piece
    if piece is None:
        raise BlockingIOError(errno.EAGAIN, "the input does not wait for what comes")


@contextmanager
def writing(destination: Destination, unfinished: set[Path] | None = None) -> Iterator[BinaryIO]:
    """Open a destination; at a path, the file appears only when it is complete.

    Until then the data are in a hidden ``.part`` file beside it, which is removed after an error,
    but stays if the process is killed. An existing file keeps its mode and owner; if it cannot be
    replaced, it is overwritten at the end.

    Args:
        destination: A path, or an open file.
        unfinished: Contains the path of the ``.part`` file meanwhile.

    Raises:
        OSError: It cannot be written; raised before anything is written.
    """
    if not isinstance(destination, str | os.PathLike):
        yield destination
        return
    path, is_file = Path(destination), True
    with suppress(FileNotFoundError):
        is_file = stat.S_ISREG(path.stat().st_mode)
    if not is_file:  # such as /dev/stdout or a pipe, which must not be replaced
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    if path.exists():
        path.open("ab").close()  # raises an error if it may not be written
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    unfinished = set() if unfinished is None else unfinished
    unfinished.add(part)
    try:
        begun = part.open("xb")
    except OSError as error:
        if not path.exists():
            raise type(error)(error.errno, error.strerror, str(path)) from error
        with tempfile.TemporaryFile() as whole:  # the file can be written, but not its folder
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
    """Move a finished file into place; return False if the old one cannot be replaced.

    That is so if it has another owner or is a mount.
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
    """Overwrite a file with the rest of another."""
    with path.open("wb") as there:
        shutil.copyfileobj(file, there)


def write(file: BinaryIO, data: bytes | npt.NDArray[np.float32]) -> None:
    """Write all of bytes, or of ``float32[n, 4]`` as little-endian, even to an unbuffered pipe."""
    plain = data.astype("<f4", copy=False).data if isinstance(data, np.ndarray) else data
    rest: memoryview[Any] = memoryview(plain).cast("B")
    while rest:
        written = file.write(rest)
        if written is None and not isinstance(file, io.RawIOBase):
            return  # that is how objects that are no files of Python's say that they took all
        rest = rest[written:]

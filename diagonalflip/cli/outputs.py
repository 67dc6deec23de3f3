"""Predictions out in any form: nothing that looks finished appears before it is."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from diagonalflip.client import _files
from diagonalflip.wire import PIXELS

Predictions = npt.NDArray[np.float32]


class Writer(ABC):
    """Writes ``float32[n, 4]`` piece by piece; after the last piece, ``finish``."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    @abstractmethod
    def write(self, predictions: Predictions) -> None:
        """Writes ``float32[m, 4]``."""

    def finish(self) -> None:  # noqa: B027 - most forms have nothing to add
        """Writes what only the end tells."""


class FloatWriter(Writer):
    """Little-endian float32, 16 bytes per image."""

    def write(self, predictions: Predictions) -> None:
        """Writes the bytes as they are."""
        _files.write(self.file, predictions)


class NpyWriter(Writer):
    """``float32[n, 4]`` as ``.npy``; n is written at the end, so the file must be seekable."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._count = 0
        self._write_header()

    def write(self, predictions: Predictions) -> None:
        """Appends rows."""
        self._count += len(predictions)
        _files.write(self.file, predictions)

    def finish(self) -> None:
        """Puts the number of rows into the header, which has room for any."""
        self.file.seek(0)
        self._write_header()
        self.file.seek(0, 2)

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._count, PIXELS)}
        np.lib.format.write_array_header_1_0(self.file, header)


class JsonLinesWriter(Writer):
    """A line an image: a list of four numbers that are exact when read as float32."""

    def write(self, predictions: Predictions) -> None:
        """Writes one line per image."""
        self.file.write(b"".join(_line(row.tobytes()) for row in predictions))


@lru_cache(maxsize=4096)
def _line(row: bytes) -> bytes:
    """There are 16 images, so a whole file repeats a few lines."""
    return json.dumps(shortest(np.frombuffer(row, np.float32))).encode() + b"\n"


def shortest(row: Predictions) -> list[float]:
    """Numbers with as few digits as still give the same float32."""
    return [float(str(value)) for value in row]


WRITERS: dict[str, type[Writer]] = {
    "float32": FloatWriter,
    "npy": NpyWriter,
    "jsonl": JsonLinesWriter,
}


@contextmanager
def opened(output: str, *, seekable: bool) -> Iterator[BinaryIO]:
    """The output as a binary file; ``-`` is stdout, and a path appears whole or not at all.

    Args:
        output: ``-`` or a path.
        seekable: Whether the form needs to go back; then stdout gets all of it at the end.
    """
    if output == "-":
        stdout = sys.stdout.buffer
        if not seekable:
            yield stdout
        else:
            with tempfile.TemporaryFile() as whole:
                yield whole
                whole.seek(0)
                shutil.copyfileobj(whole, stdout)
        stdout.flush()
        return
    with _files.writing(Path(output)) as file:
        yield file

"""Write predictions in any form; a file appears only when it is complete."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from diagonalflip.cli.exits import UNFINISHED
from diagonalflip.client import _files
from diagonalflip.wire import PIXELS

Predictions = npt.NDArray[np.float32]

STDOUT = "-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"
"""Names of stdout. It is never replaced: its file may have other content, as with ``>>``."""

OutputForm = Literal["float32", "npy", "jsonl", "png"]
SUFFIXES: dict[str, OutputForm] = {
    ".bin": "float32",
    ".npy": "npy",
    ".jsonl": "jsonl",
    ".png": "png",
}


class Output:
    """Writes predictions to a file, which for ``npy`` must be seekable: n is written at the end."""

    def __init__(self, file: BinaryIO, form: OutputForm) -> None:
        self.file, self.form, self.count = file, form, 0
        self.write_header()

    def write(self, predictions: Predictions) -> None:
        """Write ``float32[m, 4]``."""
        self.count += len(predictions)
        if self.form == "jsonl":
            _files.write(self.file, b"".join(_line(row.tobytes()) for row in predictions))
        else:
            _files.write(self.file, predictions)

    def write_header(self) -> None:
        """Write the header of an ``npy`` file; at the end again, with the number of rows."""
        if self.form == "npy":
            self.file.seek(0)
            header = {"descr": "<f4", "fortran_order": False, "shape": (self.count, PIXELS)}
            np.lib.format.write_array_header_1_0(self.file, header)


@lru_cache(maxsize=4096)
def _line(row: bytes) -> bytes:
    """Return the line for a prediction; with 16 images, few lines repeat."""
    return json.dumps(shortest(np.frombuffer(row, np.float32))).encode() + b"\n"


def shortest(row: Predictions) -> list[float]:
    """Return numbers with the fewest digits that give the same float32."""
    return [float(str(value)) for value in row]


@contextmanager
def opened(output: str, form: OutputForm) -> Iterator[Output]:
    """Open a file for predictions, which appears when it is complete; ``-`` is stdout.

    To stdout or a pipe, ``npy`` is written at the end.
    """
    path = sys.stdout.buffer if output == "-" else output
    with _files.writing(path, UNFINISHED) as file, ExitStack() as end:
        whole, collected = file, form == "npy" and (output == "-" or not file.seekable())
        if collected:
            whole = end.enter_context(tempfile.TemporaryFile())
        written = Output(whole, form)
        yield written
        written.write_header()
        if collected:
            whole.seek(0)
            for piece in _files.pieces(whole):
                _files.write(file, piece)

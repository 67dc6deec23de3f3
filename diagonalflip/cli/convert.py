"""Whole files of images, from their form to the form that is wanted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diagonalflip.cli.forms import PICTURES, InputForm, OutputForm
from diagonalflip.cli.inputs import JsonLinesReader, NpyReader, PackedReader, Reader
from diagonalflip.cli.outputs import WRITERS, opened
from diagonalflip.cli.progress import ImageProgress
from diagonalflip.cli.target import Target
from diagonalflip.client import _answers
from diagonalflip.client._endpoint import Reply
from diagonalflip.errors import InvalidAnswer, InvalidPicture
from diagonalflip.wire import OCTETS, PIXELS, PNG


@dataclass(frozen=True)
class Conversion:
    """A conversion of one file to another.

    Attributes:
        source: Path of the images, or ``-``.
        source_form: Their form.
        output: Path of the predictions, or ``-``.
        output_form: Their form.
        count: Images in a packed source, or None for two per byte.
    """

    source: str
    source_form: InputForm
    output: str
    output_form: OutputForm
    count: int | None


def predict_stream(target: Target, wanted: Conversion) -> int:
    """Predicts a file in bounded memory; returns the number of images."""
    with _source(wanted) as file, target.predictor() as client:
        reader = _reader(wanted, file)
        seekable = wanted.output_form is OutputForm.NPY
        with opened(wanted.output, seekable=seekable) as output, ImageProgress(reader.total) as bar:
            writer = WRITERS[wanted.output_form](output)
            done = 0
            with closing(client.predict_chunks(reader)) as chunks:
                for chunk in chunks:
                    # Sent as an even number; the answer for the padding of an odd one, which
                    # can only be the last row of all, is left out.
                    predictions = chunk[: reader.count - done]
                    writer.write(predictions)
                    done += len(predictions)
                    bar.update(done)
            writer.finish()
    return done


def predict_picture(target: Target, wanted: Conversion) -> int:
    """Sends a picture as it is, in one request; returns the number of images."""
    wants_picture = wanted.output_form is OutputForm.PNG
    accept = PNG if wants_picture else OCTETS
    headers = {"Content-Type": PICTURES[wanted.source_form], "Accept": accept}
    with _source(wanted) as file, target.raw() as raw:
        answer = raw.post(file.read(), headers)
    count = _checked(answer, accept)
    with opened(wanted.output, seekable=wanted.output_form is OutputForm.NPY) as output:
        if wants_picture:
            output.write(answer.body)
        else:
            writer = WRITERS[wanted.output_form](output)
            writer.write(np.frombuffer(answer.body, "<f4").reshape(-1, PIXELS))
            writer.finish()
    return count


@contextmanager
def _source(wanted: Conversion) -> Iterator[BinaryIO]:
    if wanted.source == "-":
        yield sys.stdin.buffer
        return
    with Path(wanted.source).open("rb") as file:
        yield file


def _reader(wanted: Conversion, file: BinaryIO) -> Reader:
    if wanted.source_form is InputForm.PACKED:
        return PackedReader(file, wanted.count)
    return NpyReader(file) if wanted.source_form is InputForm.NPY else JsonLinesReader(file)


def _checked(answer: Reply, accept: str) -> int:
    """Number of images in a picture's answer."""
    if answer.status == 413:
        raise _too_large(answer)
    if answer.status != 200:
        raise _answers.rejection(Reply(answer.status, answer.headers, answer.body), 0)
    told = answer.headers.get("Flip-Images", "")
    got = answer.headers.get("Content-Type", "")
    is_right = got == accept and told.isdecimal()
    if is_right and accept == OCTETS:
        is_right = len(answer.body) == 4 * PIXELS * int(told)
    if not is_right:
        found = f"{len(answer.body)} bytes of {got or 'no type'} for {told or 'no'} images"
        raise InvalidAnswer(found, f"predictions as {accept}", "check the URL")
    return int(told)


def _too_large(answer: Reply) -> InvalidPicture:
    most = answer.headers.get("Flip-Max-Images", "32 MiB and 1048576")
    try:
        problem: dict[str, Any] = json.loads(answer.body)
        got = str(problem["got"])
    except (ValueError, KeyError, TypeError):
        got = "a picture that is too large"
    return InvalidPicture(got, f"at most {most} images", "cut the sheet")

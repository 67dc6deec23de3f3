"""Names of the forms that files have, and which one is meant."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from diagonalflip.cli.exits import UsageError
from diagonalflip.wire import JSON_LINES, NPY, OCTETS, PBM, PNG, SUFFIXES


class InputForm(StrEnum):
    """Forms of images."""

    PACKED = "packed"
    NPY = "npy"
    JSONL = "jsonl"
    PNG = "png"
    PBM = "pbm"


class OutputForm(StrEnum):
    """Forms of predictions."""

    FLOAT32 = "float32"
    NPY = "npy"
    JSONL = "jsonl"
    PNG = "png"


PICTURES = {InputForm.PNG: PNG, InputForm.PBM: PBM}

MEDIA_TYPES = {
    OCTETS: InputForm.PACKED,
    NPY: InputForm.NPY,
    JSON_LINES: InputForm.JSONL,
    PNG: InputForm.PNG,
    PBM: InputForm.PBM,
}
INPUT_SUFFIXES = {
    suffix: MEDIA_TYPES[kind] for suffix, kind in SUFFIXES.items() if kind in MEDIA_TYPES
}
OUTPUT_SUFFIXES = {
    ".bin": OutputForm.FLOAT32,
    ".npy": OutputForm.NPY,
    ".jsonl": OutputForm.JSONL,
    ".png": OutputForm.PNG,
}


def input_form(path: str, named: InputForm | None) -> InputForm:
    """The form of an input: the one that was named, or else its suffix's.

    Raises:
        UsageError: Neither says.
    """
    form = named or INPUT_SUFFIXES.get(Path(path).suffix.lower())
    if form is None:
        raise UsageError(
            f"the suffix of --input {path} is not known", " ".join(INPUT_SUFFIXES), "add --from"
        )
    return form


def output_form(path: str, named: OutputForm | None, source: InputForm) -> OutputForm:
    """The form of an output: named, or its suffix's, or JSON lines for stdout.

    Raises:
        UsageError: None says, or predictions of this source cannot be had in it.
    """
    default = OutputForm.JSONL if path == "-" else None
    form = named or OUTPUT_SUFFIXES.get(Path(path).suffix.lower(), default)
    if form is None:
        raise UsageError(
            f"the suffix of --output {path} is not known", " ".join(OUTPUT_SUFFIXES), "add --to"
        )
    if form is OutputForm.PNG and source not in PICTURES:
        raise UsageError(f"PNG cannot be made from {source}", "a PNG or PBM")
    return form

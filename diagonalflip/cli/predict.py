"""``diagonalflip predict``: a few images to look at, or files of any size."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from diagonalflip.cli import convert
from diagonalflip.cli.exits import UsageError
from diagonalflip.cli.forms import PICTURES, InputForm, OutputForm, input_form, output_form
from diagonalflip.cli.notation import READING, blocks_for, draw, draw_flip, read_images
from diagonalflip.cli.outputs import shortest
from diagonalflip.cli.target import Target, target_of
from diagonalflip.wire import PIXELS

EPILOG = READING


class Wanted(StrEnum):
    """Results that can be shown for an image."""

    PREDICTIONS = "predictions"
    FLIPS = "flips"


def predict(  # noqa: PLR0913, PLR0917 - options, by name
    context: typer.Context,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Images; see below.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--input", metavar="FILE", help="Images, - for stdin.")
    ] = None,
    output: Annotated[
        str, typer.Option(metavar="FILE", help="Predictions of --input, - for stdout.")
    ] = "-",
    source_form: Annotated[
        InputForm | None, typer.Option("--from", help="Form of the input, if not by suffix.")
    ] = None,
    output_to: Annotated[
        OutputForm | None, typer.Option("--to", help="Form of the output, if not by suffix.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Images in a packed input, if an odd number.")
    ] = None,
    wanted: Annotated[
        Wanted, typer.Option("--as", help="Of the images named here, what to show.")
    ] = Wanted.PREDICTIONS,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON: one line per image, or a summary of a file.")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Compute here, without a server, on one core or GPU.")
    ] = False,
) -> None:
    """Predict images: those named here, or those of a file."""
    target = target_of(context)
    if local:
        target = replace(target, local=True)
    if source is None and (output != "-" or source_form or output_to or count):
        raise UsageError("--output, --from, --to or --count without --input", "--input FILE")
    if bool(images) == bool(source):
        raise UsageError("images and --input" if images else "no images", "images or --input FILE")
    if not source:
        show = _flip_words if wanted is Wanted.FLIPS else _predict_words
        show(target, read_images(images or []), as_json=as_json)
        return
    if wanted is Wanted.FLIPS:
        raise UsageError("--as flips with --input", "images on the command line")
    form = input_form(source, source_form)
    if local and form in PICTURES:
        raise UsageError("--local with a picture", "packed images, .npy or JSON lines")
    work = convert.Conversion(source, form, output, output_form(output, output_to, form), count)
    _reject_nonsense(work, as_json=as_json)
    started = time.monotonic()
    done = (convert.predict_picture if form in PICTURES else convert.predict_stream)(target, work)
    if as_json:
        seconds = round(time.monotonic() - started, 3)
        typer.echo(json.dumps({"images": done, "seconds": seconds, "output": output}))


def _reject_nonsense(wanted: convert.Conversion, *, as_json: bool) -> None:
    if wanted.count and wanted.source_form is not InputForm.PACKED:
        raise UsageError(f"--count with {wanted.source_form}", "it with packed images only")
    if wanted.output == "-" and as_json:
        raise UsageError("--json while predictions go to stdout", "--output FILE")
    if wanted.output == "-" and wanted.output_form is not OutputForm.JSONL and sys.stdout.isatty():
        raise UsageError(
            f"{wanted.output_form} cannot be shown in a terminal", "--output FILE, or a pipe"
        )


def _flip_words(target: Target, numbers: list[int], *, as_json: bool) -> None:
    with target.predictor() as client:
        flips = client.flip(numbers).reshape(-1, PIXELS)
    blocks = blocks_for(sys.stdout.encoding)
    for number, flip in zip(numbers, flips, strict=True):
        bits = "".join(map(str, flip))
        if as_json:
            typer.echo(json.dumps({"image": number, "bits": f"{number:04b}", "flip": bits}))
        else:
            typer.echo(draw_flip(f"{number:04b}", bits, blocks) + "\n")


def _predict_words(target: Target, numbers: list[int], *, as_json: bool) -> None:
    with target.predictor() as client:
        predictions = client.predict(numbers)
    blocks = blocks_for(sys.stdout.encoding)
    for number, prediction in zip(numbers, predictions, strict=True):
        if as_json:
            found = {"image": number, "bits": f"{number:04b}", "prediction": shortest(prediction)}
            typer.echo(json.dumps(found))
        else:
            typer.echo(draw(number, prediction, blocks) + "\n")

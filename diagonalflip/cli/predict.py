"""``diagonalflip predict``: predict a few images to look at, or files of any size."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, TypeVar

import numpy.typing as npt
import typer

from diagonalflip.cli import inputs, outputs
from diagonalflip.cli.exits import UsageError, needs
from diagonalflip.cli.inputs import PICTURES, Input, InputForm
from diagonalflip.cli.notation import blocks_for, draw, draw_flip, read_images
from diagonalflip.cli.outputs import STDOUT, OutputForm, opened, shortest
from diagonalflip.cli.progress import image_progress
from diagonalflip.cli.target import Raw, Target
from diagonalflip.client import Client, _answers, _files
from diagonalflip.client._endpoint import PREDICTIONS
from diagonalflip.errors import InvalidAnswer, InvalidPicture
from diagonalflip.wire import OCTETS, PIXELS, PNG

if TYPE_CHECKING:
    from diagonalflip.predictor import Predictor

Form = TypeVar("Form", InputForm, OutputForm)
Wanted = Literal["predictions", "flips"]


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
    ] = "predictions",
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON: one line per image, or a summary of a file.")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Compute here, without a server, on one core or GPU.")
    ] = False,
) -> None:
    """Predict images: those named here, or those of a file."""
    target: Target = context.obj
    if source is None and (output != "-" or source_form or output_to or count):
        raise UsageError("--output, --from, --to or --count without --input", "--input FILE")
    if bool(images) == bool(source):
        raise UsageError("images and --input" if images else "no images", "images or --input FILE")
    if not source:
        numbers = read_images(images or [])
        with _predictor(target, local=local) as client:
            _show(client, numbers, wanted, as_json=as_json)
        return
    if to_stdout := output in STDOUT:
        output, output_to = "-", output_to or "jsonl"
    form = source_form or _form_of(source, inputs.SUFFIXES, "--input", "--from")
    to = output_to or _form_of(output, outputs.SUFFIXES, "--output", "--to")
    is_picture = form in PICTURES
    counted = count and form != "packed"
    in_terminal = to_stdout and to != "jsonl" and sys.stdout.isatty()
    draws = to == "png" and not is_picture
    for is_nonsense, got, expected in (
        (wanted == "flips", "--as flips with --input", "images on the command line"),
        (local and is_picture, "--local with a picture", "packed images, .npy or JSON lines"),
        (draws, f"PNG cannot be made from {form}", "a PNG or PBM"),
        (_is_one_file(source, output), "an output that is the input", "another file"),
        (counted, f"--count with {form}", "it with packed images only"),
        (to_stdout and as_json, "--json while predictions go to stdout", "--output FILE"),
        (in_terminal, f"{to} cannot be shown in a terminal", "--output FILE, or a pipe"),
    ):
        if is_nonsense:
            raise UsageError(got, expected)
    started = time.monotonic()
    with _files.reading(sys.stdin.buffer if source == "-" else source) as file:
        if is_picture:
            with target.raw() as raw:
                done = _predict_picture(raw, file, PICTURES[form], output, to)
        else:
            with _predictor(target, local=local) as client:
                done = _predict_stream(client, inputs.read(form, file, count), count, output, to)
    if as_json:
        seconds = round(time.monotonic() - started, 3)
        typer.echo(json.dumps({"images": done, "seconds": seconds, "output": output}))


def _is_one_file(source: str, output: str) -> bool:
    """Return whether predictions would be written to the file that images are read from."""
    try:
        first = os.fstat(sys.stdin.fileno()) if source == "-" else Path(source).stat()
        second = os.fstat(sys.stdout.fileno()) if output == "-" else Path(output).stat()
    except (OSError, ValueError):  # there is none yet, or it has no descriptor
        return False
    return stat.S_ISREG(first.st_mode) and os.path.samestat(first, second)


def _form_of(path: str, forms: Mapping[str, Form], option: str, instead: str) -> Form:
    """Return the form of a file by its suffix.

    Raises:
        UsageError: The suffix is unknown.
    """
    form = forms.get(Path(path).suffix.lower())
    if form is None:
        got = f"the suffix of {option} {path} is not known"
        raise UsageError(got, " ".join(forms), f"add {instead}")
    return form


def _predictor(target: Target, *, local: bool) -> Client | Predictor:
    """Return a client, or with ``local`` a Predictor."""
    if not local:
        return target.client()
    with needs("serve"):
        from diagonalflip.predictor import Predictor  # noqa: PLC0415 - packages of the extra serve
    return Predictor(target.version)


def _show(client: Client | Predictor, numbers: list[int], wanted: Wanted, *, as_json: bool) -> None:
    ask = client.flip if wanted == "flips" else client.predict
    blocks = blocks_for(sys.stdout.encoding)
    rows: npt.NDArray[Any] = ask(numbers).reshape(-1, PIXELS)
    for number, row in zip(numbers, rows, strict=True):
        image = f"{number:04b}"
        found: dict[str, object] = {"image": number, "bits": image}
        if wanted == "flips":
            found["flip"] = flip = "".join(map(str, row))
            drawn = draw_flip(image, flip, blocks)
        else:
            found["prediction"] = shortest(row)
            drawn = draw(image, row, blocks)
        typer.echo(json.dumps(found) if as_json else drawn + "\n")


def _predict_stream(
    client: Client | Predictor, images: Input, count: int | None, path: str, form: OutputForm
) -> int:
    """Predict images in bounded memory; return their number.

    ``count`` is that number if it is known.
    """
    with (
        opened(path, form) as output,
        image_progress(images.total) as progress,
        closing(client.predict_chunks(images, count=count)) as chunks,
    ):
        for chunk in chunks:
            # Images are sent as an even number. After an odd number, the last row of all is the
            # prediction of the padding, and is left out.
            output.write(chunk[: images.count - output.count])
            progress(output.count)
    return output.count


def _predict_picture(raw: Raw, file: BinaryIO, kind: str, path: str, form: OutputForm) -> int:
    """Send a picture unchanged in one request; return its number of images."""
    accept = PNG if form == "png" else OCTETS
    answer = raw.send(file.read(), {"Content-Type": kind, "Accept": accept})
    if answer.status == 413:
        got = "a picture that is too large"
        with suppress(ValueError, KeyError, TypeError):
            got = str(json.loads(answer.body)["got"])
        most = answer.headers.get("Flip-Max-Images", "32 MiB and 1048576")
        raise InvalidPicture(got, f"at most {most} images", "cut the sheet")
    if answer.status != 200:
        raise _answers.rejection(answer, 0)
    count = _answers.number(answer, "Flip-Images")
    got = answer.headers.get("Content-Type", "")
    if got != accept or not count:
        found = f"{len(answer.body)} bytes of {got or 'no type'} for {count or 'no'} images"
        raise InvalidAnswer(found, f"predictions as {accept}", "check the URL")
    with opened(path, form) as output:
        if accept == PNG:
            _files.write(output.file, answer.body)
        else:
            output.write(_answers.read(answer, count, PREDICTIONS))
    return count

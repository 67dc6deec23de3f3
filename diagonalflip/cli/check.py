"""``diagonalflip check``: a deployment against the wire contract, promise by promise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import typer

from diagonalflip.cli.exits import ExitCode, UsageError
from diagonalflip.cli.target import Raw, UrlArgument, target_of
from diagonalflip.errors import DiagonalFlipError


@dataclass(frozen=True)
class Verdict:
    """Return whether one promise is kept.

    Attributes:
        group: Where it is made: a file of vectors, or the contract itself.
        promise: What is promised.
        passed: Whether it is kept.
        reason: Why not, else empty.
    """

    group: str
    promise: str
    passed: bool
    reason: str = ""


def check(
    context: typer.Context,
    url: UrlArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check every promise of the wire contract against a deployment.

    The predictions of the vectors are version 1.0's. If the server has that version, it answers
    them, whatever its default is.
    """
    target = target_of(context)
    with target.raw(url) as raw:
        found = []
        for verdict in verdicts(raw, target.version):
            found.append(verdict)
            if not as_json:
                typer.echo(line_of(verdict))
    failed = sum(not verdict.passed for verdict in found)
    if as_json:
        report = {"url": raw.url, "passed": len(found) - failed, "failed": failed}
        typer.echo(json.dumps(report | {"promises": [asdict(verdict) for verdict in found]}))
    else:
        typer.echo(f"{len(found) - failed} passed, {failed} failed")
    if failed:
        raise typer.Exit(ExitCode.REJECTED)


def verdicts(raw: Raw, version: str | None = None) -> Iterator[Verdict]:
    """Checks everything, one after the other.

    Args:
        raw: The server.
        version: Of the model; None is the server's default.

    Raises:
        UsageError: Pillow, which reads pictures, is missing.
        DiagonalFlipError: The server does not even predict single images.
    """
    try:
        from diagonalflip.cli import promises, vectors  # noqa: PLC0415 - they need Pillow
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the package {error.name} is missing", "it", "install diagonalflip with its extra cli"
        ) from error
    kit = promises.kit(raw.of(version))
    for name, promise in promises.promises():
        yield _verdict("contract", name, partial(promise, kit))
    if kit.version != vectors.VERSION:
        version = vectors.VERSION
    has_version = raw.of(version).post(b"", {}).status == 200
    for group, file, vector in vectors.vectors():
        if has_version or not vectors.has_predictions(vector):
            judged = raw.of(version if has_version else None)
            yield _verdict(group, vector["name"], partial(vectors.check, judged, file, vector))


def line_of(verdict: Verdict) -> str:
    """A verdict for people."""
    line = f"{'pass' if verdict.passed else 'FAIL'}  {verdict.group}: {verdict.promise}"
    return line if verdict.passed else f"{line}\n      {verdict.reason}"


def _verdict(group: str, name: str, holds: Callable[[], None]) -> Verdict:
    try:
        holds()
    except (DiagonalFlipError, ValueError, KeyError, TypeError) as error:
        # What is not of ours comes of an answer that cannot be read at all.
        return Verdict(group, name, passed=False, reason=str(error) or repr(error))
    return Verdict(group, name, passed=True)

"""``diagonalflip check``: check a deployment against the wire contract, promise by promise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import typer

from diagonalflip.cli import promises, vectors
from diagonalflip.cli.exits import ExitCode, say
from diagonalflip.cli.target import AsJson, Raw, Target, UrlArgument
from diagonalflip.errors import DiagonalFlipError


@dataclass(frozen=True)
class Verdict:
    """A promise of a group (a file of vectors, or the contract), and whether it is kept."""

    group: str
    promise: str
    passed: bool
    reason: str

    def __str__(self) -> str:
        line = f"{self.group}: {self.promise}"
        return f"pass  {line}" if self.passed else f"FAIL  {line}\n      {self.reason}"


def check(context: typer.Context, url: UrlArgument = None, as_json: AsJson = False) -> None:
    """Check every promise of the wire contract against a deployment.

    The predictions of the vectors are version 1.0's. If the server has that version, it answers
    them, whatever its default is.
    """
    target: Target = context.obj
    found = []
    with target.raw(url) as raw:
        for verdict in verdicts(raw):
            found.append(verdict)
            for line in [] if as_json else str(verdict).split("\n"):
                say(line)
    failed = sum(not verdict.passed for verdict in found)
    if as_json:
        report = {"url": raw.url, "passed": len(found) - failed, "failed": failed}
        typer.echo(json.dumps(report | {"promises": [asdict(verdict) for verdict in found]}))
    else:
        typer.echo(f"{len(found) - failed} passed, {failed} failed")
    if failed:
        raise typer.Exit(ExitCode.REJECTED)


def verdicts(raw: Raw) -> Iterator[Verdict]:
    """Check all promises in turn.

    Raises:
        DiagonalFlipError: The server does not even predict single images.
    """
    kit = promises.Kit(raw)
    for name, promise in promises.PROMISES.items():
        yield judge("contract", name, partial(promise, kit))
    if kit.version != vectors.VERSION:
        raw.version = vectors.VERSION
    has_version = raw.send(b"", {}).status == 200
    if not has_version:
        raw.version = None
    for group, vector in vectors.vectors():
        if has_version or vector["response"]["status"] != 200:
            yield judge(group, vector["name"], partial(vectors.check, raw, vector))


def judge(group: str, promise: str, check: Callable[[], None]) -> Verdict:
    """Return whether ``check`` succeeds; an answer of another form may cause any error."""
    reason = ""
    try:
        check()
    except DiagonalFlipError as error:
        reason = str(error)
    except Exception as error:
        reason = f"An answer of another form: {error!r}"
    return Verdict(group, promise, not reason, reason)

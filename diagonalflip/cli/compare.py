"""``diagonalflip compare``: send the same images to two versions, and compare their answers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from diagonalflip.cli.exits import ExitCode, say
from diagonalflip.cli.target import AsJson, Target, UrlArgument
from diagonalflip.client import Client
from diagonalflip.errors import ConnectionFailed, DeadlineExceeded, DiagonalFlipError
from diagonalflip.wire import PIXELS


@dataclass
class Side:
    """One version, with the latencies of its answers and its errors."""

    version: str
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def ask(self, client: Client, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        """Return the predictions; after an error, keep it and return None.

        Raises:
            ConnectionFailed, DeadlineExceeded: There has been no answer at all.
        """
        started = time.perf_counter()
        try:
            rows = client.predict(numbers)
        except DiagonalFlipError as error:
            if isinstance(error, ConnectionFailed | DeadlineExceeded) and not self.seconds:
                raise
            self.errors.append(f"{type(error).__name__}: {error}")
            return None
        self.seconds.append(time.perf_counter() - started)
        if not np.isfinite(rows).all():  # it is neither a bit nor JSON
            self.errors.append("a prediction is not finite")
            return None
        return rows

    @property
    def p50_s(self) -> float | None:
        """Median latency."""
        return float(np.median(self.seconds)) if self.seconds else None


def compare(  # noqa: PLR0913, PLR0917 - options, by name
    context: typer.Context,
    url: UrlArgument = None,
    a: Annotated[str, typer.Option("--a", help="One version.")] = "1.0",
    b: Annotated[str, typer.Option("--b", help="The other.")] = "2.0",
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="To each.")] = 100,
    images: Annotated[int, typer.Option(min=16, max=65_536, help="Of each request.")] = 64,
    max_latency_ratio: Annotated[
        float | None, typer.Option(min=0.01, help="Of the medians, b to a, at most.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send the same images to two versions; exit with 1 if an answer differs or is missing.

    A prediction of 0.5 or more is a bit of 1. All 16 images are in every request.
    """
    random = np.random.default_rng(0)
    sides = side_a, side_b = Side(a), Side(b)
    bits = differing = 0
    largest = 0.0
    target: Target = context.obj
    with target.client(url, a) as client_a, target.client(url, b) as client_b:
        for _ in range(requests):
            numbers = np.concatenate([np.arange(16), random.integers(16, size=images - 16)])
            rows_a, rows_b = side_a.ask(client_a, numbers), side_b.ask(client_b, numbers)
            if rows_a is not None and rows_b is not None:
                bits += PIXELS * len(numbers)
                differing += int(((rows_a >= 0.5) != (rows_b >= 0.5)).sum())
                largest = max(largest, float(np.abs(rows_a - rows_b).max()))
    ratio = side_b.p50_s / side_a.p50_s if side_a.p50_s and side_b.p50_s else None
    errors = {side.version: len(side.errors) for side in sides}
    if as_json:
        found = {"bits": bits, "differing_bits": differing, "largest_difference": largest}
        typer.echo(json.dumps(found | {"latency_ratio": ratio, "errors": errors}))
    else:
        typer.echo(
            f"{differing} of {bits} bits differ; predictions differ by {largest:.6g} at most"
        )
        for side in sides:
            p50 = f"{1e3 * side.p50_s:.2f} ms" if side.p50_s else "none"
            typer.echo(f"{side.version:<12}median latency {p50}, {len(side.errors)} errors")
            for error in sorted(set(side.errors))[:3]:
                say(f"    {error}")
    slow = max_latency_ratio is not None and (ratio is None or ratio > max_latency_ratio)
    if differing or slow or not bits or side_a.errors or side_b.errors:
        raise typer.Exit(ExitCode.REJECTED)

"""``diagonalflip compare``: the same images to two versions, and how their answers differ."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from diagonalflip.cli.exits import ExitCode
from diagonalflip.cli.target import UrlArgument, target_of
from diagonalflip.errors import DiagonalFlipError
from diagonalflip.wire import PIXELS

Rows = npt.NDArray[np.float32]


@dataclass
class Side:
    """One version, and how it answered.

    Attributes:
        version: Of the model.
        seconds: Of every answer.
        errors: Of the requests that were not answered.
    """

    version: str
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def ask(
        self, predict: Callable[[npt.NDArray[np.int64]], Rows], numbers: npt.NDArray[np.int64]
    ) -> Rows | None:
        """The predictions; None if there was an error, which is kept."""
        started = time.perf_counter()
        try:
            rows = predict(numbers)
        except DiagonalFlipError as error:
            self.errors.append(f"{type(error).__name__}: {error}")
            return None
        self.seconds.append(time.perf_counter() - started)
        return rows

    @property
    def p50_s(self) -> float | None:
        """The median of its latencies."""
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Send the same images to two versions; exit with 1 if an answer differs or is missing.

    A prediction of 0.5 or more is a bit of 1. All 16 images are in every request.
    """
    random = np.random.default_rng(0)
    sides = Side(a), Side(b)
    bits = differing = 0
    largest = 0.0
    target = target_of(context)
    with target.client(url, a) as first, target.client(url, b) as second:
        for _ in range(requests):
            numbers = np.concatenate([np.arange(16), random.integers(16, size=images - 16)])
            pairs = zip(sides, (first, second), strict=True)
            left, right = (side.ask(client.predict, numbers) for side, client in pairs)
            if left is not None and right is not None:
                bits += PIXELS * len(numbers)
                differing += int(((left >= 0.5) != (right >= 0.5)).sum())
                largest = max(largest, float(np.abs(left - right).max()))
    p50_a, p50_b = (side.p50_s for side in sides)
    ratio = p50_b / p50_a if p50_a and p50_b else None
    found = {
        "bits": bits,
        "differing_bits": differing,
        "largest_difference": largest,
        "latency_ratio": ratio,
        "errors": {side.version: len(side.errors) for side in sides},
    }
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(
            f"{differing} of {bits} bits differ; predictions differ by {largest:.6g} at most"
        )
        for side in sides:
            p50 = f"{1e3 * side.p50_s:.2f} ms" if side.p50_s else "none"
            typer.echo(f"{side.version:<12}median latency {p50}, {len(side.errors)} errors")
            for error in sorted(set(side.errors))[:3]:
                typer.echo(f"    {error}")
    slow = max_latency_ratio is not None and (ratio is None or ratio > max_latency_ratio)
    if differing or slow or not bits or any(side.errors for side in sides):
        raise typer.Exit(ExitCode.REJECTED)

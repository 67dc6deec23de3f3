"""``diagonalflip load``: requests on an open-loop schedule, every answer checked."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from diagonalflip._answers import agree
from diagonalflip.cli import driver, report
from diagonalflip.cli.exits import ExitCode, UsageError
from diagonalflip.cli.promises import alone
from diagonalflip.cli.raw import Raw
from diagonalflip.cli.target import UrlArgument, connection_of
from diagonalflip.errors import InvalidAnswer, ServerOverloaded
from diagonalflip.wire import MAX_IMAGES, OCTETS, pack, with_padding

BODIES = 16
"""Different requests that are sent in turn."""
MOST_REQUESTS = 10_000_000
SEED = 4


class Arrivals(StrEnum):
    """How requests are spread over time."""

    FIXED = "fixed"
    POISSON = "poisson"


def load(  # noqa: PLR0913, PLR0917 - options, by name
    context: typer.Context,
    url: UrlArgument = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Requests a second.")] = 100.0,
    duration_s: Annotated[
        float, typer.Option("--duration-s", min=0.01, max=86400, help="Seconds of load.")
    ] = 10.0,
    images: Annotated[int, typer.Option(min=1, max=MAX_IMAGES, help="Images a request.")] = 1,
    connections: Annotated[
        int, typer.Option(min=1, max=1024, help="Requests in flight at most.")
    ] = 16,
    arrivals: Annotated[Arrivals, typer.Option(help="Gaps between requests.")] = Arrivals.POISSON,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot of percentiles, .svg or .png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Load a server on an open-loop schedule; latency counts from when a request was due.

    Ends at most --deadline-s after --duration-s. Every answer must agree with what the server
    answered for each image alone before the load. Exit code 1 if one does not, or is missing.
    """
    if rate * duration_s > MOST_REQUESTS:
        raise UsageError(f"{rate * duration_s:.0f} requests", f"at most {MOST_REQUESTS}")
    report.check_available(plot)
    connection = connection_of(context)
    with connection.raw(url) as raw:
        is_poisson = arrivals is Arrivals.POISSON
        due_s = driver.schedule(rate, duration_s, poisson=is_poisson, seed=SEED)
        send = checked_send(raw, images)
        end_s = duration_s + connection.deadline_s
        outcome = driver.Driver(send, due_s, connections, end_s).run()
    summary = report.summarise(outcome, len(due_s))
    if plot is not None:
        report.draw(outcome, plot, f"{rate:g} requests/s of {images} images, {arrivals} arrivals")
    typer.echo(json.dumps(summary) if as_json else report.text(summary))
    if summary["answered"] < len(due_s):
        raise typer.Exit(ExitCode.REFUSED)


def checked_send(raw: Raw, count: int) -> driver.Send:
    """Asks for all 16 images alone, and makes requests whose answers must be those.

    Args:
        raw: The server.
        count: Images a request.

    Raises:
        InvalidAnswer: An answer has another form, or is not finite.
    """
    table = alone(raw)
    if not np.isfinite(table).all():
        raise InvalidAnswer("a prediction that is not finite", "finite ones")
    generator = np.random.default_rng(SEED)
    bodies = []
    for _ in range(BODIES):
        numbers = generator.integers(0, 16, count)
        images = pack(numbers)
        bodies.append((bytes(images.packed), with_padding(OCTETS, images.count), table[numbers]))

    def send(index: int, left_s: float) -> None:
        body, media_type, expected = bodies[index % BODIES]
        answer = raw.post(body, {"Content-Type": media_type}, timeout_s=left_s)
        if answer.status == ServerOverloaded.status:
            raise ServerOverloaded("status 503", "an answer")
        if answer.status != 200:
            raise InvalidAnswer(f"status {answer.status}", "status 200")
        if len(answer.body) != expected.nbytes or not agree(
            np.frombuffer(answer.body, "<f4").reshape(expected.shape), expected
        ):
            raise InvalidAnswer("other predictions than for each image alone", "the same")

    return send

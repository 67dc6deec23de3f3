"""``diagonalflip wait``: until the server predicts correctly."""

from __future__ import annotations

from typing import Annotated

import typer

from diagonalflip.cli.target import UrlArgument, target_of


def wait(
    context: typer.Context,
    url: UrlArgument = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0.001, help="Seconds to wait at most.")
    ] = 60.0,
) -> None:
    """Wait until the server predicts all 16 images, the same alone and together."""
    with target_of(context).client(url) as client:
        client.wait_until_ready(timeout_s)

"""``diagonalflip info`` and ``diagonalflip wait``: what answers, and whether it is ready."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from diagonalflip.cli.exits import say
from diagonalflip.cli.target import AsJson, Target, UrlArgument


def info(context: typer.Context, url: UrlArgument = None, as_json: AsJson = False) -> None:
    """Show the model's version and digest, the device, workers and limits."""
    target: Target = context.obj
    with target.client(url) as client:
        found = asdict(client.info())
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in found.items():
        say(f"{name.replace('_', ' '):<22}{value}")


def wait(
    context: typer.Context,
    url: UrlArgument = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0.001, help="Seconds to wait at most.")
    ] = 60.0,
) -> None:
    """Wait until the server predicts all 16 images, the same alone and together."""
    target: Target = context.obj
    with target.client(url) as client:
        client.wait_until_ready(timeout_s)

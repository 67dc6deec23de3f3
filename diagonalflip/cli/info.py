"""``diagonalflip info``: what answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from diagonalflip.cli.target import UrlArgument, target_of


def info(
    context: typer.Context,
    url: UrlArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show the model's version and digest, the device, workers and limits."""
    with target_of(context).client(url) as client:
        found = asdict(client.info())
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in found.items():
        typer.echo(f"{name.replace('_', ' '):<22}{value}")

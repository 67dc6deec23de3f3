"""``diagonalflip serve``: the server, as ``make serve`` runs it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from diagonalflip.cli.exits import needs

EPILOG = "Example: diagonalflip serve PORT=9000 WORKERS=2. docs/operations.md lists the settings."


def serve(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="As in the environment, without FLIP_."),
    ] = None,
) -> None:
    """Serve the versions that come with the package, or those in ./model_store, until Ctrl-C."""
    for each in settings or []:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{each!r} is not NAME=VALUE.")
        os.environ[f"FLIP_{name.upper().removeprefix('FLIP_')}"] = value
    with needs("serve"):
        from diagonalflip.server.__main__ import main  # noqa: PLC0415 - packages of the extra serve
    raise typer.Exit(main())

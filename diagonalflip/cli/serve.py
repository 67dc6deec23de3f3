"""``diagonalflip serve``: the server, as ``make serve`` runs it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

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
        os.environ[f"FLIP_{name.removeprefix('FLIP_')}"] = value
    try:
        from diagonalflip.server.__main__ import main  # noqa: PLC0415 - packages of the extra serve
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"{error.name} is missing: install diagonalflip with its extra serve."
        ) from error
    raise typer.Exit(main())

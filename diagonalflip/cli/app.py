"""The command: its global options and subcommands."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diagonalflip import __version__
from diagonalflip.cli import check, compare, info, model, predict, serve
from diagonalflip.cli.exits import ExitCode, complain, exit_code, point_nowhere
from diagonalflip.cli.notation import READING
from diagonalflip.cli.target import DEFAULT_URL, Target
from diagonalflip.errors import DiagonalFlipError

HELP = """
Predict 2x2 images with a DiagonalFlipNet server, and judge such servers.

Exit codes: 0 good; 1 the server said no, or its answer is wrong; 2 the command line or the
input cannot be used; 3 no connection, or no answer in time; 130 interrupted.
"""


class Commands(TyperGroup):
    """Commands that report every error by one line on stderr and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line and exit."""
        try:
            try:
                status = super().main(*args, **kwargs | {"standalone_mode": False}) or ExitCode.OK
            finally:
                sys.stdout.flush()  # or a closed pipe is noticed only at exit
        except DiagonalFlipError as error:
            complain(error)
            status = exit_code(error)
        except BrokenPipeError:
            point_nowhere(sys.stdout)
            status = ExitCode.REJECTED
        except typer.TyperException as error:
            complain(f"{error.format_message()} See --help.")
            status = ExitCode.USAGE
        except OSError as error:
            point_nowhere(sys.stdout)
            is_closed = error.errno == errno.EBADF and error.filename is None
            complain("standard input or output is closed" if is_closed else error)
            status = ExitCode.USAGE
        sys.exit(int(status))


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"diagonalflip {__version__}")
        raise typer.Exit


app = typer.Typer(cls=Commands, help=HELP, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def globally(  # noqa: PLR0913, PLR0917 - options, by name
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="DIAGONALFLIP_URL", help="The server.")] = DEFAULT_URL,
    token: Annotated[
        str | None, typer.Option(envvar="DIAGONALFLIP_TOKEN", help="Sent as Authorization: Bearer.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(exists=True, readable=True, help="Certificates (PEM) to trust.")
    ] = None,
    deadline_s: Annotated[
        float, typer.Option(min=0.001, help="Seconds an answer may take, retries included.")
    ] = 60.0,
    version: Annotated[
        str | None,
        typer.Option("--model-version", envvar="DIAGONALFLIP_VERSION", help="Of the model."),
    ] = None,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Of this command."),
    ] = False,
) -> None:
    """Keep the global options for the subcommand."""
    context.obj = Target(url, token, True if ca is None else str(ca), deadline_s, version)


app.command(epilog=READING)(predict.predict)
app.command(epilog=serve.EPILOG)(serve.serve)
app.command()(check.check)
app.command()(info.wait)
app.command()(info.info)
app.command()(compare.compare)
app.add_typer(model.app, name="model")

"""The command ``diagonalflip``: serve, predict, check, wait and info; see docs/command.md."""

from __future__ import annotations

import os
import signal
import sys

from diagonalflip import _processor
from diagonalflip.cli.exits import UsageError, complain, exit_code, interrupted, needs


def main() -> None:
    """Run the command and exit with one of the codes of ``diagonalflip.cli.exits``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupted)
    if status := _processor.main():
        sys.exit(status)
    _open_streams()
    try:
        with needs("cli"):
            from diagonalflip.cli.app import app  # noqa: PLC0415 - the extra may be missing
    except UsageError as error:
        complain(error)
        sys.exit(exit_code(error))
    app(prog_name="diagonalflip")


def _open_streams() -> None:
    """Make all standard streams open, blocking, and able to write any text.

    Another program may have made one non-blocking, and reading would end early. If one is closed, a
    file that is opened later gets its number, and errors would be written into that file. Reading
    from or writing to a closed stream still fails; only errors are lost.
    """
    flags = os.O_WRONLY, os.O_RDONLY, os.O_WRONLY
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags[descriptor])
        os.set_blocking(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the process
        if mode == "w" and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")

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
            from diagonalflip.cli.app import app  # noqa: PLC0415 - it may not import
    except UsageError as error:
        complain(error)
        sys.exit(exit_code(error))
    app(prog_name="diagonalflip")


def _open_streams() -> None:
    """Give each standard stream a descriptor that waits, and text that every encoding can write.

    One that another program has made not to wait would end early. A file that is opened later would
    take the number of one that is closed, and errors would be written into it. What is read from a
    closed one or written to it fails; only errors are lost.
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

"""The command ``diagonalflip``: predict, check, wait and info; see docs/command.md."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from diagonalflip import _processor

NEEDS = ("typer", "rich", "requests")


def main() -> None:
    """Runs the command and exits with one of the codes of ``diagonalflip.cli.exits``."""
    if status := _processor.main():
        sys.exit(status)
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        print(f"diagonalflip: {names} missing: pip install 'diagonalflip[cli]'", file=sys.stderr)
        sys.exit(2)
    from diagonalflip.cli.app import app  # noqa: PLC0415 - only now is it known to import

    app(prog_name="diagonalflip")

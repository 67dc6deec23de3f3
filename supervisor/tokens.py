"""Tokens of the edge: a file of SHA-256 digests, so that reading it lets nobody in.

    make token NAME=someone TOKENS_FILE=tokens

prints a new token once and adds its line, ``DIGEST NAME``. Delete the line and the token is
unknown (401); write ``revoked`` instead of the name and it is refused as such (403). A
running server follows changes within seconds; two lines may be valid at once, so tokens are
exchanged without a gap.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from pathlib import Path

from diagonalflip.errors import SettingError
from worker.guard import LINE, REVOKED


def add(path: Path, name: str) -> str:
    """A new token of 256 random bits, whose digest is added to the file.

    Raises:
        SettingError: The name cannot be used, or the file cannot be written.
    """
    token = secrets.token_urlsafe(32)
    line = f"{hashlib.sha256(token.encode()).hexdigest()} {name}"
    if not LINE.fullmatch(line) or name == REVOKED:
        raise SettingError(f"NAME={name}", "1 to 64 letters, digits, dots, dashes or underscores")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "w") as file:
            file.write(line + "\n")
    except OSError as error:
        raise SettingError(f"TOKENS_FILE={path}: {error.strerror}", "a file to write") from error
    return token


def main() -> int:
    """Prints a new token for ``$NAME`` and adds it to ``$TOKENS_FILE``."""
    try:
        print(add(Path(os.environ.get("TOKENS_FILE") or "tokens"), os.environ.get("NAME", "")))
    except SettingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

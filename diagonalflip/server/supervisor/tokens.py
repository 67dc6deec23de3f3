"""Tokens of the public listener, in a file of SHA-256 digests: who reads it learns no token.

``make token NAME=someone TOKENS_FILE=tokens`` prints a new token once and adds its line, ``DIGEST
NAME``. Several lines of one name are all valid, so a token can be replaced without a gap.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from pathlib import Path

from diagonalflip.errors import SettingError
from diagonalflip.server.http.authentication import LINE, REVOKED


def add(path: Path, name: str) -> str:
    """Make a token of 256 random bits, and add its digest to the file.

    Raises:
        SettingError: The name cannot be used, or the file cannot be written.
    """
    token = secrets.token_urlsafe(32)
    line = f"{hashlib.sha256(token.encode()).hexdigest()} {name}"
    if not LINE.fullmatch(line) or name == REVOKED:
        raise SettingError(f"NAME={name}", "1 to 64 letters, digits, dots, dashes or underscores")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "a+", encoding="utf-8", errors="replace") as file:
            file.seek(0)
            before = file.read()
            file.write("\n" * (not before.endswith("\n") and before != "") + line + "\n")
    except OSError as error:
        raise SettingError(
            f"FLIP_TOKENS_FILE={path}: {error.strerror}", "a file to write"
        ) from error
    return token


def lines_of(path: Path, name: str) -> list[int]:
    """Return the numbers, from 1, of the lines with tokens of that name."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    found = [LINE.fullmatch(line.partition("#")[0].strip()) for line in lines]
    return [number for number, each in enumerate(found, 1) if each and each[2] == name]


def main() -> int:
    """Print a new token for ``NAME``, add it to ``FLIP_TOKENS_FILE``; return the exit status."""
    path = Path(os.environ.get("FLIP_TOKENS_FILE") or "tokens")
    name = os.environ.get("NAME", "")
    try:
        print(add(path, name))
    except SettingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    older = [str(number) for number in lines_of(path, name)][:-1]
    if older:
        *first, last = older
        lines = f"lines {', '.join(first)} and {last}" if first else f"line {last}"
        valid = f"{len(older) + 1} tokens of {name} are valid now. Delete {lines} of {path}"
        print(f"{valid} when nobody uses the older ones any more.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

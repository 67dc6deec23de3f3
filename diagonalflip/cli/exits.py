"""Exit codes, and errors on stderr: one line, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import NoReturn, TextIO

from diagonalflip import errors


class ExitCode(IntEnum):
    """Exit codes for scripts."""

    OK = 0
    REJECTED = 1
    """The server said no, or its answer is wrong; a promise is broken."""
    USAGE = 2
    """The command line, a file or the images in it cannot be used."""
    UNREACHABLE = 3
    """No connection, or no answer within the deadline."""
    INTERRUPTED = 130
    """Ctrl-C; SIGTERM and SIGHUP have codes of their own, as in a shell."""


class UsageError(errors.DiagonalFlipError):
    """The command cannot do what it was asked for."""


def exit_code(error: errors.DiagonalFlipError) -> ExitCode:
    """Return the exit code for an error."""
    if isinstance(
        error, errors.ConnectionFailed | errors.DeadlineExceeded | errors.ServerOverloaded
    ):
        return ExitCode.UNREACHABLE
    theirs = isinstance(error, UsageError | errors.InvalidPayload | errors.TooManyImages)
    # A plain ClientError is an invalid setting; its subclasses are about answers.
    if theirs or type(error) is errors.ClientError:
        return ExitCode.USAGE
    return ExitCode.REJECTED


def say(line: object) -> None:
    """Print a line for people, without control characters that a server may send."""
    print(_printable(line), flush=True)


def complain(text: object) -> None:
    """Write an error to stderr in one line, without control characters that a server may send."""
    try:
        print(f"diagonalflip: {' '.join(_printable(text).split())}", file=sys.stderr, flush=True)
    except OSError:  # it is a closed pipe, or its disk is full
        point_nowhere(sys.stderr)


def _printable(text: object) -> str:
    """Return a text without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def point_nowhere(stream: TextIO) -> None:
    """Discard what a stream has buffered; at its exit, the interpreter would fail to write it."""
    with suppress(OSError):  # it may not be a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


UNFINISHED: set[Path] = set()
"""Files to remove if the command is interrupted."""


def interrupted(number: int = signal.SIGINT, *_: object) -> NoReturn:
    """Exit at once, on Ctrl-C and other signals.

    An exception could be raised anywhere, for example after taking a lock but before the block that
    releases it. Then a thread would wait for that lock for ever.
    """
    for path in UNFINISHED:
        with suppress(OSError):  # it does not exist, or its folder cannot be written
            path.unlink()
    with suppress(OSError):
        shows_cursor = b"\x1b[?25h\n" if os.isatty(2) else b""  # the progress bar hides it
        os.write(2, shows_cursor + b"diagonalflip: interrupted\n")
    os._exit(128 + number)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Raise UsageError if an import fails because an extra of the package is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        wanted = f"diagonalflip installed with its extra {extra}"
        raise UsageError(f"the package {error.name} is missing", wanted) from error

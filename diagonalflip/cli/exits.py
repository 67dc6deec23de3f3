"""Exit codes, and how an error reads on stderr: one line, and never a traceback."""

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
    """The command was asked for something that it cannot do."""


def exit_code(error: errors.DiagonalFlipError) -> ExitCode:
    """Return the exit code that an error stands for."""
    if isinstance(
        error, errors.ConnectionFailed | errors.DeadlineExceeded | errors.ServerOverloaded
    ):
        return ExitCode.UNREACHABLE
    theirs = isinstance(error, UsageError | errors.InvalidPayload | errors.TooManyImages)
    # A mere ClientError is a setting that cannot be used; its subclasses are answers.
    if theirs or type(error) is errors.ClientError:
        return ExitCode.USAGE
    return ExitCode.REJECTED


def say(line: object) -> None:
    """Print one line for people."""
    print(_printable(line), flush=True)


def complain(text: object) -> None:
    """Say on stderr, in one line, what went wrong."""
    try:
        print(f"diagonalflip: {' '.join(_printable(text).split())}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads it, or it has no room
        point_nowhere(sys.stderr)


def _printable(text: object) -> str:
    """Return text without a server's commands to a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def point_nowhere(stream: TextIO) -> None:
    """Keep the interpreter from failing, at its exit, to write what a stream still holds."""
    with suppress(OSError):  # it may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


UNFINISHED: set[Path] = set()
"""Files that go away if the command is interrupted."""


def interrupted(number: int = signal.SIGINT, *_: object) -> NoReturn:
    """End at once, on Ctrl-C and other signals.

    An exception would be raised anywhere, such as between taking a lock and the block that gives it
    back, and then a thread waits for that lock for ever.
    """
    for path in UNFINISHED:
        with suppress(OSError):  # it is not there, or in a folder that cannot be written
            path.unlink()
    with suppress(OSError):
        shows_cursor = b"\x1b[?25h\n" if os.isatty(2) else b""  # the progress bar hides it
        os.write(2, shows_cursor + b"diagonalflip: interrupted\n")
    os._exit(128 + number)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import what an extra of the package installs; raise UsageError if it is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        wanted = f"diagonalflip installed with its extra {extra}"
        raise UsageError(f"the package {error.name} is missing", wanted) from error

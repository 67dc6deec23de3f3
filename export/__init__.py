"""Build what is served: weights to TorchScript, ONNX and a TorchServe archive."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from subprocess import CalledProcessError

import diagonalflip.inference  # noqa: F401 - before ONNX Runtime: turns its telemetry off
from diagonalflip.errors import DiagonalFlipError


@contextmanager
def ending(program: str) -> Iterator[None]:
    """Exit with a line that says what failed, and after Ctrl-C without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (DiagonalFlipError, OSError, UnicodeError, JSONDecodeError, CalledProcessError) as error:
        sys.exit(f"{program} failed: {error}")

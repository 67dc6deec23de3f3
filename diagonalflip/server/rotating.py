"""A log's file."""

from __future__ import annotations

import contextlib
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_BYTES = 1 << 26
"""Largest size of a log; the previous one is kept as ``.1``."""


class RotatingLog(RotatingFileHandler):
    """A log that goes on without its folder, and on a full disk, where it loses lines."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=1, delay=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; to a new file if a cleaner has taken the one before."""
        with contextlib.suppress(OSError):
            file = Path(self.baseFilename)
            if not file.exists():
                self.close()
                file.parent.mkdir(parents=True, exist_ok=True)
            super().emit(record)

    def close(self) -> None:
        """Close the file; on a full disk, what is left is lost."""
        with contextlib.suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name
        """Lose the line."""

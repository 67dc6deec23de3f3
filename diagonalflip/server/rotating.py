"""Rotating log files, and the formats of their lines."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_BYTES = 1 << 26
"""Largest size of a log; the previous one is kept as ``.1``."""


def require_log(path: Path) -> None:
    """Raise OSError if a log cannot be written, such as one of another user; make it if need be.

    A pipe that nobody reads raises it, too, and does not block.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
    os.close(os.open(path, flags, 0o666))


class UtcFormatter(logging.Formatter):
    """Writes times as all logs here do: RFC 3339 in UTC, with milliseconds."""

    converter = staticmethod(time.gmtime)
    default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03d+00:00"


class JsonFormatter(UtcFormatter):
    """Formats records as JSON, with tracebacks; records that are JSON already stay unchanged."""

    def __init__(self, part: str = "") -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        if getattr(record, "is_json", False):
            return record.getMessage()
        line = {"time": self.formatTime(record), "level": record.levelname}
        part = self._part or record.name
        return json.dumps(line | {"part": part, "message": super().format(record)})


class RotatingLog(RotatingFileHandler):
    """A log file that survives the loss of its folder and a full disk, where it loses lines."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=1, delay=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; to a new file if a cleaner or logrotate has moved the old one away."""
        with contextlib.suppress(OSError):
            if not self._is_there():
                self.close()
                Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            super().emit(record)

    def _is_there(self) -> bool:
        """Return whether the open file still has this name."""
        try:
            found = Path(self.baseFilename).stat()
        except OSError:
            return False
        return self.stream is not None and os.path.samestat(found, os.fstat(self.stream.fileno()))

    def close(self) -> None:
        """Close the file; on a full disk, buffered lines are lost."""
        with contextlib.suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name
        """Lose the line."""

"""Logs: lines to read and a file a part, or every line of every part as JSON on standard output."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import threading
from typing import IO

from diagonalflip.errors import SettingError
from server.settings import Settings

TEXT, JSON = "text", "json"

LOG_BYTES = 1 << 26
"""What the logs that log4j does not rotate may grow to; the part before is kept as ``.1``."""


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time_ = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        told = {"time": f"{time_},{record.msecs:03.0f}", "level": record.levelname}
        return json.dumps(told | {"part": record.name, "message": record.getMessage()})


def configure(log_format: str) -> None:
    """Sends what this process logs to standard output.

    Args:
        log_format: ``text`` or ``json``.

    Raises:
        SettingError: It is neither.
    """
    if log_format not in (TEXT, JSON):
        raise SettingError(f"LOG_FORMAT={log_format}", "text or json")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        _JsonFormatter() if log_format == JSON else logging.Formatter("==> %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def output_of(part: str, settings: Settings) -> IO[bytes]:
    """What a process may have as its standard output and error; close it once it is started.

    Its own file in the folder of logs; or, as JSON, a pipe whose lines go to standard output:
    those that are JSON as they are, any other (Java's warnings, HAProxy's notices) as a message.
    """
    if settings.log_format == TEXT:
        return (settings.log_dir / f"{part}.log").open("ab")
    reader, writer = os.pipe()
    threading.Thread(target=_forward, args=(part, reader), daemon=True).start()
    return os.fdopen(writer, "wb")


def _forward(part: str, reader: int) -> None:
    logger = logging.getLogger(part)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("{"):
                sys.stdout.write(line)
                sys.stdout.flush()
            elif line.strip():
                logger.info("%s", line.strip())


def limit(settings: Settings) -> None:
    """Cuts the files that are too long; does nothing on a full disk, for serving goes on."""
    for part in ("java", "edge"):
        path = settings.log_dir / f"{part}.log"
        with contextlib.suppress(OSError):
            if path.stat().st_size > LOG_BYTES:
                shutil.copyfile(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)

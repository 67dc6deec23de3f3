"""The access log: a JSON line per request."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from time import perf_counter, time

import orjson

from worker.metrics import Entry

LOG_BYTES = 1 << 26
"""Largest size of the log; the previous one is kept as ``.1``."""


class AccessLog:
    """Writes a line for each request of a batch.

    Args:
        path: The file. A disk that is full stops logging, not serving.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
        logging.raiseExceptions = False
        self._epoch = time() - perf_counter()

    def add(self, entries: Sequence[Entry], started: float, finished: float) -> None:  # noqa: ARG002
        """Takes the requests of one batch, and when it was answered."""
        told = datetime.fromtimestamp(self._epoch + finished, UTC).isoformat(
            timespec="milliseconds"
        )
        lines = []
        for door, request, arrived, response in entries:
            form, images = response.work[:2] if response.work is not None else ("", 0)
            line = {
                "time": told,
                "request_id": request.headers.get("x-request-id", "")[:128],
                "door": door,
                "verb": request.verb,
                "form": form,
                "images": images,
                "status": response.status,
                "code": response.code,
                "ms": round(1e3 * (finished - arrived), 3),
            }
            lines.append(orjson.dumps(line).decode())
        record = logging.LogRecord("access", logging.INFO, "", 0, "\n".join(lines), None, None)
        self._handler.handle(record)

    def close(self) -> None:
        """Writes what is left."""
        self._handler.close()

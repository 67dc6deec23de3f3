"""The access log: a JSON line per request."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from time import perf_counter, time

import orjson

from diagonalflip.message import Response
from worker.metrics import Call, Entry

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
        told = self._told(finished)
        lines = []
        for door, request, arrived, response in entries:
            form, images = response.work[:2] if response.work is not None else ("", 0)
            line = {
                "time": told,
                "request_id": request.headers.get("x-request-id", "")[:128],
                "door": door,
                "token": request.token,
                "verb": request.verb,
                "version": response.headers.get("Flip-Model-Version", ""),
                "form": form,
                "images": images,
                "status": response.status,
                "code": response.code,
                "bytes": len(response.body),
                "ms": round(1e3 * (finished - arrived), 3),
            }
            lines.append(orjson.dumps(line).decode())
        self._write("\n".join(lines))

    def observe(self, door: str, call: Call, response: Response) -> None:
        """Takes an answer that no batch gave."""
        now = perf_counter()
        line = {
            "time": self._told(now),
            "request_id": call.headers.get("x-request-id", "")[:128],
            "door": door,
            "token": call.token,
            "method": call.method,
            "path": call.path[:200],
            "status": response.status,
            "code": response.code,
            "bytes": len(response.body),
            "ms": round(1e3 * (now - call.arrived), 3),
        }
        self._write(orjson.dumps(line).decode())

    def _told(self, seconds: float) -> str:
        """Time of day, of ``perf_counter``'s seconds."""
        moment = datetime.fromtimestamp(self._epoch + seconds, UTC)
        return moment.isoformat(timespec="milliseconds")

    def _write(self, lines: str) -> None:
        record = logging.LogRecord("access", logging.INFO, "", 0, lines, None, None)
        self._handler.handle(record)

    def close(self) -> None:
        """Writes what is left."""
        self._handler.close()

"""The access log: a JSON line per request."""

from __future__ import annotations

import logging
import queue
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import QueueListener
from pathlib import Path
from time import perf_counter, time

import orjson

from diagonalflip.message import Request
from diagonalflip.server.rotating import RotatingLog, require_log

WAITING_BATCHES = 256
"""Batches that wait for the disk; the lines of further ones are dropped, and counted."""

logger = logging.getLogger(__name__)


class Writer(QueueListener):
    """Writes what is queued; stopping it waits for room in the queue."""

    def enqueue_sentinel(self) -> None:
        """Queue the end; Python 3.11 would raise ``queue.Full``."""
        self.queue.put(None)  # type: ignore[attr-defined]


class AccessLog:
    """Has a thread write a line for each request.

    Args:
        path: The file. A full disk, or one that hangs, stops the log, not the service.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        require_log(path)
        self._handler, self._dropped = RotatingLog(path), 0
        self._waiting: queue.Queue[logging.LogRecord] = queue.Queue(WAITING_BATCHES)
        self._writer = Writer(self._waiting, self._handler)
        self._writer.start()

    def add(self, requests: Sequence[Request], _started: float | None, finished: float) -> None:
        """Log the requests of one batch, or one that no batch answered; times in seconds."""
        # Computed each time: the clock may be set.
        moment = datetime.fromtimestamp(time() - perf_counter() + finished, UTC)
        answered_at = moment.isoformat(timespec="milliseconds")
        lines = []
        for request in requests:
            response = request.response
            line = {
                "time": answered_at,
                "request_id": request.headers.get("x-request-id", "")[:128],
                "listener": request.transport.listener,
                "token": request.token,
                "method": request.method,
                "path": request.path[:200],
                "operation": request.operation or "",
                "version": response.common.headers.get("Flip-Model-Version", ""),
                "form": request.form if response.times else "",
                "images": request.images.count if response.times else 0,
                "status": response.status,
                "code": response.code,
                "bytes": len(response.body),
                "ms": round(1e3 * (finished - request.arrived), 3),
            }
            lines.append(orjson.dumps(line).decode())
        record = logging.LogRecord("access", logging.INFO, "", 0, "\n".join(lines), None, None)
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            if not self._dropped:  # once: it may happen many times a second
                logger.warning("The disk is too slow for the access log: lines are dropped")
            self._dropped += len(lines)

    def close(self) -> None:
        """Write what is left; say how many lines were dropped."""
        if self._dropped:
            logger.warning("%d lines of the access log were dropped", self._dropped)
        self._writer.stop()
        self._handler.close()

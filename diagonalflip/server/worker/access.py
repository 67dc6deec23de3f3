"""The access log: a JSON line per request."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, time

import orjson

from diagonalflip.message import Request
from diagonalflip.server.rotating import RotatingLog


class AccessLog:
    """Writes a line for each request.

    Args:
        path: The file. A full disk stops the log, not the service.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        path.open("ab").close()
        self._handler = RotatingLog(path)

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
        self._handler.handle(record)

    def close(self) -> None:
        """Write what is left."""
        self._handler.close()

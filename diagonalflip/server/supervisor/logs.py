"""Logs: lines to read and a file per part, or every line of every part as JSON on standard output.

Nothing that serves waits for who reads them: a thread writes, and lines that find its queue full
are dropped and counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import queue
import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from diagonalflip.errors import SettingError
from diagonalflip.server.settings import Settings

TEXT, JSON = "text", "json"

LOG_BYTES = 1 << 26
"""Largest size of a part's own log; the previous one is kept as ``.1``."""

LAST_LINES = 20
"""Of each part, kept for an error's message."""

JAVA = {"Error occurred during initialization": (0, 2), "Error: ": (-2, 1)}
"""Beginnings of lines by which Java says that it could not start; and the lines around each, from
which to which, that have the reason."""

WAITING_LINES = 4096
"""For a reader that stalls; then lines are dropped."""

PATIENCE_S = 1.0
"""Longest wait, at the end of this process, for its last lines to be read."""


class Output:
    """Lines for a descriptor whose reader may stall, or be gone.

    Args:
        descriptor: Of a file or pipe; anything else that this process writes there goes through
            the same object, or lines may break into each other.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(WAITING_LINES)
        self._dropped = 0
        self._idle = threading.Condition()
        threading.Thread(target=self._write, name="output", daemon=True).start()

    def put(self, line: str) -> None:
        """Has ``line``, without its end, written; returns at once."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Waits until all is written, for ``PATIENCE_S`` at most."""
        with self._idle:
            self._idle.wait_for(lambda: not self._lines.unfinished_tasks, PATIENCE_S)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                logging.getLogger(__name__).warning("%d lines dropped: nobody read", dropped)
            data = memoryview(f"{line}\n".encode(errors="replace"))
            with contextlib.suppress(OSError):  # a full disk, or no reader any more
                while data:
                    data = data[os.write(self._descriptor, data) :]
            with self._idle:
                self._lines.task_done()
                self._idle.notify_all()


class _Handler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.put(self.format(record))


class _Formatter(logging.Formatter):
    """Tells times as all logs here do: RFC 3339, in UTC with its offset, and milliseconds."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002 - its name
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, "is_json", False):
            return record.getMessage()
        told = {"time": self.formatTime(record), "level": record.levelname}
        return json.dumps(told | {"part": record.name, "message": record.getMessage()})


def configure(log_format: str, output: Output) -> None:
    """Sends what this process logs to ``output``.

    Args:
        log_format: ``text`` or ``json``.
        output: Of standard output.

    Raises:
        SettingError: It is neither.
    """
    if log_format not in (TEXT, JSON):
        raise SettingError(f"FLIP_LOG_FORMAT={log_format} in the environment", "text or json")
    handler = _Handler(output)
    handler.setFormatter(
        _JsonFormatter() if log_format == JSON else logging.Formatter("==> %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO)


class Part:
    """A part of the service that logs to its standard output and error.

    Its lines go to its own file in the folder of logs; or, as JSON, to standard output: those that
    are JSON as they are, any other (Java's warnings) as a message.

    Args:
        name: Of the part, and of its file.
        settings: Where logs go, and in which form.

    Attributes:
        writer: Descriptor for the part's processes.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self._logger = logging.getLogger(name)
        self._logger.setLevel(logging.INFO)
        for handler in self._logger.handlers[:]:
            self._logger.removeHandler(handler)
            handler.close()
        if settings.log_format == TEXT:
            handler = _Rotating(settings.log_dir / f"{name}.log")
            handler.setFormatter(_Formatter("%(asctime)s %(message)s"))
            self._logger.addHandler(handler)
            self._logger.propagate = False
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        reader, self.writer = os.pipe()
        threading.Thread(target=self._forward, args=(reader,), daemon=True).start()

    def close(self) -> None:
        """Take nothing more from processes that are still to be started."""
        os.close(self.writer)

    def last_error(self) -> str:
        """Return the last line that names an error with its reason; else what was last said.

        Where Java could not start, the reason is in a line before or after that which names the
        error.
        """
        lines = [*self._last]
        for index, line in reversed([*enumerate(lines)]):
            for beginning, (first, end) in JAVA.items():
                if line.startswith(beginning):
                    return " / ".join(lines[max(0, index + first) : index + end])
            if "Error" in line or "Exception" in line:
                return line
        return " / ".join(lines[-3:]) or f"no {self._logger.name} wrote anything"

    def _forward(self, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if said := line.strip():
                    self._last.append(said)
                    self._logger.info("%s", said, extra={"is_json": said.startswith("{")})


class _Rotating(logging.handlers.RotatingFileHandler):
    """A log that goes on without its folder, and on a full disk, where it loses lines."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=1, delay=True)
        self._path = path.absolute()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; to a new file if a cleaner has taken the one before."""
        with contextlib.suppress(OSError):
            if not self._path.exists():
                self.close()
                self._path.parent.mkdir(parents=True, exist_ok=True)
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name
        """Lose the line."""

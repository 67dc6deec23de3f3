"""Logs: text and a file per part, or every line of every part as JSON on standard output.

Serving never waits for a reader of logs: a thread writes them, and when its queue is full, lines
are dropped and counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import threading
from collections import deque
from pathlib import Path
from typing import Any

from diagonalflip.server.rotating import JsonFormatter, RotatingLog, UtcFormatter, require_log
from diagonalflip.server.settings import Settings

TEXT, JSON = "text", "json"

LAST_LINES = 20
"""Lines of each part that are kept for an error's message."""

WAITING_LINES = 4096
"""Length of the queue; further lines are dropped."""

FINISH_TIMEOUT_S = 1.0
"""Longest wait for the last lines to be read before this process exits."""


class Output:
    """A stream of lines to a descriptor whose reader may stall or have exited.

    Args:
        descriptor: A file or pipe. Everything that this process writes there must go through this
            object, or lines may be interleaved.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(WAITING_LINES)
        self._dropped = 0
        threading.Thread(target=self._forward, name="output", daemon=True).start()

    def write(self, line: str) -> None:
        """Queue a line, which includes its line feed; return at once."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def finish(self) -> None:
        """Wait until everything is written, for ``FINISH_TIMEOUT_S`` at most."""
        done = self._lines.all_tasks_done
        with done:
            done.wait_for(lambda: not self._lines.unfinished_tasks, FINISH_TIMEOUT_S)

    def _forward(self) -> None:
        while True:
            data = memoryview(self._lines.get().encode(errors="replace"))
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                logging.getLogger(__name__).warning("%d lines dropped: nobody read", dropped)
            with contextlib.suppress(OSError):  # the disk is full, or the reader has exited
                while data:
                    try:
                        data = data[os.write(self._descriptor, data) :]
                    except BlockingIOError:  # another process has made the pipe non-blocking
                        select.select([], [self._descriptor], [])
            self._lines.task_done()


def configure(log_format: str, output: Output) -> None:
    """Send this process's logs to ``output``."""
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        JsonFormatter() if log_format == JSON else logging.Formatter("==> %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def make_folder(folder: Path) -> None:
    """Make the folder of logs; if that fails, warn, and serve nevertheless."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_log(folder / "worker.log")
    except OSError as error:
        reason = f"FLIP_LOG_DIR={folder}: {error.filename}: {error.strerror}"
        logging.getLogger(__name__).warning("No logs are kept: %s", reason)


class Part:
    """The log of a part of the service, which writes to its standard output and error.

    Its lines go to its own file in the folder of logs; or, with ``FLIP_LOG_FORMAT=json``, to
    standard output: lines of JSON unchanged, others (Java's warnings) as messages.

    Attributes:
        writer: Descriptor for the processes of this part.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self._logger = logging.getLogger(name)
        if settings.log_format == TEXT:
            self._logger = logging.Logger(name)  # noqa: LOG001 - nothing else gets its lines
            handler = RotatingLog(settings.log_dir / f"{name}.log")
            handler.setFormatter(UtcFormatter("%(asctime)s %(message)s"))
            self._logger.addHandler(handler)
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        reader, self.writer = os.pipe()
        threading.Thread(target=self._forward, args=(reader,), daemon=True).start()

    def close(self) -> None:
        """Close the descriptor; processes that have inherited it may go on writing."""
        os.close(self.writer)

    def last_error(self) -> str:
        """Return the last line with an error and its reason; without one, the last three.

        Lines of the level INFO do not count.
        """
        lines = [*self._last]
        for index, line in reversed([*enumerate(lines)]):
            # Java could not start; the reason is in the next line, or in the two before.
            if line.startswith("Error occurred during initialization"):
                return " / ".join(lines[index : index + 2])
            if line.startswith("Error: "):
                return " / ".join(lines[max(0, index - 2) : index + 1])
            if "Error" in line or "Exception" in line:
                return line
        return " / ".join(lines[-3:]) or f"no {self._logger.name} wrote an error"

    def _forward(self, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if text := line.strip():
                    record = _record(text)
                    if record.get("level") != "INFO" and " INFO: " not in text:
                        self._last.extend(str(record.get("message", text)).splitlines())
                    self._logger.info("%s", text, extra={"is_json": bool(record)})
        for handler in self._logger.handlers:
            handler.close()


def _record(line: str) -> dict[str, Any]:
    """Return a line's JSON object; empty if it is not JSON, though it may look like it."""
    with contextlib.suppress(ValueError):
        if line.startswith("{"):
            record: dict[str, Any] = json.loads(line)
            return record
    return {}

"""Logs: lines to read and a file per part, or every line of every part as JSON on standard output.

Nothing that serves waits for who reads them: a thread writes, and lines that find its queue full
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

from diagonalflip.server.rotating import JsonFormatter, RotatingLog, UtcFormatter
from diagonalflip.server.settings import Settings

TEXT, JSON = "text", "json"

LAST_LINES = 20
"""Lines of each part that are kept for an error's message."""

WAITING_LINES = 4096
"""For a reader that stalls; then lines are dropped."""

FINISH_TIMEOUT_S = 1.0
"""Longest wait, at the end of this process, for its last lines to be read."""


class Output:
    """A stream of lines to a descriptor whose reader may stall, or be gone.

    Args:
        descriptor: A file or pipe; anything else that this process writes there goes through
            the same object, or lines may break into each other.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(WAITING_LINES)
        self._dropped = 0
        threading.Thread(target=self._forward, name="output", daemon=True).start()

    def write(self, line: str) -> None:
        """Have a line, with its end, written; return at once."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def finish(self) -> None:
        """Wait until all is written, for ``FINISH_TIMEOUT_S`` at most."""
        done = self._lines.all_tasks_done
        with done:
            done.wait_for(lambda: not self._lines.unfinished_tasks, FINISH_TIMEOUT_S)

    def _forward(self) -> None:
        while True:
            data = memoryview(self._lines.get().encode(errors="replace"))
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                logging.getLogger(__name__).warning("%d lines dropped: nobody read", dropped)
            with contextlib.suppress(OSError):  # a full disk, or no reader any more
                while data:
                    try:
                        data = data[os.write(self._descriptor, data) :]
                    except BlockingIOError:  # who has the pipe too made it so
                        select.select([], [self._descriptor], [])
            self._lines.task_done()


def configure(log_format: str, output: Output) -> None:
    """Send what this process logs to ``output``."""
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        JsonFormatter() if log_format == JSON else logging.Formatter("==> %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def make_folder(folder: Path) -> None:
    """Make the folder of logs; warn if it cannot be written, which is no reason not to serve."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "worker.log").open("ab").close()  # it may be another user's
    except OSError as error:
        why = f"FLIP_LOG_DIR={folder}: {error.filename}: {error.strerror}"
        logging.getLogger(__name__).warning("No logs are kept: %s", why)


class Part:
    """A part of the service that logs to its standard output and error.

    Its lines go to its own file in the folder of logs; or, as JSON, to standard output: those that
    are JSON as they are, any other (Java's warnings) as a message.

    Attributes:
        writer: Descriptor for the part's processes.
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
        """Take nothing more from processes that are still to be started."""
        os.close(self.writer)

    def last_error(self) -> str:
        """Return the last line that names an error with its reason; else what was last said."""
        lines = [*self._last]
        for index, line in reversed([*enumerate(lines)]):
            # Java could not start; the reason is in the next line, or in the two before.
            if line.startswith("Error occurred during initialization"):
                return " / ".join(lines[index : index + 2])
            if line.startswith("Error: "):
                return " / ".join(lines[max(0, index - 2) : index + 1])
            if "Error" in line or "Exception" in line:
                return line
        return " / ".join(lines[-3:]) or f"no {self._logger.name} wrote anything"

    def _forward(self, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if said := line.strip():
                    told = _record(said)
                    self._last.extend(str(told.get("message", said)).splitlines())
                    self._logger.info("%s", said, extra={"is_json": bool(told)})
        for handler in self._logger.handlers:
            handler.close()


def _record(line: str) -> dict[str, Any]:
    """Return what a line tells if it is JSON; some that are none begin as if they were."""
    with contextlib.suppress(ValueError):
        if line.startswith("{"):
            told: dict[str, Any] = json.loads(line)
            return told
    return {}

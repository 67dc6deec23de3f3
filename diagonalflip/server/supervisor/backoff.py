"""Delays between restarts of one part."""

from __future__ import annotations

import time

STABLE_S = 60.0
"""A part that was ready for at least this long is restarted at once."""

LONGEST_S = 15.0


class RestartBackoff:
    """Delays between restarts of one part: 0, 1, 3, 7, 15, 15, ... seconds.

    Attributes:
        failed_starts: How many times in a row the part has ended without becoming ready.
    """

    def __init__(self) -> None:
        self.failed_starts = 0
        self._delay_s = 0.0
        self._ready_at: float | None = None

    def ready(self) -> None:
        """Note that the part is ready."""
        self.failed_starts = 0
        self._ready_at = time.monotonic()

    def ended(self) -> float:
        """Note that the part has ended; return the seconds until it should start again."""
        if self._ready_at is None:
            self.failed_starts += 1
        elif time.monotonic() - self._ready_at >= STABLE_S:
            self._delay_s = 0.0
        self._ready_at = None
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s + 1, LONGEST_S)
        return delay_s

"""The stop signals: noted when they come, raised only where this process waits."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from types import FrameType

TICK_S = 0.1


class StopRequested(Exception):
    """A signal asked for the end."""


class Stop:
    """Return whether a signal asked for the end; further ones do not disturb the stop.

    Its handler raises nothing: that could strike while ``subprocess`` or a log handler holds
    a lock, which nobody would release, or in a finalizer, which swallows it.
    """

    def __init__(self) -> None:
        self._requested = False

    def on(self, signals: Iterable[signal.Signals]) -> None:
        """Takes each of them as such a signal; only the main thread can."""
        for each in signals:
            signal.signal(each, self._note)

    def pause(self, seconds: float) -> None:
        """Sleeps.

        Raises:
            StopRequested: A signal asked for the end, before or meanwhile.
        """
        end = time.monotonic() + seconds
        while not self._requested:
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(left_s, TICK_S))
        raise StopRequested

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._requested = True

"""Deadlines of calls, and their cancellation."""

from __future__ import annotations

import threading
import time

from diagonalflip.errors import DeadlineExceeded

LONGEST_WAIT_S = 1e6
"""Longest single wait: the operating system's calls do not accept much longer timeouts."""


class Deadline:
    """A point in time that all parts of one call share.

    Args:
        seconds: From now on; positive, and infinite for no deadline.
        cancelled: Ends the call early once it is set; shared by deadlines that end together.

    Attributes:
        end: In ``time.monotonic``'s seconds.
        failure: Why the last attempt failed, for the message of ``exceeded``.
    """

    def __init__(self, seconds: float, cancelled: threading.Event | None = None) -> None:
        self._seconds = seconds
        self.end = time.monotonic() + seconds
        self._cancelled = cancelled or threading.Event()
        self.failure: BaseException | None = None

    def restarted(self) -> Deadline:
        """Return a deadline with as many seconds from now on, cancelled together with this one."""
        return Deadline(self._seconds, self._cancelled)

    def cancel(self) -> None:
        """End every call that waits for this deadline or for one restarted from it."""
        self._cancelled.set()

    def left_s(self) -> float:
        """Return the seconds left, at least 0."""
        return 0.0 if self._cancelled.is_set() else max(0.0, self.end - time.monotonic())

    def check(self) -> float:
        """Return the seconds that are left, which is how long a call may wait now.

        Raises:
            DeadlineExceeded: None are left.
        """
        left_s = self.left_s()
        if left_s <= 0:
            raise self.exceeded()
        return min(left_s, LONGEST_WAIT_S)

    def exceeded(self) -> DeadlineExceeded:
        """Return the error to raise when no time is left."""
        if self._cancelled.is_set():
            return DeadlineExceeded("the call was cancelled", "a whole answer")
        failure = self.failure
        before = f" (before: {type(failure).__name__}: {failure})" if failure else ""
        return DeadlineExceeded(
            f"no whole answer in {self._seconds:g} s{before}",
            "one within the deadline",
            "raise deadline_s, send fewer images at once, or look at the server's load",
        )

    def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the deadline or a cancellation."""
        self._cancelled.wait(min(seconds, self.left_s(), LONGEST_WAIT_S))

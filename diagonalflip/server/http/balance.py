"""Which worker accepts a client: one that has few clients.

All workers accept from the same sockets, so that no client waits for one that hangs. But of clients
that connect together, the worker that runs first would take all, and keep them for as long as they
stay. So each worker notes how many it has, in memory that all share, and one that has more than
another gives that one a moment to accept. Meanwhile it looks again in every turn of its event loop:
if clients come and go, the counts change faster than any timer.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from array import array
from collections.abc import MutableSequence
from time import perf_counter

HEAD_START_S = 0.0002
"""Longest wait of a client for a worker that has fewer: enough to wake that one up."""

TOLERANCE = 8
"""One client more in so many does not matter."""

ABSENT = (1 << 32) - 1
"""Count of a worker that accepts none."""

COUNT_BYTES = 4


def share(workers: int) -> int:
    """Return the descriptor of memory for the counts of all workers, each absent at first."""
    try:
        descriptor = os.memfd_create("clients")
    except (AttributeError, OSError):  # on macOS, or where the kernel forbids it
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, workers * ABSENT.to_bytes(COUNT_BYTES, "little"))
    return descriptor


def counts(descriptor: int) -> MutableSequence[int]:
    """Return that memory, as the number of clients by worker."""
    return memoryview(mmap.mmap(descriptor, 0)).cast("I")  # type: ignore[return-value]


class Balance:
    """One worker among all.

    Args:
        clients: How many each worker has; for all workers the same memory.
        number: This worker's.
    """

    def __init__(self, clients: MutableSequence[int] | None = None, number: int = 0) -> None:
        self._clients = array("I", [ABSENT]) if clients is None else clients
        self._number = number
        self._came_at = self._seen_at = 0.0  # of a client that waits, in perf_counter's seconds

    def note(self, clients: int) -> None:
        """Say how many clients this worker has, or that it is ``ABSENT``."""
        self._clients[self._number] = clients

    @property
    def is_ahead(self) -> bool:
        """True while another worker has fewer clients, and not just a few."""
        least = min(self._clients)
        return self._clients[self._number] - least > least // TOLERANCE

    def accepts(self) -> bool:
        """Return whether to accept a client that waits; ask in every turn of the event loop."""
        now = perf_counter()
        if now - self._seen_at > HEAD_START_S:
            self._came_at = now
        self._seen_at = now
        if self.is_ahead and now - self._came_at <= HEAD_START_S:
            return False
        self._came_at = now
        return True

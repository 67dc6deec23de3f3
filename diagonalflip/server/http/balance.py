"""Spread clients over the workers: the one that has fewer accepts.

All workers accept from the same sockets, so no client waits for a worker that hangs. But when many
clients connect at once, the worker that runs first would take them all, and keep them. So each
worker writes its number of clients into memory that all share, and a worker that has more than
another gives that one a moment to accept. Meanwhile it looks again in every turn of its event loop:
when clients come and go, the counts change faster than any timer.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from array import array
from collections.abc import MutableSequence
from time import perf_counter

HEAD_START_S = 0.0002
"""How long a client waits for a worker that has fewer: enough for that worker to wake up."""

TOLERANCE = 8
"""One client more in eight does not matter."""

ABSENT = (1 << 32) - 1
"""Count of a worker that accepts no clients."""

COUNT_BYTES = 4


def share(workers: int) -> int:
    """Return a descriptor of shared memory for the counts of all workers, each ABSENT at first."""
    try:
        descriptor = os.memfd_create("clients")
    except (AttributeError, OSError):  # on macOS, or where the kernel forbids it
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, workers * ABSENT.to_bytes(COUNT_BYTES, "little"))
    return descriptor


def counts(descriptor: int) -> MutableSequence[int]:
    """Return that memory as the number of clients by worker."""
    return memoryview(mmap.mmap(descriptor, 0)).cast("I")  # type: ignore[return-value]


class Balance:
    """One worker's view of the counts.

    Args:
        clients: Number of clients by worker, in shared memory.
        number: This worker's index.
    """

    def __init__(self, clients: MutableSequence[int] | None = None, number: int = 0) -> None:
        self._clients = array("I", [ABSENT]) if clients is None else clients
        self._number = number
        # When a waiting client came, and when it was last seen, in perf_counter's seconds.
        self._came_at = self._seen_at = 0.0

    def note(self, clients: int) -> None:
        """Set this worker's number of clients, or ``ABSENT``."""
        self._clients[self._number] = clients

    @property
    def is_ahead(self) -> bool:
        """True while this worker has clearly more clients than another."""
        least = min(self._clients)
        return self._clients[self._number] - least > least // TOLERANCE

    def accepts(self) -> bool:
        """Return whether to accept the client that waits; call it in every turn of the loop."""
        now = perf_counter()
        if now - self._seen_at > HEAD_START_S:
            self._came_at = now
        self._seen_at = now
        if self.is_ahead and now - self._came_at <= HEAD_START_S:
            return False
        self._came_at = now
        return True

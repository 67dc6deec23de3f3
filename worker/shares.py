"""What a worker holds for clients: bodies that come, and answers that are not read."""

from __future__ import annotations

from collections import Counter

from worker import limits


class Shares:
    """Bytes by door and client.

    Each door has a share of its own, so that a flood at one leaves the other its room. While more
    than half of it is in use, no client may have more than a quarter.

    Attributes:
        total: All of them.
        doors: How many doors share ``HELD_BYTES``.
    """

    def __init__(self) -> None:
        self.total = 0
        self.doors = 1
        self._doors: Counter[str] = Counter()
        self._clients: Counter[tuple[str, str]] = Counter()

    def add(self, door: str, client: str, length: int) -> None:
        """Count bytes more, or less if that is negative."""
        self.total += length
        self._doors[door] += length
        self._clients[door, client] += length
        if not self._clients[door, client]:
            del self._clients[door, client]

    def is_full(self, door: str, client: str) -> bool:
        """Return whether the client has more than it may."""
        most = limits.HELD_BYTES // self.doors
        held = self._doors[door]
        return held > most or (held > most // 2 and self._clients[door, client] > most // 4)

    def is_short(self, door: str) -> bool:
        """Return whether more than half of the door's share is in use."""
        return self._doors[door] > limits.HELD_BYTES // self.doors // 2

"""What a worker buffers for clients: bodies that come, and answers that are not read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from diagonalflip.server.http import limits


@dataclass(slots=True)
class Share:
    """Bytes of a listener, or of a client.

    Attributes:
        bytes: How many.
    """

    bytes: int = 0


class Shares:
    """Bytes by listener and client.

    Each listener has a share of its own, so that a flood at one leaves the other its room. While
    more than half of it is in use, no client may have more than a quarter.

    Attributes:
        by_listener: Of each listener.
        by_token: Of the public listener's clients, which may have many connections.
        count: How many listeners share ``BUFFERED_BYTES``.
    """

    def __init__(self) -> None:
        self.by_listener: defaultdict[str, Share] = defaultdict(Share)
        self.by_token: defaultdict[str, Share] = defaultdict(Share)
        self.count = 1

    @property
    def total(self) -> int:
        """Bytes of all listeners."""
        total = 0
        for share in self.by_listener.values():
            total += share.bytes
        return total

    def is_full(self, listener: Share, client: Share) -> bool:
        """Return whether the client has more than it may."""
        most = limits.BUFFERED_BYTES // self.count
        return listener.bytes > most or (listener.bytes > most // 2 and client.bytes > most // 4)

    def is_short(self, listener: str) -> bool:
        """Return whether more than half of a listener's share is in use."""
        return self.by_listener[listener].bytes > limits.BUFFERED_BYTES // self.count // 2

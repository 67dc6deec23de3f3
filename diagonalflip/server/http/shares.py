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
        by_listener: Each listener's.
        by_token: Those of the public listener's clients, which may have many connections.
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

    def is_short(self, listener: str) -> bool:
        """Return whether more than half of a listener's share is in use."""
        return self.by_listener[listener].bytes > limits.BUFFERED_BYTES // self.count // 2


class Buffered:
    """Bytes that one connection keeps: part of its listener's share, and of its client's.

    Args:
        shares: Those of the worker.
        listener: Name of the listener.

    Attributes:
        body, unsent: Bytes of requests' bodies, and of answers that the client has not read.
    """

    def __init__(self, shares: Shares, listener: str) -> None:
        self._shares, self._listener, self._client = shares, shares.by_listener[listener], Share()
        self._token = ""
        self.body = self.unsent = 0

    @property
    def is_full(self) -> bool:
        """True while the client has more than it may."""
        most, used = limits.BUFFERED_BYTES // self._shares.count, self._listener.bytes
        return used > most // 2 and (used > most or self._client.bytes > most // 4)

    def add_body(self, length: int) -> None:
        """Count bytes of bodies; fewer, if it is negative."""
        self.body += length
        self._add(length)

    def set_unsent(self, length: int) -> None:
        """Count so many bytes of answers."""
        self._add(length - self.unsent)
        self.unsent = length

    def belong_to(self, token: str) -> None:
        """Count it with all that the client with that token has."""
        if token != self._token:
            kept = self.body + self.unsent
            self._client.bytes -= kept
            self._token, self._client = token, self._shares.by_token[token]
            self._client.bytes += kept

    def _add(self, length: int) -> None:
        self._listener.bytes += length
        self._client.bytes += length

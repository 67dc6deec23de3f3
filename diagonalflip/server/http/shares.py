"""What a worker buffers for clients: bodies that come, and answers that are not read."""

from __future__ import annotations

from collections import Counter

from diagonalflip.errors import ServerOverloaded
from diagonalflip.server.http import limits


def full() -> ServerOverloaded:
    """Make a new one each time: raised twice, it would keep the frames of both for ever."""
    return ServerOverloaded("the server is full", "less work", "send it again later")


class Shares:
    """Bytes by listener and client.

    Each listener has a share of its own, so that a flood at one leaves the other its room. While
    more than half of it is in use, no client may have more than a quarter.

    Attributes:
        by_listener: Each listener's, by its name.
        by_token: Those of the public listener's clients, which may have many connections.
        count: How many listeners share ``BUFFERED_BYTES``.
    """

    def __init__(self) -> None:
        self.by_listener: Counter[str] = Counter()
        self.by_token: Counter[str] = Counter()
        self.count = 1

    def is_short(self, listener: str) -> bool:
        """Return whether more than half of a listener's share is in use."""
        return self.by_listener[listener] > limits.BUFFERED_BYTES // self.count // 2


class Buffered:
    """Bytes that one connection keeps: part of its listener's share, and of its client's.

    Attributes:
        body, unsent: Bytes of requests' bodies, and of answers that the client has not read.
        token: Name of the client's token; without one, the connection is a client of its own.
    """

    def __init__(self, shares: Shares, listener: str) -> None:
        self._shares, self._listener = shares, listener
        self.token = ""
        self.body = self.unsent = 0

    @property
    def is_full(self) -> bool:
        """True while the client has more than it may."""
        shares = self._shares
        most, used = limits.BUFFERED_BYTES // shares.count, shares.by_listener[self._listener]
        if used <= most // 2:
            return False
        own = shares.by_token[self.token] if self.token else self.body + self.unsent
        return used > most or own > most // 4

    def take(self, length: int) -> None:
        """Count bytes of a body that have come; raises ServerOverloaded if there is no room."""
        self.add_body(length)
        if self.is_full:
            raise full()

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
        if token != self.token:
            kept = self.body + self.unsent
            self._add(-kept)
            self.token = token
            self._add(kept)

    def _add(self, length: int) -> None:
        self._shares.by_listener[self._listener] += length
        if self.token:
            self._shares.by_token[self.token] += length

"""Bytes that a worker buffers for clients: bodies that arrive, and responses not read yet."""

from __future__ import annotations

from collections import Counter

from diagonalflip.errors import ServerOverloaded
from diagonalflip.server.http import limits


def full() -> ServerOverloaded:
    """Return a new error each time: one that is raised twice keeps the frames of both alive."""
    return ServerOverloaded("the server is full", "less work", "send it again later")


class Shares:
    """Buffered bytes by listener and client.

    Each listener has its own share, so a flood at one leaves room at the other. While more than
    half of a share is in use, no client may have more than a quarter of it.

    Attributes:
        by_listener: Bytes by the name of the listener.
        by_token: Bytes by the token's name: such a client may have many connections.
        count: Number of listeners that share ``BUFFERED_BYTES``.
    """

    def __init__(self) -> None:
        self.by_listener: Counter[str] = Counter()
        self.by_token: Counter[str] = Counter()
        self.count = 1

    def is_short(self, listener: str) -> bool:
        """Return whether more than half of a listener's share is in use."""
        return self.by_listener[listener] > limits.BUFFERED_BYTES // self.count // 2


class Buffered:
    """Bytes buffered for one connection; they count in its listener's and its client's share.

    Attributes:
        body, unsent: Bytes of requests' bodies, and of responses that the client has not read.
        token: Name of the client's token; without a token, each connection is its own client.
    """

    def __init__(self, shares: Shares, listener: str) -> None:
        self._shares, self._listener = shares, listener
        self.token = ""
        self.body = self.unsent = 0

    @property
    def is_full(self) -> bool:
        """True while the client's share is used up."""
        shares = self._shares
        most, used = limits.BUFFERED_BYTES // shares.count, shares.by_listener[self._listener]
        if used <= most // 2:
            return False
        own = shares.by_token[self.token] if self.token else self.body + self.unsent
        return used > most or own > most // 4

    def take(self, length: int) -> None:
        """Count bytes of a body that have arrived; raise ServerOverloaded if there is no room."""
        self.add_body(length)
        if self.is_full:
            raise full()

    def add_body(self, length: int) -> None:
        """Add to the bytes of bodies; ``length`` may be negative."""
        self.body += length
        self._add(length)

    def set_unsent(self, length: int) -> None:
        """Set the bytes of responses that are not sent."""
        self._add(length - self.unsent)
        self.unsent = length

    def belong_to(self, token: str) -> None:
        """Count the connection among those of the client with that token."""
        if token != self.token:
            kept = self.body + self.unsent
            self._add(-kept)
            self.token = token
            self._add(kept)

    def _add(self, length: int) -> None:
        self._shares.by_listener[self._listener] += length
        if self.token:
            self._shares.by_token[self.token] += length

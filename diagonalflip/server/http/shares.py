"""Bytes that a worker buffers for clients: bodies that arrive, and responses not read yet."""

from __future__ import annotations

from collections import defaultdict

from diagonalflip.errors import ServerOverloaded
from diagonalflip.server.http import limits


def full() -> ServerOverloaded:
    """Return a new error each time: one that is raised twice keeps the frames of both alive."""
    return ServerOverloaded("the server is full", "less work", "send it again later")


class Share:
    """Bytes buffered for one listener's clients, so a flood at one leaves room at the other.

    While more than half of the share is in use, no client may have more than a quarter of it.

    Attributes:
        used: Bytes in use.
        by_token: Bytes by the token's name: such a client may have many connections.
        listeners: Number of listeners that share ``BUFFERED_BYTES``.
    """

    def __init__(self) -> None:
        self.used, self.listeners = 0, 1
        self.by_token: defaultdict[str, int] = defaultdict(int)

    @property
    def is_short(self) -> bool:
        """True while more than half of the share is in use."""
        return self.used > limits.BUFFERED_BYTES // self.listeners // 2


class Buffered:
    """Bytes buffered for one connection; they count in its listener's and its client's share.

    Attributes:
        share: Its listener's.
        body, unsent: Bytes of requests' bodies, and of responses that the client has not read.
        token: Name of the client's token; without a token, each connection is its own client.
    """

    def __init__(self, share: Share) -> None:
        self.share = share
        self.token = ""
        self.body = self.unsent = 0

    @property
    def is_full(self) -> bool:
        """True while the client's share is used up."""
        share = self.share
        most = limits.BUFFERED_BYTES // share.listeners
        if share.used <= most // 2:
            return False
        own = share.by_token[self.token] if self.token else self.body + self.unsent
        return share.used > most or own > most // 4

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
        self.share.used += length
        if self.token:
            self.share.by_token[self.token] += length

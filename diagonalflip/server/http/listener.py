"""A small HTTP/1.1 server on asyncio: listeners, answers' heads, and deadlines.

Why not a library: bare ASGI on uvicorn with this contract, service and queue had 1.9 times the
latency of W1, 0.6 of the rate of W2 and W3, and 0.9 of W4 (docs/capacity.md).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from time import perf_counter

from diagonalflip.message import Common, Request, Response
from diagonalflip.server.http import limits
from diagonalflip.server.http.authentication import Authenticator
from diagonalflip.server.http.balance import ABSENT, Balance
from diagonalflip.server.http.connection import Connection
from diagonalflip.server.http.hosts import Hosts, is_this_host
from diagonalflip.server.http.lifecycle import Lifecycle
from diagonalflip.server.http.tls import Tls
from diagonalflip.server.worker.metrics import PUBLIC, Metrics

logger = logging.getLogger(__name__)

CONNECTIONS_PER_ACCEPT = 16
"""A worker accepts one client at a time, and one more for so many that it has."""

DRAIN_POLL_S = 0.02


class Listener:
    """A listening socket for clients.

    Args:
        name: For metrics.
        sock: That listens, and does not block.
        allowed: Names in ``Host`` that it takes, besides those that ``Hosts`` takes anyway.
        authenticator: Knows its tokens and its certificate, if it is the public one.
    """

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        allowed: Iterable[str] = (),
        authenticator: Authenticator | None = None,
    ) -> None:
        self.name, self.sock, self.authenticator = name, sock, authenticator
        # A proxy may stand before the public one.
        is_public = name == PUBLIC or not is_this_host(sock.getsockname()[0])
        self.hosts = Hosts(allowed, is_public=is_public)


class HttpServer(ABC):
    """Answers requests, those that ``route`` does not know by their service."""

    def __init__(self, metrics: Metrics, balance: Balance | None = None) -> None:
        self._balance = balance or Balance()
        self.most_connections = limits.most_connections()
        self.metrics = metrics
        self.lifecycle = Lifecycle(self.route, metrics)
        self.connections: set[Connection] = set()
        self.draining = False
        self._begins: dict[tuple[int, Common], str] = {}  # of responses' heads, for a second
        self._opening: set[asyncio.Task[None]] = set()  # connections, until TLS is agreed on
        self._accepted = 0  # connections, with those that are not open yet
        self._of_address: Counter[str] = Counter()  # connections of the public listener's clients

    @abstractmethod
    def route(self, request: Request) -> Response | None:
        """Set operation and service of a request; or return the response, if its head suffices."""

    async def serve(self, listeners: Sequence[Listener], opened: Callable[[], None]) -> None:
        """Serve until ``end`` or until it is cancelled, and close listeners and connections then.

        ``opened`` is called once clients are answered.
        """
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._listeners = list(listeners)
        self.lifecycle.buffered.count = len(listeners)
        self._balance.note(0)
        for listener in self._listeners:
            self._listen(listener)
        self._every_second()
        opened()
        try:
            await self._ended.wait()
        finally:
            for listener in self._listeners:
                self._close(listener)
            for connection in list(self.connections):
                connection.abort()

    def end(self) -> None:
        """End ``serve`` and every connection; for another thread, after ``opened``."""
        self._loop.call_soon_threadsafe(self._ended.set)

    async def drain(self) -> None:
        """Close the listeners for clients, and return when all who came in have been answered.

        Each is answered with ``Connection: close``; who asks nothing is let go after a moment.
        """
        self.draining = True
        self._balance.note(ABSENT)
        for listener in self._listeners:
            while self._accept(listener):
                pass  # a client that waits to be accepted would be reset
            self._close(listener)
        for connection in self.connections:
            connection.expect()
        getting_on = self._opening
        while self._opening and getting_on:  # who says nothing of TLS is let go as well
            getting_on, _ = await asyncio.wait(
                self._opening, timeout=limits.DRAIN_IDLE_S, return_when=asyncio.FIRST_COMPLETED
            )
        while any(each.unsent or not each.finished for each in self.connections):  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_S)

    def head(self, response: Response, connection: str) -> bytes:
        """Return status line and headers; ``connection`` is the header of that name."""
        kind = response.status, response.common
        begin = self._begins.get(kind)
        if begin is None:
            status, date = HTTPStatus(response.status), formatdate(usegmt=True)
            begin = f"HTTP/1.1 {status:d} {status.phrase}\r\ndate: {date}\r\n"
            begin += f"cache-control: no-store\r\n{kind[1].lines}"  # all of it is of now
            self._begins[kind] = begin
        lines = f"{begin}content-length: {len(response.body)}\r\n"
        if response.content_type:
            lines += f"content-type: {response.content_type}\r\n"
        for name, value in response.headers.items():
            lines += f"{name}: {value}\r\n"
        if connection:
            lines += f"connection: {connection}\r\n"
        return (lines + "\r\n").encode("latin-1", "replace")

    def tick(self) -> None:  # noqa: B027 - there may be nothing to do
        """Do what is due every second."""

    def _listen(self, listener: Listener) -> None:
        if listener.sock.fileno() >= 0:
            self._loop.add_reader(listener.sock, self._welcome, listener)

    def _close(self, listener: Listener) -> None:
        if listener.sock.fileno() >= 0:
            self._loop.remove_reader(listener.sock)
            listener.sock.close()

    def _welcome(self, listener: Listener) -> None:
        """Accept clients, unless they should wait for another worker."""
        self._note()
        if self._balance.accepts():
            self._accept(listener)

    def _accept(self, listener: Listener) -> bool:
        """Accept some of those who wait; return whether more may.

        One client in each turn of the loop is too slow under load, when a turn takes tens of
        milliseconds and hundreds connect together.
        """
        try:
            for _ in range(1 + len(self.connections) // CONNECTIONS_PER_ACCEPT):
                accepted, address = listener.sock.accept()
                host = address[0] if listener.name == PUBLIC else ""
                if self._is_crowded(host):
                    accepted.close()
                    continue
                self._accepted += 1
                if host:
                    self._of_address[host] += 1
                accepted.setblocking(False)
                connection = Connection(self, listener, host)
                opening = self._loop.create_task(self._open(connection, accepted, listener))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)
                self._note()
        except BlockingIOError:
            return False
        except ConnectionAbortedError:
            pass  # this client is gone; others may wait
        except OSError:
            logger.exception("no further client for a second")
            self._loop.remove_reader(listener.sock)
            self._loop.call_later(1.0, self._listen, listener)
            return False
        return True

    def _note(self) -> None:
        if not self.draining:
            self._balance.note(self._accepted)

    def _is_crowded(self, address: str) -> bool:
        """Return whether a further client, of ``address``, would take the room of others."""
        most, of_address = self.most_connections, self._of_address[address]
        return self._accepted >= most + limits.TOLD_FILES or of_address >= (most + 1) // 2

    async def _open(
        self, connection: Connection, accepted: socket.socket, listener: Listener
    ) -> None:
        """Begin with a client; return once TLS is agreed on, if the listener has a certificate."""
        protocol: Tls | Connection = connection
        if listener.authenticator is not None and listener.authenticator.context is not None:
            protocol = Tls(connection, listener.authenticator.context)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError:  # a client that is gone
            protocol.connection_lost(None)
        if isinstance(protocol, Tls) and not await protocol.settle():
            self.metrics.failed_handshakes += 1

    def forget(self, connection: Connection) -> None:
        """Count a connection no longer."""
        self.connections.discard(connection)
        self._accepted -= 1
        self._note()
        address, connection.address = connection.address, ""
        if address:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    def _every_second(self) -> None:
        self._loop.call_later(1.0, self._every_second)  # whatever happens below
        self._begins.clear()
        now = perf_counter()
        buffered = self.lifecycle.buffered
        for connection in list(self.connections):
            if connection.deadline < now:
                connection.expire()
            elif buffered.is_short(connection.listener) and _is_stalled(connection, now):
                connection.abort()  # or stalled clients would take the room of all
        for listener in self._listeners:
            if listener.authenticator is not None:
                listener.authenticator.tick()
        self.tick()


def _is_stalled(connection: Connection, now: float) -> bool:
    """Return whether the client has read nothing for long, of what it is owed."""
    unsent = connection.unsent
    if unsent != connection.stuck[0]:
        connection.stuck = unsent, now
    return unsent > 0 and now - connection.stuck[1] > limits.STALLED_S

"""A small HTTP/1.1 server on asyncio: listeners, heads of responses, and deadlines.

Why not a library: bare ASGI on uvicorn, with the same contract, service and queue, had 1.9 times
the latency of W1, 0.6 of the rate of W2 and W3, and 0.9 of W4 (docs/capacity.md).
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

from diagonalflip.message import Request, Response
from diagonalflip.server.http import limits
from diagonalflip.server.http.authentication import Authenticator
from diagonalflip.server.http.balance import ABSENT, Balance
from diagonalflip.server.http.connection import Connection
from diagonalflip.server.http.hosts import Hosts, is_this_host
from diagonalflip.server.http.lifecycle import Lifecycle
from diagonalflip.server.http.shares import Share
from diagonalflip.server.http.tls import Tls
from diagonalflip.server.worker.metrics import PUBLIC, Metrics

logger = logging.getLogger(__name__)

CONNECTIONS_PER_ACCEPT = 16
"""A worker accepts one client at a time, and one more for every 16 connections that it has."""


class Listener:
    """A listening socket for clients.

    Args:
        name: For metrics.
        sock: The socket, which must not block.
        allowed: Names that it takes in ``Host``, besides those that ``Hosts`` always takes.
        authenticator: Has the tokens and the certificate; None for the HTTP listener.
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
        self.share = Share()


class HttpServer(ABC):
    """Serves HTTP; a request that ``route`` does not answer is answered by its service."""

    def __init__(self, metrics: Metrics, balance: Balance | None = None) -> None:
        self._balance = balance or Balance()
        self.most_connections = limits.most_connections()
        self.metrics = metrics
        self.lifecycle = Lifecycle(self.route, metrics)
        self.connections: set[Connection] = set()
        self.draining = False
        self._begins: dict[int, str] = {}  # of responses' heads by status, for a second
        self._opening: set[asyncio.Task[None]] = set()  # connections, until TLS is agreed on
        self._accepted = 0  # connections, including those that are not open yet
        self._of_address: Counter[str] = Counter()  # connections of the public listener's clients

    @abstractmethod
    def route(self, request: Request) -> Response | None:
        """Set a request's operation and service, or return its response if the head is enough."""

    async def serve(self, listeners: Sequence[Listener], opened: Callable[[], None]) -> None:
        """Serve until ``end`` or a cancellation, then close listeners and connections.

        ``opened`` is called as soon as clients are served.
        """
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._listeners = list(listeners)
        self.lifecycle.shares = [listener.share for listener in listeners]
        self._balance.note(0)
        for listener in self._listeners:
            listener.share.listeners = len(listeners)
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
        """End ``serve`` and every connection; may be called in any thread, after ``opened``."""
        self._loop.call_soon_threadsafe(self._ended.set)

    async def drain(self) -> None:
        """Close the listeners; return when all connected clients have been answered.

        Responses say ``Connection: close``; idle connections end after ``DRAIN_IDLE_S``.
        """
        self.draining = True
        self._balance.note(ABSENT)
        for listener in self._listeners:
            while self._accept(listener):
                pass  # closing the socket would reset clients that wait to be accepted
            self._close(listener)
        for connection in self.connections:
            connection.expect()
        completed = self._opening
        while self._opening and completed:  # give up on handshakes that make no progress
            completed, _ = await asyncio.wait(
                self._opening, timeout=limits.DRAIN_IDLE_S, return_when=asyncio.FIRST_COMPLETED
            )
        while any(each.unsent or not each.finished for each in self.connections):  # noqa: ASYNC110
            await asyncio.sleep(limits.DRAIN_POLL_S)

    def head(self, response: Response, connection: str) -> bytes:
        """Return status line and headers; ``connection`` is the value of that header."""
        begin = self._begins.get(response.status)
        if begin is None:
            status, date = HTTPStatus(response.status), formatdate(usegmt=True)
            begin = f"HTTP/1.1 {status:d} {status.phrase}\r\ndate: {date}\r\n"
            begin = self._begins[response.status] = f"{begin}cache-control: no-store\r\n"
        lines = f"{begin}{response.common.lines}content-length: {len(response.body)}\r\n"
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
        """Accept clients, unless another worker should."""
        self._note()
        if self._balance.accepts():
            self._accept(listener)

    def _accept(self, listener: Listener) -> bool:
        """Accept some of the clients that wait; return False if none is left.

        One client per turn of the event loop is too slow under load, when a turn takes tens of
        milliseconds and hundreds of clients connect at once.
        """
        try:
            for _ in range(1 + len(self.connections) // CONNECTIONS_PER_ACCEPT):
                accepted, address = listener.sock.accept()
                host = address[0] if listener.name == PUBLIC else ""
                if self._is_crowded(host, accepted):
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
            pass  # this client has disconnected; others may wait
        except OSError:
            logger.exception("no further client for a second")
            self._loop.remove_reader(listener.sock)
            self._loop.call_later(1.0, self._listen, listener)
            return False
        return True

    def _note(self) -> None:
        if not self.draining:
            self._balance.note(self._accepted)

    def _is_crowded(self, address: str, accepted: socket.socket) -> bool:
        """Return whether a further client of ``address`` would leave no room for others."""
        most, of_address = self.most_connections, self._of_address[address]
        if of_address >= (most + 1) // 2 and accepted.getsockname()[0] != address:
            return True  # this host's own may have all, as at the HTTP listener
        return self._accepted >= most + limits.EXCESS_CONNECTIONS

    async def _open(
        self, connection: Connection, accepted: socket.socket, listener: Listener
    ) -> None:
        """Start serving a client; with TLS, return when the handshake is over."""
        protocol: Tls | Connection = connection
        if listener.authenticator is not None and listener.authenticator.context is not None:
            protocol = Tls(connection, listener.authenticator.context)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError:  # the client has disconnected
            protocol.connection_lost(None)
        if isinstance(protocol, Tls) and await protocol.settle():
            self.metrics.failed_handshakes += 1

    def forget(self, connection: Connection) -> None:
        """Stop counting a connection that has ended."""
        self.connections.discard(connection)
        self._accepted -= 1
        self._note()
        address, connection.address = connection.address, ""
        if address:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    def _every_second(self) -> None:
        self._loop.call_later(1.0, self._every_second)  # first: the rest may fail
        self._begins.clear()
        now = perf_counter()
        for connection in list(self.connections):
            if connection.deadline < now:
                connection.expire()
            elif connection.buffered.share.is_short and _is_stalled(connection, now):
                connection.abort()  # or stalled clients would leave no room for others
        for listener in self._listeners:
            if listener.authenticator is not None:
                listener.authenticator.tick()
        self.tick()


def _is_stalled(connection: Connection, now: float) -> bool:
    """Return whether the client has unread responses, and has read nothing for a while."""
    unsent = connection.unsent
    if unsent != connection.stuck[0]:
        connection.stuck = unsent, now
    return unsent > 0 and now - connection.stuck[1] > limits.STALLED_S

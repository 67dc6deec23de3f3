"""One HTTP/1.1 connection: one request at a time, deadlines for the client, a graceful close.

It is the transport of its requests: lifecycle.py says what happens to them in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from diagonalflip.errors import DiagonalFlipError, RequestTimeout, ServerOverloaded
from diagonalflip.message import Request
from diagonalflip.server.http import limits
from diagonalflip.server.http.lifecycle import full
from diagonalflip.server.http.parser import Parser
from diagonalflip.server.http.shares import Buffered
from diagonalflip.server.worker.metrics import PUBLIC
from diagonalflip.wire import MAX_BODY_BYTES

if TYPE_CHECKING:
    from diagonalflip.server.http.listener import HttpServer, Listener

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        server: What it belongs to.
        listener: That accepted it.
        address: The client's, at the public listener.
    """

    def __init__(self, server: HttpServer, listener: Listener, address: str = "") -> None:
        self._server, self.listener, self.address = server, listener.name, address
        self._hosts = listener.hosts
        self._lifecycle = server.lifecycle
        self._authenticator = server.authenticator if listener.name == PUBLIC else None
        self._parser: Parser | None = Parser(self)  # None: what the client still sends is ignored
        self._coming: Request | None = None  # its head has come, and its body comes
        self._queue: deque[Request] = deque()  # those that were pipelined behind the next
        self._request: Request | None = None  # what is being answered
        self._asks = False  # the client waits to be asked for the body of what comes
        self._ended = False  # the client sends no more
        self.finished = False  # the last answer is written
        self._paused = False  # the client reads slowly
        self._reading_paused = False  # it is not listened to
        self.buffered = Buffered(server.lifecycle.buffered, listener.name)
        self._ignored_bytes = 0
        self.lost = False
        self.deadline: float | None = None
        self.stuck = 0, 0.0  # for the server: how much was unsent when, the last time it changed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with a new client."""
        self._transport = cast("asyncio.Transport", transport)
        self._time = asyncio.get_running_loop().time
        self._server.connections.add(self)
        self._transport.set_write_buffer_limits(limits.UNSENT_BYTES)
        self.expect()
        most = self._server.most_connections
        if len(self._server.connections) > most:
            self._reject(ServerOverloaded("too many connections", f"at most {most}"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget the client, which is gone; what it still waits for is not computed."""
        self.lost = True
        self._server.forget(self)
        self._queue.clear()
        self._request = None
        self._stop_reading()
        self.buffered.set_unsent(0)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes to the parser, which calls the methods of a ``Receiver``."""
        if self._parser is None:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > MAX_BODY_BYTES:
                self.abort()
            return
        try:
            self._parser.feed(data)
        except DiagonalFlipError as error:
            if self._parser is not None:
                self._reject(error)

    def eof_received(self) -> bool:
        """Take the client's end of sending; it still gets the answers it waits for."""
        self._ended = True
        self._stop_reading()
        is_owed = self._request is not None or bool(self._queue)
        if not is_owed:
            self._leave()
        return is_owed

    def pause_writing(self) -> None:
        """Stop listening to a client that reads slowly."""
        self._paused = self._reading_paused = True
        self._transport.pause_reading()
        self.expect()

    def resume_writing(self) -> None:
        """Go on with a client that has read."""
        self._paused = False
        self._answer_next()
        self._listen()
        self.expect()

    def begin(self) -> None:
        """Give the client its time for a request, whose first byte has come."""
        self.expect()

    def admit(self, method: str, path: str, headers: dict[str, str]) -> bool:
        """Make a request of its head; return whether its body is wanted."""
        request = self._coming = Request(None, headers, b"", None, method, path, self)
        self._lifecycle.admit(request, self._hosts, self._authenticator)
        if request.response is not None:
            return False
        self.buffered.belong_to(request.token)
        return True

    def proceed(self) -> None:
        """Ask the client for the body, but not before the answers that it is owed."""
        self._asks = self._request is not None
        if not self._asks:
            self._transport.write(CONTINUE)

    def buffer(self, length: int) -> None:
        """Count bytes of a body that have come; raises ServerOverloaded if there is no room."""
        self.buffered.add_body(length)
        if self.buffered.is_full:
            raise full()

    def turn_away(self, connection: str) -> None:
        """Answer what was rejected by its head, before its body has come."""
        self._put(b"", connection)

    def receive(self, body: bytes, connection: str) -> None:
        """Answer a request that has come whole."""
        self.deadline = None
        self._asks = False
        self._put(body, connection)

    def _put(self, body: bytes, connection: str) -> None:
        """Answer what has come after the requests before; read no further meanwhile."""
        request, self._coming = cast("Request", self._coming), None
        request.body = body
        response = request.response
        if response is not None and response.status == HTTPStatus.UNAUTHORIZED:
            connection = "close"  # a stranger keeps nothing of ours
        request.connection = connection
        self._queue.append(request)
        self._answer_next()
        if len(self._queue) > limits.PIPELINED_REQUESTS:
            raise ServerOverloaded(
                "too many requests behind each other", f"at most {limits.PIPELINED_REQUESTS}"
            )
        if response is not None and connection == "close":
            self._stop_reading()
        elif self._queue:
            self._reading_paused = True
            self._transport.pause_reading()

    def reply(self, request: Request) -> None:
        """Send the response to the request that was put last."""
        self._write(request)
        if self._queue:
            self._answer_next()
            if not (self._request is None or self._in_request or self._paused):
                self.deadline = None  # it is our turn

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def expire(self) -> None:
        """End what has passed its deadline."""
        if self.unsent or self._parser is None or self._transport.is_closing():
            self.abort()
        elif self._in_request:
            self._reject(
                RequestTimeout(
                    f"request timed out after {limits.REQUEST_S:g} s",
                    "the whole request within that time",
                )
            )
        else:
            self._transport.close()

    @property
    def addresses(self) -> tuple[Any, Any]:
        """The client's and ours."""
        told = self._transport.get_extra_info
        return told("peername"), told("sockname")

    @property
    def unsent(self) -> int:
        """Bytes of answers that the client has not read."""
        return self._transport.get_write_buffer_size()

    @property
    def _in_request(self) -> bool:
        """True while the client owes the rest of a request, and is owed a response to it."""
        parser = self._parser
        return parser is not None and parser.in_request and not parser.is_answered

    def _answer_next(self) -> None:
        """Answer what it can, in order, until one has to wait for the service."""
        while self._queue and self._request is None and not self._paused:
            request = self._request = self._queue.popleft()
            if request.response is not None or not self._lifecycle.put(request):
                self._lifecycle.observe([request], None, perf_counter())
                self._write(request)

    def _write(self, request: Request) -> None:
        """Send the response; end the connection if either side wants that."""
        self._request = None
        response = request.response
        if response is None or self.lost:
            return
        if self._transport.is_closing():
            self._leave()
            return
        connection = request.connection
        if self._server.draining and not self._queue:
            connection = "close"
        if request.body:
            self.buffered.add_body(-len(request.body))
        head = self._server.head(response, connection)
        self._transport.writelines([head] if request.method == "HEAD" else [head, response.body])
        if self._ended and not self._queue:
            self._transport.close()
            self._leave()
        elif connection == "close":
            self._linger()
        else:
            if self._reading_paused:
                self._listen()
            if self._asks and not self._queue:
                self._asks = False
                self._transport.write(CONTINUE)
            if self._paused or not self._in_request:
                self.expect()

    def _leave(self) -> None:
        """Give the client its time to read; then the transport closes."""
        self.finished = True
        self.expect()

    def _listen(self) -> None:
        """Read on, if the client takes its answers and waits for none."""
        if self._reading_paused and not (self._queue or self._paused or self._ended):
            self._reading_paused = False
            self._transport.resume_reading()

    def expect(self) -> None:
        """Set how long the client may take, if it is its turn."""
        unsent = 0
        if self._paused or self.finished:
            unsent = self._transport.get_write_buffer_size()
        if unsent != self.buffered.unsent:
            self.buffered.set_unsent(unsent)
        acts = unsent or self.finished or self._in_request
        self.deadline = None
        if acts or self._request is None:
            timeout_s = limits.timeout_s(
                unsent, self.finished, self._in_request, self._server.draining
            )
            self.deadline = self._time() + timeout_s

    def _reject(self, error: DiagonalFlipError) -> None:
        """Answer after the requests before, read no further, and end the connection."""
        request = self._coming
        if request is None:  # not even a head
            path = self._parser.path if self._parser is not None else ""
            request = Request(None, {}, path=path, transport=self)
            request.arrived = perf_counter()
        self._stop_reading()
        request.response, request.connection = request.rejection(error), "close"
        self._queue.append(request)
        self._answer_next()
        self.expect()

    def _stop_reading(self) -> None:
        """Ignore what the client still sends, and forget the request that is not whole."""
        if self._parser is not None:
            self._parser.close()
            self._parser = None
        self._coming, self._asks = None, False
        waiting = [*self._queue, *([self._request] if self._request else [])]
        kept = sum(len(request.body) for request in waiting)
        self.buffered.add_body(kept - self.buffered.body)

    def _linger(self) -> None:
        self.finished = True
        self._queue.clear()
        self._stop_reading()
        self._listen()
        self.expect()
        with contextlib.suppress(OSError):
            self._transport.write_eof()

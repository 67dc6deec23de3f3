"""One HTTP/1.1 connection: one request at a time, deadlines for the client, a graceful close."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from http import HTTPStatus
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, cast

from diagonalflip.errors import DiagonalFlipError, RequestTimeout, ServerOverloaded
from diagonalflip.message import Request
from diagonalflip.server.http import limits
from diagonalflip.server.http.parser import Parser
from diagonalflip.server.http.shares import Buffered
from diagonalflip.wire import Body

if TYPE_CHECKING:
    from diagonalflip.server.http.listener import HttpServer, Listener


class Connection(asyncio.Protocol):
    """One client's connection: the transport of its requests, whose life is in lifecycle.py.

    ``address`` is the client's if it came to the public listener.
    """

    def __init__(self, server: HttpServer, listener: Listener, address: str = "") -> None:
        self._server, self._lifecycle, self._listener = server, server.lifecycle, listener
        self.listener, self.address = listener.name, address
        self._parser = Parser(self)
        self._coming: Request | None = None  # its head has arrived, but not all of its body
        self._queue: deque[Request] = deque()  # those that have arrived, in order
        self._is_served = False  # the first of them is in the lifecycle's queue
        self._asks = False  # the client waits for "100 Continue"
        self._ended = self.lost = False  # the client sends no more; it has disconnected
        self._paused = self._reading_paused = False  # the client reads slowly; we do not read
        self.finished = False  # the last response is written
        self.buffered = Buffered(listener.share)
        self.deadline = inf  # in perf_counter's seconds
        self.stuck = 0, 0.0  # unsent bytes, and since when there are so many

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start serving a new client."""
        self._transport = cast("asyncio.Transport", transport)
        self.get_extra_info, self.abort = transport.get_extra_info, self._transport.abort
        self._server.connections.add(self)
        self._transport.set_write_buffer_limits(limits.UNSENT_BYTES)
        self.expect()
        most = self._server.most_connections
        if len(self._server.connections) > most:
            self.reject(ServerOverloaded("too many connections", f"at most {most}"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget the client; requests that it still has in the queue are not computed."""
        self.lost = True
        for request in self._queue:  # the lifecycle may keep the first one for long
            request.body = b""
        self._server.forget(self)
        self._queue.clear()
        self._stop_reading()
        self.buffered.set_unsent(0)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes to the parser, which calls ``admit`` and ``receive``."""
        if self._parser.is_closed:
            self._parser.body_bytes += len(data)
            if self._parser.body_bytes > limits.IGNORED_BYTES:
                self.abort()
            return
        try:
            self._parser.feed(data)
        except DiagonalFlipError as error:
            if not self._parser.is_closed:
                self.reject(error)

    def eof_received(self) -> bool:
        """Note that the client sends no more; it still gets the responses it waits for."""
        self._ended = True
        self._stop_reading()
        if not self._queue:
            self._finish()
        return bool(self._queue)

    def pause_writing(self) -> None:
        """Stop reading from a client that reads slowly."""
        self._paused = self._reading_paused = True
        self._transport.pause_reading()
        self.expect()

    def resume_writing(self) -> None:
        """Go on with a client that has read its responses."""
        self._paused = False
        self._answer_next()
        self._listen()
        self.expect()

    def admit(self, method: str, path: str, headers: dict[str, str]) -> bool:
        """Make a request of a head, which others may share; return whether its body is wanted."""
        request = self._coming = Request(None, headers, b"", None, method, path, self)
        self._lifecycle.admit(request, self._listener)
        if request.token:
            self.buffered.belong_to(request.token)
        return request.response is None

    def ask_for_body(self) -> None:
        """Send "100 Continue", but not before the responses that the client is owed."""
        self._asks = bool(self._queue)
        if not self._asks:
            self._transport.writelines([b"HTTP/1.1 100 Continue\r\n\r\n"])

    def receive(self, body: Body, connection: str) -> None:
        """Answer a complete or rejected request; ``connection`` is a header of its response."""
        request, self._coming, self._asks = cast("Request", self._coming), None, False
        if request.response is not None and request.response.status == HTTPStatus.UNAUTHORIZED:
            connection = "close"  # a client without a token may not keep a connection
        if len(self._queue) > (most := limits.PIPELINED_REQUESTS):
            error = ServerOverloaded("too many requests behind each other", f"at most {most}")
            request.response, connection = request.rejection(error), "close"
        request.body, request.connection = body, connection
        self._queue.append(request)
        self._answer_next()
        if connection == "close":
            self._stop_reading()
        elif len(self._queue) > 1:
            self._reading_paused = True
            self._transport.pause_reading()

    def reply(self, request: Request) -> None:
        """Send the response to the first request, unless the client has disconnected."""
        if not self.lost:
            self._write(request)
            if self._queue:
                self._answer_next()

    def expire(self) -> None:
        """Time out a connection past its deadline, unless its client still sends fast enough."""
        parser = self._parser
        if self.unsent or self._transport.is_closing():
            self.abort()
        elif not (parser.is_awaited or parser.is_closed):
            self._transport.close()
        elif parser.makes_progress(limits.REQUEST_S if parser.is_awaited else limits.LINGER_S):
            self.expect()
        elif parser.is_closed:
            self.abort()
        else:
            late = f"request timed out after {limits.REQUEST_S:g} s"
            expected = f"all of it by then, or {limits.BYTES_PER_S >> 10} KiB/s of its body"
            self.reject(RequestTimeout(late, expected))

    @property
    def unsent(self) -> int:
        """Bytes of responses that the client has not read."""
        return self._transport.get_write_buffer_size()

    def _answer_next(self) -> None:
        """Answer requests in order, until one has to wait for its batch."""
        while self._queue and not (self._is_served or self._paused):
            request, self._is_served = self._queue[0], True
            if request.response is not None or not self._lifecycle.put(request):
                self._lifecycle.observe([request], None, perf_counter())
                self._write(request)
        if self._is_served and not (self._paused or self._parser.is_awaited):
            self.deadline = inf  # the client waits for us

    def _write(self, request: Request) -> None:
        """Send the first request's response; end the connection if either side wants that."""
        self._queue.popleft()
        self._is_served = False
        if self._transport.is_closing():
            self._finish()
            return
        response, connection = request.response, request.connection
        if self._server.draining and not self._queue:
            connection = "close"
        if request.body:
            self.buffered.add_body(-len(request.body))
        head = self._server.head(response, connection)
        body = response.body if request.method != "HEAD" else b""
        is_short = len(body) <= limits.JOINED_BYTES
        self._transport.writelines([head + body] if is_short else [head, body])
        if connection == "close" or (self._ended and not self._queue):
            self._finish()
            return
        if self._reading_paused:
            self._listen()
        if self._asks:
            self.ask_for_body()
        if self._paused or not self._parser.is_awaited:
            self.expect()

    def _listen(self) -> None:
        """Resume reading, if the client reads its responses and waits for none."""
        if self._reading_paused and not (self._queue or self._paused or self._ended):
            self._reading_paused = False
            self._transport.resume_reading()

    def expect(self) -> None:
        """Set how long the client may take for its next step."""
        unsent = self.unsent if self._paused or self.finished else 0
        if unsent != self.buffered.unsent:
            self.buffered.set_unsent(unsent)
        if unsent:
            timeout_s = limits.READ_S + unsent / limits.BYTES_PER_S
        elif self.finished:
            timeout_s = limits.LINGER_S
        elif self._parser.is_awaited:
            timeout_s = limits.REQUEST_S
        elif self._is_served:
            timeout_s = inf
        else:
            timeout_s = limits.DRAIN_IDLE_S if self._server.draining else limits.IDLE_S
        self.deadline = perf_counter() + timeout_s

    def reject(self, error: DiagonalFlipError) -> None:
        """Answer with an error after the requests before, stop reading, and end the connection."""
        request = self._coming
        if request is None:  # its head is not complete
            request = Request(None, {}, path=self._parser.path, transport=self)
            request.arrived = perf_counter()
        self._stop_reading()
        request.response, request.connection = request.rejection(error), "close"
        self._queue.append(request)
        self._answer_next()
        self.expect()

    def _stop_reading(self) -> None:
        """Ignore what the client still sends, and forget the incomplete request."""
        self._parser.close()
        self._coming, self._asks = None, False
        kept = sum(len(request.body) for request in self._queue)
        self.buffered.add_body(kept - self.buffered.body)

    def _finish(self) -> None:
        """End our side, and give the client time to read; it may end its own side later."""
        self._queue.clear()
        self._stop_reading()
        self.finished = True
        self.expect()
        if self._ended:
            self._transport.close()
        elif not self._transport.is_closing():
            self._listen()
            with contextlib.suppress(OSError):
                self._transport.write_eof()

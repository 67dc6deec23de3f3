"""One HTTP/1.1 connection to a worker's direct port: limits, order, and a civil end.

Parsing is llhttp's, by httptools.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from functools import lru_cache
from typing import Protocol, cast
from urllib.parse import unquote

import httptools

from diagonalflip.errors import (
    DiagonalFlipError,
    HeadersTooLarge,
    InvalidRequest,
    RequestTimeout,
    RequestTooLarge,
    ServerOverloaded,
)
from diagonalflip.message import Request, Response
from diagonalflip.wire import MAX_BODY_BYTES, MAX_CONNECTIONS
from worker.batch import FULL, MAX_HELD_BYTES, Batcher
from worker.refusal import refusal

MAX_HEAD_BYTES = 1 << 14

UNSENT_BYTES = 1 << 15
"""Answers that a client has not read, until they are counted and it is not listened to."""

ONCE = {"content-type", "content-encoding", "inference-header-content-length", "if-match"}
"""Headers whose repetition nobody understands; others are lists (RFC 9110, section 5.3), or
nothing to us."""

PIPELINED = 16
"""Unanswered requests of one connection, until reading from it pauses."""

IDLE_S = 75.0
REQUEST_S = 60.0
"""From a request's first byte to its last: a client slower than that is answered 408."""

STALLED_S = 60.0
READ_BYTES_PER_S = 1 << 16
"""A client has ``STALLED_S``, and at this rate more, to read what did not leave at once."""

LINGER_S = 5.0
"""For a refused client to read why: closing at once could reset the connection before."""


class Server(Protocol):
    """What a connection belongs to."""

    batcher: Batcher
    connections: set[Connection]

    def route(self, method: str, path: str, headers: dict[str, str]) -> Request | Response:
        """A request for the service, less its body, or the known answer."""

    def head(self, response: Response, connection: str) -> bytes:
        """Status line and headers of an answer; ``connection`` is the header of that name."""


class Connection(asyncio.Protocol):
    """One client's connection: parses requests, and writes answers in their order.

    Args:
        server: What it belongs to.
        proves: Whether it is the supervisor's: always let in, and answered before all others.
    """

    def __init__(self, server: Server, *, proves: bool = False) -> None:
        self._server = server
        self._proves = proves
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[tuple[str, bool]] = deque()  # the header Connection, head only
        self._ignoring = False  # whatever the client still sends
        self._ended = False  # the client sends no more
        self._finished = False  # the last answer is written
        self._in_head = False
        self._in_request = False
        self._read_bytes = 0
        self._paused = False  # writing: the client reads slowly
        self._unsent_bytes = 0
        self.lost = False
        self.deadline: float | None = None

    @property
    def in_turn(self) -> bool:
        """Whether its last request waits for none before."""
        return len(self._pending) == 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._transport.set_write_buffer_limits(UNSENT_BYTES)
        self._expect()
        if len(self._server.connections) > MAX_CONNECTIONS and not self._proves:
            self._refuse(ServerOverloaded("too many connections", f"{MAX_CONNECTIONS}"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The connection has ended; what it still waits for is not computed."""
        self.lost = True
        self._forget_body()
        self._server.batcher.held_bytes -= self._unsent_bytes
        self._server.connections.discard(self)
        del self._parser  # it refers back: this is freed now, not when cycles are collected

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, which calls the ``on_`` methods below."""
        if self._ignoring:
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._ignoring:
                self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError as error:
            if not self._ignoring:
                self._refuse(InvalidRequest(f"{type(error).__name__}: {error}", "HTTP/1.1"))
            return
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        if len(self._pending) > PIPELINED:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more; it still gets the answers it waits for."""
        self._ignoring = self._ended = True
        return bool(self._pending)

    def pause_writing(self) -> None:
        """The client reads slowly: it is not listened to meanwhile."""
        self._paused = True
        self._transport.pause_reading()
        self._expect()

    def resume_writing(self) -> None:
        """The client has read."""
        self._paused = False
        if len(self._pending) <= PIPELINED:
            self._transport.resume_reading()
        self._expect()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._length = self._head_bytes = 0
        self._repeated = ""
        self._in_head = self._in_request = True
        self._expect()

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; several of one name are a list, and trailers do not count."""
        self._length += len(name) + len(value)
        if self._in_head and self._length <= MAX_HEAD_BYTES:
            key, new = lower(name), text(value)
            old = self._headers.get(key)
            if old is not None and key in ONCE and old != new:
                self._repeated = key
            self._headers[key] = new if old is None or key in ONCE else f"{old}, {new}"

    def on_headers_complete(self) -> None:
        """All headers are there."""
        self._in_head = False
        if self._ignoring:
            return
        if self._parser.get_method() == b"CONNECT":
            self._refuse(InvalidRequest("CONNECT", "HTTP/1.1", "this is no proxy"))
            return
        if self._length + len(self._url) > MAX_HEAD_BYTES:
            self._refuse_head()
            return
        if self._repeated:
            self._refuse(InvalidRequest(f"several headers {self._repeated}", "one"))
            return
        if self._parser.should_upgrade():
            return
        announced = self._headers.get("content-length", "0")
        if announced.isdigit() and int(announced[:18]) > MAX_BODY_BYTES:
            self._refuse_body(announced)
        elif self._headers.get("expect", "").lower() == "100-continue" and not self._pending:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._ignoring:
            return
        self._read_bytes += len(body)
        self._server.batcher.held_bytes += len(body)
        if self._read_bytes > MAX_BODY_BYTES:
            self._refuse_body(f"{self._read_bytes} or more")
        elif self._server.batcher.held_bytes > MAX_HELD_BYTES:
            self._refuse(FULL)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """A whole request."""
        if self._ignoring or self._parser.should_upgrade():
            return
        self._in_request = False
        self.deadline = None
        method = text(self._parser.get_method())
        message: Request | Response
        try:
            message = self._server.route(method, path_of(self._url), self._headers)
            message.body = message.body or b"".join(self._body)
        except DiagonalFlipError as error:
            message = refusal(error)
        self._forget_body()
        self._pending.append((self._connection_header(), method == "HEAD"))
        if self._proves and isinstance(message, Request):
            self._server.batcher.prove(self, message)
        else:
            self._server.batcher.put(self, message)

    def reply(self, response: Response) -> None:
        """Writes one answer; ends the connection if the client or the answer wants it."""
        header, head_only = self._pending.popleft()
        if self._finished or self._transport.is_closing():
            return
        head = self._server.head(response, header)
        if head_only or not response.body:
            self._transport.write(head)
        else:
            self._transport.writelines([head, response.body])
        if len(self._pending) == PIPELINED and not self._paused:
            self._transport.resume_reading()
        if self._ended and not self._pending:
            self._transport.close()
        elif header == "close":
            self._linger()
        elif self._paused or not self._in_request:
            self._expect()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    def expire(self) -> None:
        """Its deadline has passed."""
        if self._ignoring or self._transport.get_write_buffer_size():
            self.abort()
        elif self._in_request:
            self._refuse(RequestTimeout(f"half a request in {REQUEST_S:g} s", "a whole one"))
        else:
            self._transport.close()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Goes on as before (RFC 9110, section 7.8); the parser has taken the body for other."""
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version)]
        lines += [
            f"{name}: {value}".encode("latin-1")
            for name, value in self._headers.items()
            if name != "upgrade"
        ]
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def _connection_header(self) -> str:
        """What the answer says of the connection; HTTP/1.0 keeps none of which nothing is said."""
        if not self._parser.should_keep_alive():
            return "close"
        return "keep-alive" if self._parser.get_http_version() == "1.0" else ""

    def _forget_body(self) -> None:
        self._server.batcher.held_bytes -= self._read_bytes
        self._read_bytes = 0
        self._body = []

    def _expect(self) -> None:
        """Sets how long the client may take for what it is to do, if it is its turn."""
        unsent = self._transport.get_write_buffer_size() if self._paused or self._finished else 0
        self._server.batcher.held_bytes += unsent - self._unsent_bytes
        self._unsent_bytes = unsent
        self.deadline = None
        if unsent:
            seconds = STALLED_S + unsent / READ_BYTES_PER_S
        elif self._finished:
            seconds = LINGER_S
        elif self._in_request:
            seconds = REQUEST_S
        elif self._pending:
            return
        else:
            seconds = IDLE_S
        self.deadline = asyncio.get_running_loop().time() + seconds

    def _refuse_head(self) -> None:
        self._refuse(HeadersTooLarge("longer headers", f"at most {MAX_HEAD_BYTES} bytes"))

    def _refuse_body(self, length: str) -> None:
        self._refuse(
            RequestTooLarge(
                f"a body of {length[:20]} bytes", f"at most {MAX_BODY_BYTES}", "send fewer images"
            )
        )

    def _refuse(self, error: DiagonalFlipError) -> None:
        """Answers after the requests before, reads no further, and ends the connection."""
        self._ignoring = True
        self._in_head = self._in_request = False
        self._forget_body()
        self._pending.append(("close", False))
        self._expect()
        self._server.batcher.put(self, refusal(error))

    def _linger(self) -> None:
        self._ignoring = self._finished = True
        self._expect()
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):
                self._transport.write_eof()


def text(raw: bytes) -> str:
    """A piece of a request's head."""
    return _short_text(raw) if len(raw) <= 128 else raw.decode("latin-1")


@lru_cache(maxsize=4096)
def _short_text(raw: bytes) -> str:
    """What many requests have in common: names, media types."""
    return raw.decode("latin-1")


@lru_cache(maxsize=1024)
def lower(name: bytes) -> str:
    """A header's name."""
    return name.decode("latin-1").lower()


@lru_cache(maxsize=1024)
def path_of(target: bytes) -> str:
    """The path of a request's target in any of its forms (RFC 9112, section 3.2), decoded.

    Without its query, and without a slash at its end, which TorchServe's port ignores as well.
    """
    path = target.partition(b"?")[0].decode("latin-1")
    if path.lower().startswith(("http://", "https://")):
        path = "/" + path.partition("://")[2].partition("/")[2]
    return unquote(path).rstrip("/") or "/"

"""HTTP/1.1 requests out of a client's bytes, by llhttp (httptools); heads, bodies are bounded."""

from __future__ import annotations

from typing import Protocol

import httptools

from diagonalflip.errors import InvalidRequest
from diagonalflip.server.http import limits
from diagonalflip.server.http.head import (
    KNOWN_HEAD_BYTES,
    check,
    elements,
    find,
    long_body,
    long_head,
    lower,
    read_target,
    remember,
    without_upgrade,
)
from diagonalflip.wire import MAX_BODY_BYTES

ONCE = {"content-type", "inference-header-content-length", "if-match"}
"""Headers whose repetition nobody understands; others are lists (RFC 9110, section 5.3), or
nothing to us."""

BLANKS = b" \t"


class Receiver(Protocol):
    """Receiver of requests; errors that it raises come out of ``Parser.feed``."""

    def begin(self) -> None:
        """Take note of a request's first byte."""

    def admit(self, method: str, path: str, headers: dict[str, str]) -> bool:
        """Return whether a request is to go on: its head has come.

        Args:
            method: In upper case.
            path: As ``read_target`` has it.
            headers: By lower-case name; of all requests with that head, so only to be read.
        """

    def proceed(self) -> None:
        """Ask the client for the body, which it sends only then."""

    def buffer(self, length: int) -> None:
        """Count bytes of its body that have come."""

    def turn_away(self, connection: str) -> None:
        """Answer what was not admitted; its body, if it has one, is ignored.

        Args:
            connection: As for ``receive``; ``close`` if the body will not be read.
        """

    def receive(self, body: bytes, connection: str) -> None:
        """Take a whole request that was admitted.

        Args:
            body: Less the framing.
            connection: What the response has to say of the connection, in the header of that name.
        """


class Parser:
    """Reads the requests of one connection.

    Args:
        receiver: Is told of them.

    Attributes:
        in_request: True while a request has begun and is not whole.
        is_answered: True if that one was turned away, so that nobody wants its body.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._llhttp = httptools.HttpRequestParser(self)
        self.in_request = self._in_head = self._is_admitted = self.is_answered = False
        self._is_closed = False
        self._connection = ""

    def feed(self, data: bytes) -> None:
        """Read on.

        Raises:
            DiagonalFlipError: This is to be rejected, and what follows cannot be read.
        """
        begins = not self.in_request and self._connection != "close"
        end = data.find(b"\r\n\r\n", 0, KNOWN_HEAD_BYTES) if begins else -1
        raw = data[: end + 4] if end > 0 else b""
        known = find(raw) if raw else None
        if known is not None:
            method, path, headers, length = known
            if len(raw) + length == len(data):
                if self._receiver.admit(method, path, headers):
                    self._receiver.buffer(length)
                    self._receiver.receive(data[len(raw) :], "")
                else:
                    is_short = length <= limits.IGNORED_BODY_BYTES
                    self._receiver.turn_away("" if is_short else "close")
                return
        self._completed = False
        self._read(data)
        if self._is_closed:
            return
        is_alone = raw and self._completed and len(raw) + self._body_bytes == len(data)
        if is_alone and not self._connection and "expect" not in self._headers:
            remember(raw, (self._method, self._path, dict(self._headers), self._body_bytes))

    def _read(self, data: bytes) -> None:
        """Have llhttp read; of heads, which it keeps while they are not whole, piece by piece."""
        while data and not self._is_closed:
            in_body = self.in_request and not self._in_head
            size = len(data) if in_body else limits.MAX_HEAD_BYTES
            piece, data = data[:size], data[size:]
            if self._in_head:
                self._head_bytes += len(piece)
            try:
                self._llhttp.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                head = without_upgrade(self._method, self._url, self._version, self._headers)
                self._llhttp = httptools.HttpRequestParser(self)  # for this one is at its end
                self.in_request = self._in_head = False
                data = head + piece[upgrade.args[0] :] + data
            except httptools.HttpParserCallbackError as error:
                raise (error.__context__ or error) from None
            except httptools.HttpParserError as error:
                raise InvalidRequest(f"{type(error).__name__}: {error}", "HTTP/1.1") from error
            if self._in_head and self._head_bytes > limits.MAX_HEAD_BYTES:
                raise long_head(self._url)

    @property
    def path(self) -> str:
        """Path of the request whose head has begun; empty if there is none that can be read."""
        try:
            return read_target(self._url)[1] if self._in_head else ""
        except InvalidRequest:
            return ""

    def close(self) -> None:
        """Read no more. llhttp refers back: both are freed now, not when cycles are collected."""
        self._is_closed = True
        del self._llhttp

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._is_closed:
            raise InvalidRequest("a request behind the last one", "none")
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._length = self._head_bytes = self._body_bytes = 0
        self.in_request = self._in_head = True
        self._is_admitted = self.is_answered = False
        self._receiver.begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._url += url
        if len(self._url) > limits.MAX_HEAD_BYTES:
            raise long_head(self._url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; several of one name are a list, and trailers do not count."""
        self._length += len(name) + len(value)
        if self._length + len(self._url) > limits.MAX_HEAD_BYTES:
            raise long_head(self._url)
        if self._in_head:
            key, new = lower(name), value.strip(BLANKS).decode("latin-1")
            old = self._headers.get(key)
            if old is not None and key in ONCE:
                if old != new:
                    raise InvalidRequest(f"several different headers {key}", "one")
                return
            self._headers[key] = new if old is None else f"{old}, {new}"

    def on_headers_complete(self) -> None:
        """Admit or reject the request by its head, which is complete."""
        llhttp, headers = self._llhttp, self._headers
        self._method = llhttp.get_method().decode("latin-1")
        self._version = llhttp.get_http_version()
        check(self._method, self._version, self._url, headers)
        self._in_head = False
        if llhttp.should_upgrade():
            return
        host, self._path = read_target(self._url)
        if host:  # it counts, and not the header (RFC 9112, section 3.2.2)
            headers["host"] = host
        self._is_admitted = self._receiver.admit(self._method, self._path, headers)
        if not self._is_admitted:
            self.is_answered = True
            self._receiver.turn_away(self._kept())
            return
        announced = headers.get("content-length", "0")
        if int(announced[:18]) > MAX_BODY_BYTES:
            raise long_body(announced)
        if self._expects:
            self._receiver.proceed()

    @property
    def _expects(self) -> bool:
        """True if the client waits for a word before it sends the body."""
        told = self._headers.get("expect", "").lower() == "100-continue"
        return told and self._version != "1.0"

    def _kept(self) -> str:
        """Return what the response has to say of the connection."""
        is_read = self._is_admitted or (
            "transfer-encoding" not in self._headers
            and int(self._headers.get("content-length", "0")[:18]) <= limits.IGNORED_BODY_BYTES
            and not self._expects  # it may send the body, or not
        )
        if not is_read or not self._llhttp.should_keep_alive():
            return "close"
        if self._version != "1.0":
            return ""
        # HTTP/1.0 keeps no connection of which nothing is said, and knows no codings.
        ends = "transfer-encoding" in self._headers or "close" in elements(
            self._headers.get("connection", "")
        )
        return "close" if ends else "keep-alive"

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            raise long_body(f"{self._body_bytes} or more")
        if self._is_admitted:
            self._receiver.buffer(len(body))
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Finish a request."""
        if self._is_closed or self._llhttp.should_upgrade():
            return
        self.in_request, self._completed = False, True
        self._connection = self._kept()
        body, self._body = b"".join(self._body), []
        if self._is_admitted:
            self._receiver.receive(body, self._connection)

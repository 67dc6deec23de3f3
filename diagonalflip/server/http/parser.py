"""Parse a client's bytes into HTTP/1.1 requests of bounded size, with llhttp (httptools)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from diagonalflip.errors import InvalidRequest
from diagonalflip.server.http import head, limits
from diagonalflip.wire import MAX_BODY_BYTES

if TYPE_CHECKING:
    from diagonalflip.server.http.connection import Connection

ONCE = {"content-type", "inference-header-content-length", "if-match"}
"""Headers that may not be repeated with another value. Others are lists (RFC 9110, section 5.3),
or have no meaning here."""

BLANKS = b" \t"


class Parser:
    """Reads the requests of one connection.

    Args:
        connection: Gets the requests; errors that it raises are raised by ``feed``.

    Attributes:
        is_awaited: True while the rest of a request is to come, whose head was not rejected.
        is_closed: True once nothing more is read.
        body_bytes: Bytes that have arrived of the last body, or after parsing has ended.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._llhttp = httptools.HttpRequestParser(self)
        self._in_request = self._in_head = self.is_awaited = self.is_closed = False
        self._known: head.KnownHead | None = None
        self.body_bytes = self._seen_bytes = 0

    def feed(self, data: bytes) -> None:
        """Parse further bytes.

        Raises:
            DiagonalFlipError: The request is to be rejected; what follows cannot be parsed.
        """
        is_new, known, connection = not self._in_request, self._known, self._connection
        if is_new and known is not None and (found := known.read(data)) is not None:
            headers, end = found
            if connection.admit(known.method, known.path, headers):
                connection.buffered.take(len(data) - end)
                connection.receive(data[end:], "")
            else:
                is_short = len(data) - end <= limits.IGNORED_BODY_BYTES
                connection.receive(b"", "" if is_short else "close")
            return
        self._said: str | None = None  # of the connection, to the last that has come whole
        self._read(data)
        end = data.find(b"\r\n\r\n", 0, head.KNOWN_HEAD_BYTES) + 4
        is_alone = is_new and self._said == "" and end + self.body_bytes == len(data)
        if is_alone and not self.is_closed and "expect" not in self._headers:
            self._known = head.KnownHead(data[:end], self._method, self._path, self._headers)

    def _read(self, data: bytes) -> None:
        """Have llhttp parse the bytes, heads in pieces: it keeps those that are not complete."""
        while data and not self.is_closed:
            in_body = self._in_request and not self._in_head
            size = len(data) if in_body else limits.MAX_HEAD_BYTES
            piece, data = data[:size], data[size:]
            if self._in_head:
                self._head_bytes += len(piece)
            try:
                self._llhttp.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                new = head.without_upgrade(self._method, self._url, self._version, self._headers)
                self._llhttp = httptools.HttpRequestParser(self)  # the old one parses no more
                self._in_request = self._in_head = False
                data = new + piece[upgrade.args[0] :] + data
            except httptools.HttpParserCallbackError as error:
                raise (error.__context__ or error) from None
            except httptools.HttpParserError as error:
                raise InvalidRequest(f"{type(error).__name__}: {error}", "HTTP/1.1") from error
            if self._in_head and self._head_bytes > limits.MAX_HEAD_BYTES:
                raise head.long_head(self._url)

    @property
    def path(self) -> str:
        """Path of the request whose head has begun; empty if it cannot be read yet."""
        try:
            return head.read_target(self._url)[1] if self._in_head else ""
        except InvalidRequest:
            return ""

    def makes_progress(self, seconds: float) -> bool:
        """Return whether enough bytes for so many seconds have arrived since the last call."""
        new, self._seen_bytes = self.body_bytes - self._seen_bytes, self.body_bytes
        return new > seconds * limits.BYTES_PER_S

    def close(self) -> None:
        """Parse no more, and free what was read and what refers to the connection."""
        if not self.is_closed:
            self.is_closed, self.is_awaited = True, False
            self._forget()
            self._known = None
            del self._llhttp, self._connection

    def _forget(self) -> None:
        """Forget the request that was read."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()  # not a list of pieces, which may have a byte each

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self.is_closed:
            raise InvalidRequest("a request after the last one", "none")
        self._forget()
        self._length = self._head_bytes = self.body_bytes = self._seen_bytes = 0
        self._in_request = self._in_head = self.is_awaited = True
        self._connection.expect()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._url += url
        self._bound(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; several of one name form a list, and trailers are ignored."""
        self._bound(len(name) + len(value))
        if self._in_head:
            key, new = head.lower(name), value.strip(BLANKS).decode("latin-1")
            old = self._headers.get(key)
            if old is None:
                self._headers[key] = new
            elif key not in ONCE:
                self._headers[key] = f"{old}, {new}"
            elif old != new:
                raise InvalidRequest(f"several different headers {key}", "one")

    def _bound(self, length: int) -> None:
        """Count bytes of a head or of trailers; raise if there are too many."""
        self._length += length
        if self._length > limits.MAX_HEAD_BYTES:
            raise head.long_head(self._url)

    def on_headers_complete(self) -> None:
        """Admit or reject the request by its head, which is complete."""
        headers = self._headers
        self._method = self._llhttp.get_method().decode("latin-1")
        self._version = self._llhttp.get_http_version()
        head.check(self._method, self._version, self._url, headers)
        self._in_head = False
        if self._llhttp.should_upgrade():
            return
        host, self._path = head.read_target(self._url)
        if host:  # it replaces the header (RFC 9112, section 3.2.2)
            headers["host"] = host
        if not self._connection.admit(self._method, self._path, headers):
            self.is_awaited = False
            self._connection.receive(b"", self._kept())
            return
        announced = headers.get("content-length", "0")
        if int(announced[:18]) > MAX_BODY_BYTES:
            raise head.long_body(announced)
        if self._expects:
            self._connection.ask_for_body()

    @property
    def _expects(self) -> bool:
        """True if the client waits for "100 Continue" before it sends the body."""
        is_asked = self._headers.get("expect", "").lower() == "100-continue"
        return is_asked and self._version != "1.0"

    def _kept(self) -> str:
        """Return the value of the response's header ``Connection``; empty for none."""
        is_unread = not self.is_awaited and (
            "transfer-encoding" in self._headers
            or int(self._headers.get("content-length", "0")[:18]) > limits.IGNORED_BODY_BYTES
            or self._expects  # it may send the body, or not
        )
        if is_unread or not self._llhttp.should_keep_alive():
            return "close"
        if self._version != "1.0":
            return ""
        # HTTP/1.0 closes connections unless told otherwise, and knows no transfer codings.
        ends = "transfer-encoding" in self._headers or "close" in head.elements(
            self._headers.get("connection", "")
        )
        return "close" if ends else "keep-alive"

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self.body_bytes += len(body)
        if self.body_bytes > MAX_BODY_BYTES:
            raise head.long_body(f"{self.body_bytes} or more")
        if self.is_awaited:
            self._connection.buffered.take(len(body))
            self._body += body

    def on_message_complete(self) -> None:
        """Finish a request."""
        if self.is_closed or self._llhttp.should_upgrade():
            return
        self._in_request, self._said = False, self._kept()
        if self.is_awaited:
            self.is_awaited = False
            body, self._body = self._body, bytearray()
            self._connection.receive(body, self._said)

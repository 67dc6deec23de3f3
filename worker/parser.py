"""HTTP/1.1 requests out of a client's bytes, by llhttp (httptools); heads, bodies are bounded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote

import httptools

from diagonalflip.errors import HeadersTooLarge, InvalidRequest, RequestTooLarge
from diagonalflip.wire import MAX_BODY_BYTES
from worker import limits

ONCE = {"content-type", "content-encoding", "inference-header-content-length", "if-match"}
"""Headers whose repetition nobody understands; others are lists (RFC 9110, section 5.3), or
nothing to us."""


KNOWN_HEADS, KNOWN_HEAD_BYTES = 1024, 1024
"""Number and length of heads that are remembered, at most."""


@dataclass(frozen=True, slots=True)
class Head:
    """Content of a request's head.

    Attributes:
        method, path, headers: As ``Receiver.receive`` takes them.
        length: Of the body, in bytes.
    """

    method: str
    path: str
    headers: dict[str, str]
    length: int


_known: dict[bytes, Head] = {}
"""Heads by their bytes. A client sends the same one again and again, and reading it takes as long
as predicting an image; what llhttp has read once, as a whole request, need not be read again."""


class Receiver(Protocol):
    """Receiver of requests; errors that it raises come out of ``Parser.feed``."""

    def begin(self) -> None:
        """A request's first byte has come."""

    def proceed(self) -> None:
        """The client asks whether to send its body."""

    def hold(self, length: int) -> None:
        """Count bytes of a body that have come."""

    def receive(
        self, method: str, path: str, headers: dict[str, str], body: bytes, connection: str
    ) -> None:
        """A whole request has come.

        Args:
            method: In upper case.
            path: As ``path_of`` has it.
            headers: By lower-case name; of all requests with that head, so only to be read.
            body: Less the framing.
            connection: What the response has to say of the connection, in the header of that name.
        """


class Parser:
    """Reads the requests of one connection.

    Args:
        receiver: Is told of them.

    Attributes:
        in_request: Whether a request has begun and is not whole.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._llhttp = httptools.HttpRequestParser(self)
        self.in_request = self._in_head = False
        self._connection = ""

    def feed(self, data: bytes) -> None:
        """Reads on.

        Raises:
            DiagonalFlipError: This is to be refused, and what follows cannot be read.
        """
        begins = not self.in_request and self._connection != "close"
        end = data.find(b"\r\n\r\n", 0, KNOWN_HEAD_BYTES) if begins else -1
        raw = data[: end + 4] if end > 0 else b""
        known = _known.get(raw)
        if known is not None and len(raw) + known.length == len(data):
            self._receiver.hold(known.length)
            body = data[len(raw) :]
            self._receiver.receive(known.method, known.path, known.headers, body, "")
            return
        if self._in_head:
            self._head_bytes += len(data)
        self._completed = False
        behind_upgrade = None
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            behind_upgrade = data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            raise (error.__context__ or error) from None
        except httptools.HttpParserError as error:
            raise InvalidRequest(f"{type(error).__name__}: {error}", "HTTP/1.1") from error
        if behind_upgrade is not None:
            self._decline_upgrade(behind_upgrade)
        elif raw and self._completed and len(raw) + self._body_bytes == len(data):
            self._remember(raw)  # one request, and nothing else
        if self._in_head and self._head_bytes > limits.MAX_HEAD_BYTES:
            raise _long_head()

    def close(self) -> None:
        """Reads no more. llhttp refers back: both are freed now, not when cycles are collected."""
        del self._llhttp

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._length = self._head_bytes = self._body_bytes = 0
        self.in_request = self._in_head = True
        self._receiver.begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url
        if len(self._url) > limits.MAX_HEAD_BYTES:
            raise _long_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; several of one name are a list, and trailers do not count."""
        self._length += len(name) + len(value)
        if self._length + len(self._url) > limits.MAX_HEAD_BYTES:
            raise _long_head()
        if self._in_head:
            key, new = lower(name), text(value)
            old = self._headers.get(key)
            if old is not None and key in ONCE:
                if old != new:
                    raise InvalidRequest(f"several different headers {key}", "one")
                return
            self._headers[key] = new if old is None else f"{old}, {new}"

    def on_headers_complete(self) -> None:
        """All headers are there."""
        self._in_head = False
        if self._llhttp.get_method() == b"CONNECT":
            raise InvalidRequest("method CONNECT", "another", "this server is not a proxy")
        if self._llhttp.should_upgrade():
            return
        announced = self._headers.get("content-length", "0")
        if announced.isdigit() and int(announced[:18]) > MAX_BODY_BYTES:
            raise _long_body(announced)
        if self._headers.get("expect", "").lower() == "100-continue":
            self._receiver.proceed()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            raise _long_body(f"{self._body_bytes} or more")
        self._receiver.hold(len(body))
        self._body.append(body)

    def on_message_complete(self) -> None:
        """A whole request."""
        llhttp = self._llhttp
        if llhttp.should_upgrade():
            return
        self.in_request, self._completed = False, True
        connection = "close"
        if llhttp.should_keep_alive():
            # HTTP/1.0 keeps no connection of which nothing is said.
            connection = "keep-alive" if llhttp.get_http_version() == "1.0" else ""
        body, self._body = b"".join(self._body), []
        self._method, self._connection = text(llhttp.get_method()), connection
        path = path_of(self._url)
        self._receiver.receive(self._method, path, self._headers, body, connection)

    def _remember(self, raw: bytes) -> None:
        """Takes the head of the one request that came whole, unless it says more than it asks."""
        if self._connection or "expect" in self._headers:
            return
        if len(_known) >= KNOWN_HEADS:
            _known.clear()
        path = path_of(self._url)
        _known[raw] = Head(self._method, path, self._headers, self._body_bytes)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Goes on as before (RFC 9110, section 7.8); llhttp has taken the body for other."""
        version = self._llhttp.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._llhttp.get_method(), self._url, version)]
        lines += [
            f"{name}: {value}".encode("latin-1")
            for name, value in self._headers.items()
            if name != "upgrade"
        ]
        self._llhttp = httptools.HttpRequestParser(self)
        self.feed(b"\r\n".join([*lines, b"", rest]))


def _long_head() -> HeadersTooLarge:
    return HeadersTooLarge("the headers are too long", f"at most {limits.MAX_HEAD_BYTES} bytes")


def _long_body(length: str) -> RequestTooLarge:
    return RequestTooLarge(
        f"a body of {length[:20]} bytes", f"at most {MAX_BODY_BYTES} bytes", "send fewer images"
    )


def text(raw: bytes) -> str:
    """A piece of a request's head."""
    return _short_text(raw) if len(raw) <= 128 else raw.decode("latin-1")


@lru_cache(maxsize=4096)
def _short_text(raw: bytes) -> str:
    """Decode a string that many requests share: a name or a media type."""
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

"""Bytes on one connection, and what must come back.

Other HTTP servers have read these requests wrongly. Every case, or group of cases, names where it
comes from. Its bytes and its outcome are our own:

- RFC: a section of RFC 9112, or of RFC 9110 where that is named.
- garden: narfindustries/http-garden, ``TROPHIES.md``.
- llhttp: nodejs/llhttp, ``test/request/*.md``.
- h11: python-hyper/h11, ``h11/tests``.
- probe: MDA2AV/Http11Probe, ``src/Http11Probe/TestCases/Suites``.
- thesis: mattiasgrenfeldt/bachelors-thesis-http-request-smuggling, ``requests``.
- smuggler: defparam/smuggler, ``configs/exhaustive.py``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from tests.contract.conftest import PATH, Port, read

PING = b"GET /ping HTTP/1.1\r\nHost: a\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a\r\n" % PATH.encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
NEXT = POST + b"Content-Length: 4\r\n\r\nnext"
CLOSE, KEEP_ALIVE = b"Connection: close", b"Connection: keep-alive"
UPGRADE = b"Connection: Upgrade", b"Upgrade: h2c"

CODES = {
    400: "invalid_request",
    404: "model_not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    414: "target_too_long",
    431: "headers_too_large",
    501: "unsupported_transfer",
}


class End(Enum):
    """What becomes of the connection after the last response."""

    KEPT = auto()
    CLOSED = auto()
    WAITS = auto()
    """The server waits for the rest of the request."""


class Case(NamedTuple):
    """Bytes on one connection, and what comes back for them.

    Attributes:
        responses: In their order: a status, or the body of a 200.
    """

    name: str
    source: str
    sent: bytes
    responses: tuple[int | bytes, ...]
    end: End


def kept(name: str, source: str, sent: bytes, *responses: int | bytes) -> Case:
    return Case(name, source, sent, responses, End.KEPT)


def closed(name: str, source: str, sent: bytes, *responses: int | bytes) -> Case:
    return Case(name, source, sent, responses or (400,), End.CLOSED)


def waits(name: str, source: str, sent: bytes, *responses: int | bytes) -> Case:
    return Case(name, source, sent, responses, End.WAITS)


def each(
    case: Callable[..., Case],
    make: Callable[[bytes], bytes],
    source: str,
    response: int | bytes,
    *values: bytes,
) -> list[Case]:
    """Make requests that differ in one value, with one outcome."""
    return [case(f"{make.__name__} {value!r}", source, make(value), response) for value in values]


def lines(*each_: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in (*each_, b""))


def ping(*headers: bytes) -> bytes:
    return PING + lines(*headers)


def post(*headers: bytes) -> bytes:
    return POST + lines(*headers)


def get(target: bytes, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    return lines(b"%b %b %b" % (method, target, version), b"Host: a")


def version(value: bytes) -> bytes:
    return get(b"/ping", value)


def method(value: bytes) -> bytes:
    return get(b"/ping", method=value)


def host(value: bytes) -> bytes:
    return lines(b"GET /ping HTTP/1.1", b"Host: " + value)


def option(value: bytes) -> bytes:
    return ping(b"Connection: " + value)


def sized(length: bytes, body: bytes = b"abcde") -> bytes:
    return post(b"Content-Length: " + length) + body


def coded(coding: bytes, *headers: bytes) -> bytes:
    return post(b"Transfer-Encoding:" + coding, *headers) + b"3\r\nabc\r\n" + LAST


def chunk(line: bytes, data: bytes = b"abcde\r\n") -> bytes:
    return CHUNKED + line + data + LAST


def trailer(*trailers: bytes) -> bytes:
    return CHUNKED + b"1\r\na\r\n0\r\n" + lines(*trailers)


def old(request: bytes) -> bytes:
    return request.replace(b"HTTP/1.1", b"HTTP/1.0")


def check(port: Port, case: Case) -> None:
    """Send a case when it is new, when it is remembered, and byte by byte; judge what comes."""
    for is_whole in (True, True, False):
        with port.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _check(port, connection, case, is_whole)


def _check(port: Port, connection: socket.socket, case: Case, is_whole: bool) -> None:
    # Behind a request that ends the connection, another one gets no response.
    _send(port, connection, case.sent + NEXT * (case.end is End.CLOSED), is_whole)
    asked, kept_by = case.sent.partition(b" ")[0].decode("latin-1"), None
    for expected in case.responses:
        answer = read(connection, asked)
        kept_by = answer.headers["connection"]
        wanted = (200, expected) if isinstance(expected, bytes) else (expected, answer.body)
        assert (answer.status, answer.body) == wanted
        assert answer.status < 400 or answer.code == CODES[answer.status]
    if case.end is End.KEPT:
        assert kept_by == ("keep-alive" if b" HTTP/1.0\r\n" in case.sent else None)
        _send(port, connection, NEXT, is_whole)
        assert read(connection)[::2] == (200, b"next")
        return
    if case.end is End.CLOSED:
        assert kept_by == "close"
    else:
        connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""


def _send(port: Port, connection: socket.socket, sent: bytes, is_whole: bool) -> None:
    """Send bytes so that the server reads them at once, or one by one, or at most 1000 times."""
    size = len(sent) + 1 if is_whole else len(sent) // 1000 + 1
    for start in range(0, len(sent), size):
        connection.sendall(sent[start : start + size])
        port.do(int)  # in a later turn of the loop than the one that reads them

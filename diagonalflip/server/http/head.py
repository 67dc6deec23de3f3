"""Heads of HTTP/1.1 requests: what is valid, and how the next one like the last is recognised."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

from diagonalflip.errors import (
    HeadersTooLarge,
    InvalidRequest,
    RequestTooLarge,
    TargetTooLong,
    UnsupportedTransfer,
)
from diagonalflip.server.http import limits
from diagonalflip.wire import MAX_BODY_BYTES

_NAME = r"(?:\[[^\[\]/?#@\s]+\]|[\w.~!$&'()*+,;=%-]+)"

HOST = re.compile(rf"{_NAME}?(:\d*)?", re.ASCII)
"""A name or address, and a port (RFC 9110, section 7.2)."""

TARGET = re.compile(
    rf"(?:https?://({_NAME}(?::\d*)?)(?=[/?]|\Z)|(?=/|\*\Z))([^?#]*)(?:\?[^#]*)?",
    re.ASCII | re.IGNORECASE,
)
"""A path, or a URL with a host, or ``*``; no fragment (RFC 9112, section 3.2)."""

KNOWN_HEAD_BYTES = 1024
"""Greatest length of a head that is remembered."""

VARYING = re.compile(
    rb"\r\n([Cc]ontent-[Ll]ength|[Tt]race(?:parent|state)|[Xx]-[Rr]equest-[Ii][Dd]"
    rb"|[Xx]-[Aa]mzn-[Tt]race-[Ii]d): ([!-~]{1,256})(?=\r\n[^ \t])"
)
"""Headers that differ between requests of one client."""

VALUE = re.compile(rb"[!-~]{1,256}")
"""Value of such a header."""


class KnownHead:
    """The head of a connection's last request, to recognise the next one like it.

    A client sends the same head again and again, and parsing it takes as long as predicting an
    image. Only the values of ``VARYING`` headers may differ.

    Args:
        raw: The head, as a part of a whole request that llhttp has parsed.
        method, path, headers: What llhttp has found in it.

    Attributes:
        method, path: These.
    """

    def __init__(self, raw: bytes, method: str, path: str, headers: dict[str, str]) -> None:
        self.method, self.path = method, path
        self._raw, self._headers = raw, headers
        self._size = len(raw) + int(headers.get("content-length", "0"))
        found = list(VARYING.finditer(raw))
        if any(headers[lower(each[1])] != each[2].decode() for each in found):
            found = []  # there are several headers of that name
        ends = [0, *(each.end(2) for each in found)]
        self._varying = [
            (lower(each[1]), raw[end : each.start(2)])
            for each, end in zip(found, ends, strict=False)
        ]
        self._end = raw[ends[-1] :]

    def read(self, data: bytes) -> tuple[dict[str, str], int] | None:
        """Return headers of a request, and the length of its head; None if it is not alike."""
        if len(data) == self._size and data.startswith(self._raw):
            return self._headers, len(self._raw)
        headers, at = dict(self._headers), 0
        for name, before in self._varying:
            if not data.startswith(before, at):
                return None
            at += len(before)
            value = data[at : data.find(b"\r", at)]
            if not VALUE.fullmatch(value):
                return None
            headers[name] = value.decode()
            at += len(value)
        if not data.startswith(self._end, at):
            return None
        at, length = at + len(self._end), headers.get("content-length", "0")
        is_whole = length.isdigit() and len(length) < 9 and at + int(length) == len(data)
        return (headers, at) if is_whole else None


def check(method: str, version: str, target: bytes, headers: dict[str, str]) -> None:
    """Raise an error for a bad head that llhttp accepts (RFC 9112; RFC 9110, section 14.5)."""
    if method == "CONNECT":
        raise InvalidRequest("method CONNECT", "another", "this server is not a proxy")
    if target == b"*" and method != "OPTIONS":
        raise InvalidRequest(f"target * of {method}", "a path")
    if version not in ("1.0", "1.1"):
        raise InvalidRequest(f"HTTP/{version}", "HTTP/1.1")
    if method == "PUT" and "content-range" in headers:
        raise InvalidRequest("a part of a body (Content-Range)", "all of it")
    host, coding = headers.get("host"), headers.get("transfer-encoding", "chunked")
    if host is None and version != "1.0":
        raise InvalidRequest("no header host", "one")
    if host is not None and not HOST.fullmatch(host):
        raise InvalidRequest(f"Host {host[:100]!r}", "a name or an address, and a port")
    codings = elements(coding)
    if codings[-1:] != ["chunked"]:  # the end of the body is unknown
        raise InvalidRequest(f"Transfer-Encoding {coding[:100]!r}", "chunked")
    if len(codings) > 1:
        raise UnsupportedTransfer(f"Transfer-Encoding {coding[:100]!r}", "chunked")


def without_upgrade(method: str, target: bytes, version: str, headers: dict[str, str]) -> bytes:
    """Return the head without its header ``Upgrade``, which is ignored (RFC 9110, section 7.8)."""
    lines = [f"{name}: {value}" for name, value in headers.items() if name != "upgrade"]
    begin = f"{method} {target.decode('latin-1')} HTTP/{version}"
    return "\r\n".join([begin, *lines, "", ""]).encode("latin-1")


def elements(value: str) -> list[str]:
    """Return the elements of a list header, in lower case (RFC 9110, section 5.6.1)."""
    stripped = (each.strip(" \t").lower() for each in value.split(","))
    return [each for each in stripped if each]


@lru_cache(maxsize=256)
def lower(name: bytes) -> str:
    """Return a header's name in lower case."""
    return name.decode("latin-1").lower()


@lru_cache(maxsize=256)
def read_target(target: bytes) -> tuple[str, str]:
    """Return host and path of a request's target in any of its forms (RFC 9112, section 3.2).

    The host is empty unless the target is a URL. The path is decoded, without its query, and
    without a slash at its end, which TorchServe ignores as well.

    Raises:
        InvalidRequest: The target has none of these forms.
    """
    text = target.decode("latin-1")
    parts = TARGET.fullmatch(text)
    if parts is None:
        raise InvalidRequest(f"target {text[:100]!r}", "a path, or a URL with a host")
    return parts[1] or "", unquote(parts[2]).rstrip("/") or "/"


def long_head(target: bytes) -> TargetTooLong | HeadersTooLarge:
    """Return the error for a head that is too long: 414 if most of it is its target."""
    expected = f"at most {limits.MAX_HEAD_BYTES} bytes"
    if len(target) > limits.MAX_HEAD_BYTES >> 1:
        return TargetTooLong("the target is too long", f"{expected} with all headers")
    return HeadersTooLarge("the headers are too long", expected)


def long_body(length: str) -> RequestTooLarge:
    """Return the error for a body that is too long."""
    return RequestTooLarge(
        f"a body of {length[:20]} bytes", f"at most {MAX_BODY_BYTES} bytes", "send fewer images"
    )

"""Heads of HTTP/1.1 requests: what may be in them, and those that are known already."""

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

KNOWN_HEADS, KNOWN_HEAD_BYTES = 1024, 1024
"""Number and length of heads that are remembered, at most."""

IDS = re.compile(
    rb"\r\n([Tt]race(?:parent|state)|[Xx]-[Rr]equest-[Ii][Dd]|[Xx]-[Aa]mzn-[Tt]race-[Ii]d)"
    rb": ([!-~]{1,256})(?=\r\n[^ \t])"
)
"""Headers by which the heads of one client differ."""


Head = tuple[str, str, dict[str, str], int]
"""Method, path and headers by lower-case name, and the body's length."""

_known: dict[bytes, Head] = {}
"""Heads by their bytes, less ``IDS``. A client sends the same one again and again, and reading it
takes as long as predicting an image; what llhttp has read once, as a whole request, need not be
read again."""


def find(raw: bytes) -> Head | None:
    """Return what is known of a head, with the ids that it has itself."""
    known = _known.get(raw)
    if known is not None:
        return known
    rest, ids = _without_ids(raw)
    known = _known.get(rest)
    if known is None or not ids:
        return None
    method, path, headers, length = known
    both = headers | ids
    return (method, path, both, length) if len(both) == len(headers) + len(ids) else None


def remember(raw: bytes, head: Head) -> None:
    """Take a head that llhttp has read as a whole request."""
    method, path, headers, length = head
    rest, ids = _without_ids(raw)
    for name, value in ids.items():
        if headers.pop(name, "") != value:
            return  # there are two of that name
    if len(_known) >= KNOWN_HEADS:
        _known.clear()
    _known[rest] = method, path, headers, length


def _without_ids(raw: bytes) -> tuple[bytes, dict[str, str]]:
    """A head without ``IDS``, and these; all of it if there are two of one name, or no others."""
    parts = IDS.split(raw)
    count = len(parts) // 3
    if not count or not parts[0].strip():  # it begins with them, so they are no headers
        return raw, {}
    if count == 1:
        before, name, value, after = parts
        return before + after, {lower(name): value.decode()}
    ids = {lower(parts[at]): parts[at + 1].decode() for at in range(1, len(parts), 3)}
    return (b"".join(parts[::3]), ids) if len(ids) == count else (raw, {})


def check(method: str, version: str, target: bytes, headers: dict[str, str]) -> None:
    """Raise what is wrong with a head that llhttp lets pass (RFC 9112, sections 2.3, 3.2, 6)."""
    if method == "CONNECT":
        raise InvalidRequest("method CONNECT", "another", "this server is not a proxy")
    if target == b"*" and method != "OPTIONS":
        raise InvalidRequest(f"target * of {method}", "a path")
    if version not in ("1.0", "1.1"):
        raise InvalidRequest(f"HTTP/{version}", "HTTP/1.1")
    host, coding = headers.get("host"), headers.get("transfer-encoding", "chunked")
    if host is None and version != "1.0":
        raise InvalidRequest("no header host", "one")
    if host is not None and not is_host(host):
        raise InvalidRequest(f"Host {host[:100]!r}", "a name or an address, and a port")
    codings = elements(coding)
    if codings[-1:] != ["chunked"]:  # nobody knows where the body ends
        raise InvalidRequest(f"Transfer-Encoding {coding[:100]!r}", "chunked")
    if len(codings) > 1:
        raise UnsupportedTransfer(f"Transfer-Encoding {coding[:100]!r}", "chunked")


def without_upgrade(method: str, target: bytes, version: str, headers: dict[str, str]) -> bytes:
    """Return a head again, less the offer of another protocol.

    The offer is ignored (RFC 9110, section 7.8), and the request read as if it were not there.
    """
    lines = [f"{name}: {value}" for name, value in headers.items() if name != "upgrade"]
    begin = f"{method} {target.decode('latin-1')} HTTP/{version}"
    return "\r\n".join([begin, *lines, "", ""]).encode("latin-1")


def elements(value: str) -> list[str]:
    """Return the elements of a header that is a list, in lower case (RFC 9110, section 5.6.1)."""
    stripped = (each.strip(" \t").lower() for each in value.split(","))
    return [each for each in stripped if each]


@lru_cache(maxsize=64)
def is_host(value: str) -> bool:
    """Return whether a header ``Host`` has that value."""
    return HOST.fullmatch(value) is not None


@lru_cache(maxsize=256)
def lower(name: bytes) -> str:
    """A header's name."""
    return name.decode("latin-1").lower()


@lru_cache(maxsize=256)
def read_target(target: bytes) -> tuple[str, str]:
    """Return host and path of a request's target in any of its forms (RFC 9112, section 3.2).

    The host is empty but in a URL. The path is decoded, without its query, and without a slash at
    its end, which TorchServe's port ignores as well.

    Raises:
        InvalidRequest: It has none of these forms.
    """
    told = target.decode("latin-1")
    parts = TARGET.fullmatch(told)
    if parts is None:
        raise InvalidRequest(f"target {told[:100]!r}", "a path, or a URL with a host")
    return parts[1] or "", unquote(parts[2]).rstrip("/") or "/"


def long_head(target: bytes) -> TargetTooLong | HeadersTooLarge:
    """Return what to answer to a head that is too long: most of it may be its target."""
    expected = f"at most {limits.MAX_HEAD_BYTES} bytes"
    if len(target) > limits.MAX_HEAD_BYTES >> 1:
        return TargetTooLong("the target is too long", f"{expected} with all headers")
    return HeadersTooLarge("the headers are too long", expected)


def long_body(length: str) -> RequestTooLarge:
    """Return what to answer to a body that is too long."""
    return RequestTooLarge(
        f"a body of {length[:20]} bytes", f"at most {MAX_BODY_BYTES} bytes", "send fewer images"
    )

"""Heads of HTTP/1.1 requests: what is valid, and a cache of those seen before."""

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
"""Most heads that are cached, and the greatest length of one."""

IDS = re.compile(
    rb"\r\n([Tt]race(?:parent|state)|[Xx]-[Rr]equest-[Ii][Dd]|[Xx]-[Aa]mzn-[Tt]race-[Ii]d)"
    rb": ([!-~]{1,256})(?=\r\n[^ \t])"
)
"""Headers that differ between requests of one client."""

ID = re.compile(rb"[!-~]{1,256}")
"""Value of such a header."""

Head = tuple[str, str, dict[str, str], int]
"""Method, path and headers by lower-case name, and the body's length."""

_known: dict[bytes, Head] = {}
"""Heads by their bytes without ``IDS``. A client sends the same head again and again, and parsing
it takes as long as predicting an image. Only what llhttp has parsed as a whole request is here."""

_around: dict[int, tuple[bytes, bytes, str, Head]] = {}
"""The last head found of each length with one id: the bytes before and after the id, its name, and
the head. If every request has its own id, as with traces, comparing the bytes around it is faster
than searching for it."""


def find(raw: bytes) -> Head | None:
    """Return a head from the cache, with the ids in ``raw``; None if it is not there."""
    around = _around.get(len(raw))
    if around is not None:
        before, after, name, known = around
        if raw.startswith(before) and raw.endswith(after):
            value = raw[len(before) : -len(after)]
            if ID.fullmatch(value):
                return _with(known, {name: value.decode()})
    found = _known.get(raw)
    if found is not None:
        return found
    parts, ids = _without_ids(raw)
    found = _known.get(b"".join(parts[::3]))
    if found is None or not ids or not found[2].keys().isdisjoint(ids):
        return None
    if len(ids) == 1:
        value, after = parts[2:]
        _around[len(raw)] = raw[: -len(value + after)], after, lower(parts[1]), found
    return _with(found, ids)


def _with(known: Head, ids: dict[str, str]) -> Head:
    method, path, headers, length = known
    return method, path, headers | ids, length


def remember(raw: bytes, head: Head) -> None:
    """Cache a head that llhttp has parsed as a whole request."""
    method, path, headers, length = head
    parts, ids = _without_ids(raw)
    for name, value in ids.items():
        if headers.pop(name, "") != value:
            return  # there are two headers of that name
    if len(_known) >= KNOWN_HEADS:
        forget()
    _known[b"".join(parts[::3])] = method, path, headers, length


def forget() -> None:
    """Empty the cache."""
    _known.clear()
    _around.clear()


def _without_ids(raw: bytes) -> tuple[list[bytes], dict[str, str]]:
    """Split a head at ``IDS``; return the parts, and the ids by name.

    If two of them have the same name, the head stays whole, and there are no ids.
    """
    parts = IDS.split(raw)
    if not parts[0].strip():  # there is no request line before them
        return [raw], {}
    ids = {lower(parts[at]): parts[at + 1].decode() for at in range(1, len(parts), 3)}
    return (parts, ids) if len(parts) == 1 + 3 * len(ids) else ([raw], {})


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

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

ID = re.compile(rb"[!-~]{1,256}")
"""The value of one."""

Head = tuple[str, str, dict[str, str], int]
"""Method, path and headers by lower-case name, and the body's length."""

_known: dict[bytes, Head] = {}
"""Heads by their bytes, less ``IDS``. A client sends the same one again and again, and reading it
takes as long as predicting an image; what llhttp has read once, as a whole request, need not be
read again."""

_around: dict[int, tuple[bytes, bytes, str, Head]] = {}
"""The last known head of each length with one id: what is before the id and after it, its name,
and what is known. With an id for every request, as traces have, looking for it takes longer than
comparing the rest."""


def find(raw: bytes) -> Head | None:
    """Return what is known of a head, with the ids that it has itself."""
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
    """Take a head that llhttp has read as a whole request."""
    method, path, headers, length = head
    parts, ids = _without_ids(raw)
    for name, value in ids.items():
        if headers.pop(name, "") != value:
            return  # there are two of that name
    if len(_known) >= KNOWN_HEADS:
        forget()
    _known[b"".join(parts[::3])] = method, path, headers, length


def forget() -> None:
    """Know no head any more."""
    _known.clear()
    _around.clear()


def _without_ids(raw: bytes) -> tuple[list[bytes], dict[str, str]]:
    """Return a head cut into what is around ``IDS``, their names and values; and these.

    It is whole, and there are no ids, if two have one name.
    """
    parts = IDS.split(raw)
    if not parts[0].strip():  # it begins with them, so they are no headers
        return [raw], {}
    ids = {lower(parts[at]): parts[at + 1].decode() for at in range(1, len(parts), 3)}
    return (parts, ids) if len(parts) == 1 + 3 * len(ids) else ([raw], {})


def check(method: str, version: str, target: bytes, headers: dict[str, str]) -> None:
    """Raise what is wrong with a head that llhttp lets pass (RFC 9112; RFC 9110, section 14.5)."""
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


@lru_cache(maxsize=256)
def lower(name: bytes) -> str:
    """Return a header's name as it is compared."""
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

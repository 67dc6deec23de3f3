"""Content codings of request bodies (RFC 9110, section 8.4.1)."""

from __future__ import annotations

import zlib

from diagonalflip.errors import InvalidPayload, RequestTooLarge, UnsupportedCoding
from diagonalflip.wire import MAX_BODY_BYTES, Body

GZIP = 31
FORMATS = {"gzip": GZIP, "x-gzip": GZIP, "deflate": 15}
"""zlib's ``wbits`` by coding: gzip's container, and zlib's."""

MOST_INFLATED = 1032
"""Most bytes that one byte of deflate can become: https://zlib.net/zlib_tech.html"""


def length_of(coding: str, body: Body) -> int:
    """Return the most bytes that ``decoded`` returns; gzip states it (RFC 1952, section 2.3.1)."""
    if FORMATS.get(coding.strip().lower()) == GZIP:
        return min(int.from_bytes(body[-4:], "little"), MAX_BODY_BYTES)
    return min(len(body) * MOST_INFLATED, MAX_BODY_BYTES)


def decoded(coding: str, body: Body, most: int = MAX_BODY_BYTES) -> Body:
    """Return the body before ``coding``, a ``Content-Encoding`` header, was applied.

    Raises:
        InvalidPayload: It is not complete, or has bytes after its end.
        RequestTooLarge: It is longer than ``most`` bytes.
        UnsupportedCoding: The coding is not supported, or there are several.
    """
    name = coding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in FORMATS:
        raise UnsupportedCoding(f"Content-Encoding {coding[:60]!r}", "gzip, deflate, or none")
    most = min(most, MAX_BODY_BYTES)
    length = length_of(name, body)
    inflater = zlib.decompressobj(FORMATS[name])
    try:
        plain = inflater.decompress(body, min(length, most) + 1)
    except zlib.error as error:
        raise InvalidPayload(f"the body is not {name}: {error}", f"{name}, whole") from error
    if len(plain) > most:
        raise RequestTooLarge(f"the {name} body has more than {most} bytes", f"at most {most}")
    if len(plain) > length:
        raise InvalidPayload(f"the {name} body is longer than it says at its end", f"{name}, whole")
    if not inflater.eof or inflater.unused_data:
        raise InvalidPayload(f"the {name} body is cut short or goes on", "one stream, whole")
    return plain

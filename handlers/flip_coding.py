"""Content codings of request bodies (RFC 9110, section 8.4.1)."""

from __future__ import annotations

import zlib

from diagonalflip.errors import InvalidPayload, RequestTooLarge, UnsupportedCoding
from diagonalflip.wire import MAX_BODY_BYTES

Body = bytes | bytearray

FORMATS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Coding to the ``wbits`` of zlib: gzip's container, and zlib's."""


def decoded(coding: str, body: Body) -> Body:
    """The body before ``coding``, a ``Content-Encoding`` header, was applied.

    Raises:
        InvalidPayload: It is not whole, or something follows it.
        RequestTooLarge: It is longer than any request may be.
        UnsupportedCoding: Another coding, or several.
    """
    name = coding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in FORMATS:
        raise UnsupportedCoding(f"Content-Encoding {coding[:60]!r}", "gzip, deflate, or none")
    inflater = zlib.decompressobj(FORMATS[name])
    try:
        plain = inflater.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise InvalidPayload(f"the body is not {name}: {error}", f"{name}, whole") from error
    if len(plain) > MAX_BODY_BYTES:
        raise RequestTooLarge(
            f"the {name} body has more than {MAX_BODY_BYTES} bytes",
            f"at most {MAX_BODY_BYTES} bytes",
        )
    if not inflater.eof or inflater.unused_data:
        raise InvalidPayload(f"the {name} body is cut short or goes on", "one stream, whole")
    return plain

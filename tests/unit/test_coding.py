"""Content codings are undone, bounded, or rejected: compressed bytes are no images."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from diagonalflip.errors import InvalidPayload, RequestTooLarge, UnsupportedCoding
from diagonalflip.inference import content_codings
from diagonalflip.wire import MAX_BODY_BYTES

BODY = b"\xb6\xc0" * 100


GZIP, DEFLATE = gzip.compress(BODY), zlib.compress(BODY)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        *(("", BODY), ("identity", BODY), ("gzip", GZIP), ("X-GZIP", GZIP), ("deflate", DEFLATE)),
        (" Gzip ", gzip.compress(BODY, 0)),
    ],
)
def test_what_was_coded_is_decoded(coding: str, body: bytes) -> None:
    assert content_codings.decoded(coding, body) == BODY
    assert content_codings.decoded(coding, bytearray(body)) == BODY


@pytest.mark.parametrize(
    "coding", ["br", "zstd", "compress", "gzip, gzip", "gzip;q=1", "aws-chunked"]
)
def test_other_codings_are_rejected(coding: str) -> None:
    with pytest.raises(UnsupportedCoding):
        content_codings.decoded(coding, BODY)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        *(("gzip", BODY), ("gzip", b""), ("gzip", DEFLATE), ("gzip", GZIP * 2)),
        *(("gzip", GZIP[:-1]), ("gzip", GZIP[:-8] + bytes(8)), ("gzip", GZIP + b"\0")),
        *(("deflate", DEFLATE[2:]), ("deflate", GZIP)),
    ],
)
def test_what_is_not_one_whole_stream_is_rejected(coding: str, body: bytes) -> None:
    with pytest.raises(InvalidPayload):
        content_codings.decoded(coding, body)


def test_no_more_is_decoded_than_may_be() -> None:
    largest, bomb = (gzip.compress(bytes(MAX_BODY_BYTES + more)) for more in (0, 1))
    assert len(content_codings.decoded("gzip", largest)) == MAX_BODY_BYTES
    with pytest.raises(RequestTooLarge):
        content_codings.decoded("gzip", bomb)
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLarge):
            content_codings.decoded("gzip", bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()

"""The cost of a request is estimated as what it will be, before it waits."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from diagonalflip.errors import DiagonalFlipError, TooManyImages
from diagonalflip.inference.reading import EXPLANATION_COST, UNWRAPPED_BYTES, cost_of, read
from diagonalflip.message import Operation, Request
from diagonalflip.wire import MAX_EXPLAINED_IMAGES, MAX_IMAGES, OCTETS, PNG
from tests.unit.test_form import FILE, TYPE, form
from tests.unit.test_picture import raw_png

CODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
DIGEST = "0" * 64


def asked(body: bytes, content_type: str = OCTETS, coding: str = "", **more: str) -> Request:
    headers = {"content-type": content_type} | more
    return Request(
        Operation.PREDICT, headers | ({"content-encoding": coding} if coding else {}), body
    )


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("size", [0, 1, 600, UNWRAPPED_BYTES])
def test_what_is_small_is_taken_out_of_its_compression(coding: str, size: int) -> None:
    request = asked(CODERS[coding](bytes(size)), coding=coding, accept="image/png")
    assert cost_of(request) == 2 * size
    assert (request.body, request.headers) == (
        bytes(size),
        {"content-type": OCTETS, "accept": "image/png"},
    )


def test_what_is_small_is_taken_out_of_its_form() -> None:
    body = form((FILE, f"{OCTETS}; padding=4", b"\xb0"))
    for request in (asked(body, TYPE), asked(gzip.compress(body), TYPE, "gzip")):
        assert cost_of(request) == 2
        assert (request.body, request.headers["content-type"]) == (b"\xb0", f"{OCTETS}; padding=4")
        assert read(request, "1.0", DIGEST)
        assert request.images.count == 1


def test_a_form_in_a_form_stays_what_it_is() -> None:
    inner = form((FILE, OCTETS, b"\xb6"))
    request = asked(form((FILE, TYPE, inner)), TYPE)
    cost_of(request)
    with pytest.raises(DiagonalFlipError, match="multipart"):
        read(request, "1.0", DIGEST)


def test_what_is_larger_weighs_what_it_says_or_can_be() -> None:
    plain = bytes(UNWRAPPED_BYTES + 1)
    packed = gzip.compress(plain)
    request = asked(packed, coding="gzip")
    assert (cost_of(request), request.body) == (2 * len(plain), packed)
    assert cost_of(asked(zlib.compress(plain), coding="deflate")) >= 2 * len(plain)
    for wrapped in (PNG, TYPE):
        assert cost_of(asked(packed, wrapped, "gzip")) == MAX_IMAGES


def test_a_png_weighs_what_its_head_says() -> None:
    """However few bytes it has."""
    assert cost_of(asked(raw_png(2048, 1024), PNG)) == MAX_IMAGES // 2
    assert cost_of(asked(raw_png(2, 2, bytes(4)), PNG)) == 1


def test_explanations_weigh_more_and_are_fewer() -> None:
    most = MAX_EXPLAINED_IMAGES
    request = replace(asked(bytes(most // 2)), operation=Operation.EXPLAIN)
    assert cost_of(replace(request, body=b"\xb6")) == 2 * EXPLANATION_COST
    assert cost_of(request) == most * EXPLANATION_COST
    assert read(request, "1.0", DIGEST)
    larger = replace(request, body=bytes(most // 2 + 1))
    assert cost_of(larger) == most * EXPLANATION_COST
    with pytest.raises(TooManyImages) as caught:
        read(larger, "1.0", DIGEST)
    assert caught.value.limit == most


def test_a_length_that_is_said_is_never_exceeded() -> None:
    """Or a light request could take the time of a heavy one."""
    packed = gzip.compress(bytes(1 << 20))
    liar = asked(packed[:-4] + (10).to_bytes(4, "little"), coding="gzip")
    assert cost_of(liar) == 1
    with pytest.raises(DiagonalFlipError, match="longer than it says"):
        read(liar, "1.0", DIGEST)


@pytest.mark.parametrize(
    "request_",
    [
        asked(b"no gzip", coding="gzip"),
        asked(gzip.compress(b"\xb6"), coding="gzip, gzip"),
        asked(b"no form", TYPE),
        asked(gzip.compress(b"no form"), TYPE, "gzip"),
    ],
)
def test_what_is_broken_stays_and_is_rejected_when_it_is_read(request_: Request) -> None:
    body = request_.body
    assert (cost_of(request_), request_.body) == (1, body)
    with pytest.raises(DiagonalFlipError):
        read(request_, "1.0", DIGEST)

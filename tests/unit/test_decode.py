"""Bodies become images in every documented form, and only DiagonalFlipError comes out else."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import orjson
import pytest

from diagonalflip import wire
from diagonalflip.errors import (
    DiagonalFlipError,
    EmptyPayload,
    InvalidImage,
    InvalidJson,
    InvalidPadding,
    InvalidPayload,
    InvalidText,
    TooManyImages,
    UnsupportedMediaType,
)
from diagonalflip.inference import decoders, reading, v2
from diagonalflip.message import Operation, Request
from diagonalflip.wire import JSON, OCTETS

TEXT, BOM, UNSUPPORTED = "text/plain", b"\xef\xbb\xbf", UnsupportedMediaType
DOCUMENTS = (b"null", b"true", b"11")
PADDINGS = ("4; padding=0", "; padding=4", "0;padding=0", "", "4.0", "²", "4" * 5000, "0x4")
CHARSETS = ("utf-16", "latin-1", "", "rubbish")
OTHERS = ("text/html", "application/x-www-form-urlencoded", "application/*", "json", ";padding=4")


def body_of(*images: Any) -> bytes:
    return json.dumps({"images": images}).encode()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (f"{JSON}; charset=utf8", b'{"images": [11, 6]}'),
        # A byte order mark is no part of a text.
        *((TEXT, BOM + b"b6"), (TEXT, BOM + b"b6\n")),
    ],
)
def test_utf_8_may_be_announced_in_other_ways(content_type: str, body: bytes) -> None:
    assert wire.unpack(decoders.decode(content_type, body)).tolist() == [11, 6]


@pytest.mark.parametrize(
    ("content_type", "body", "error", "message"),
    [
        *((f"{OCTETS};padding={each}", b"\xb0", InvalidPadding, "padding=4") for each in PADDINGS),
        *((each, b"", EmptyPayload, "0 bytes") for each in (JSON, OCTETS, f"{OCTETS};padding=4")),
        *((each, bytearray(), EmptyPayload, "0 bytes") for each in (JSON, f"{OCTETS};padding=4")),
        (JSON, body_of(), EmptyPayload, "0 images"),
        *((JSON, each, InvalidJson, "^The document " + each.decode()) for each in DOCUMENTS),
        *((f"{JSON};charset={each}", body_of(11), UNSUPPORTED, "Charset") for each in CHARSETS),
        *((f"{TEXT};charset={each}", b"b6", UNSUPPORTED, "Charset") for each in CHARSETS),
        *((each, b"\xb0", UNSUPPORTED, f"Expected .*{JSON}.*{OCTETS}") for each in OTHERS),
        ("", b"\xb0", UNSUPPORTED, "No Content-Type"),
        *((TEXT, each, InvalidText, r"^b'g' at byte 3\.") for each in (b"b6 g", BOM + b"b6 gxg")),
        (TEXT, bytearray(b"b6 g"), InvalidText, r"^b'g' at byte 3\."),
        (TEXT, body_of(11), InvalidText, f"JSON, say so, by Content-Type: {JSON}"),
        (TEXT, b" \r\n", EmptyPayload, "0 images"),
        (TEXT, b"b" * wire.MAX_TEXT_IMAGES + b"b", TooManyImages, str(wire.MAX_TEXT_IMAGES)),
    ],
)
def test_what_cannot_be_read_is_rejected(
    content_type: str, body: bytes, error: type[DiagonalFlipError], message: str
) -> None:
    with pytest.raises(error, match=message):
        decoders.decode(content_type, body)


def test_a_get_without_a_body_asks_what_is_served_whatever_its_type() -> None:
    """Many programs name a type with every request."""
    for method in ("GET", "HEAD"):
        request = Request(Operation.PREDICT, {"content-type": JSON}, method=method)
        assert not reading.read(request, "1.0", "")
        with pytest.raises(InvalidJson):
            reading.read(replace(request, body=b"{}"), "1.0", "")


@pytest.mark.parametrize(
    "image",
    [
        # Numbers.
        16, -1, 2**31, 2**63, -(2**63), 2**64 - 1, 10**30, 1.0, 0.5, True, False, None,
        # Strings.
        "", "1", "101", "10110", "1012", "abcd", "10 1", " 1011", "-101", "٠٠٠١", "é011", "/011",
        "é" * 100_000,
        # Lists: length, depth, kinds, values.
        [], [1], [1, 0, 1], [1, 0, 1, 1, 0], [1, 0, 1, 2], [1, 0, 1, -1], [1, 0, 1, 2**63],
        [1, 0, 1, 1.0], [1, 0, 1, True], [1, 0, 1, None], [1, 0, 1, "1"], ["1", "0", "1", "1"],
        [[1, 0]], [[1, 0], [1]], [[1, 0], 1], [1, 0], [[1, 0], [1, 2]], [[1, 0], [1, True]],
        [[], []], [[1, 0], [1, 1], [0, 0]], [[1, 0, 1, 1]], [[1], [0], [1], [1]],
        [[[1, 0], [1, 1]], [[1, 0], [1, 1]]], [[1, 0], [1, 2**64 - 1]], [[[1], [0]], [[1], [1]]],
        # Objects.
        {}, {"image": 11},
    ],
    ids=lambda image: repr(image)[:40],
)  # fmt: skip
@pytest.mark.parametrize("index", [0, 1, 5])
def test_a_malformed_image_is_named_by_index_and_value(image: Any, index: int) -> None:
    good: list[Any] = [11, "0110", [1, 0, 1, 1], [[1, 0], [1, 1]], 3]
    images = [*good[:index], image, *good[index:], image]
    with pytest.raises(InvalidImage) as caught:
        decoders.decode(JSON, body_of(*images))
    quoted = '"1012"' if image == "1012" else ""
    assert caught.value.got.startswith(f"image {index}: {quoted}")
    assert len(caught.value.got) < 100
    assert "0-15" in caught.value.expected


@pytest.mark.parametrize("last", [b"16", b"[1,0,1]", b"null"])
def test_a_malformed_image_is_found_about_as_fast_as_good_ones_are_read(last: bytes) -> None:
    index = wire.MAX_TEXT_IMAGES - 1
    started = time.process_time()
    with pytest.raises(InvalidImage, match=f"Image {index}: "):
        decoders.decode(JSON, b'{"images":[' + b"7," * index + last + b"]}")
    assert time.process_time() - started < 2


@pytest.mark.parametrize("depth", [3, 200, 300, 1000])
@pytest.mark.parametrize("opening", [b"%b", b'{"images":%b}', b'{"images":[11,%b]}'])
def test_deep_nesting_is_rejected_at_any_depth(opening: bytes, depth: int) -> None:
    with pytest.raises(InvalidPayload):
        decoders.decode(JSON, opening % (b"[" * depth + b"]" * depth))


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"]", b"nonsense", b'{"images": [11', b'{"images": [11,]}', b"{'images': [11]}",
        b'{"images": [NaN]}', b'{"images": [Infinity]}', b'{"images": [1e999]}',
        b'{"images": [1' + b"0" * 5000 + b"]}", b'{"images": [011]}', b'{"images": [11]} x',
        b"\x00", b"\xff\xfe", '{"images": [11]}'.encode("utf-16"),
        b'{"images": ["\xff\xff\xff\xff"]}', b'{"images": ["\\ud800"]}', b"[" * 100_000,
        b"null", b"11", b"[11]", b'"1011"', b"{}", b'{"image": [11]}', b'{"Images": [11]}',
        b'{"images": [11], "more": 1}', b'{"images": null}', b'{"images": 11}',
        b'{"images": "1011"}', b'{"images": {"0": 11}}', b'{"images": [7], "images": [11]}',
    ],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
def test_what_is_not_the_documented_json_is_invalid_json(body: bytes) -> None:
    with pytest.raises(InvalidJson) as caught:
        decoders.decode(JSON, body)
    assert caught.value.got
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("image", [b"7", b"[[1,0],[1,1]]"])
def test_the_largest_request_is_the_same_in_json(image: bytes) -> None:
    most = b'{"images":[' + b",".join([image] * wire.MAX_TEXT_IMAGES) + b"%b]}"
    assert decoders.decode(JSON, most % b"").count == wire.MAX_TEXT_IMAGES
    with pytest.raises(TooManyImages, match=str(wire.MAX_TEXT_IMAGES + 1)):
        decoders.decode(JSON, most % (b"," + image))


@pytest.mark.parametrize("value", [b"[]", b"{}", b"[[1,1],[1,1]]", b"11"])
def test_too_many_values_are_never_parsed(monkeypatch: pytest.MonkeyPatch, value: bytes) -> None:
    """Parsed, 64 MiB of empty lists are more than a gigabyte."""
    monkeypatch.setattr(orjson, "loads", None)
    body = b'{"images": [' + b",".join([value] * (4 * wire.MAX_TEXT_IMAGES + 2000)) + b"]}"
    with pytest.raises(TooManyImages):
        decoders.decode(JSON, body)
    assert not v2.recognises({}, body.replace(b"images", b"inputs"))

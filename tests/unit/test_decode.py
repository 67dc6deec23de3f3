"""Bodies become images in every documented form, and only DiagonalFlipError comes out else."""

from __future__ import annotations

import json
import time
from typing import Any

import flip_decode
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagonalflip import wire
from diagonalflip.errors import (
    DiagonalFlipError,
    EmptyPayload,
    InvalidImage,
    InvalidJson,
    InvalidPadding,
    InvalidPayload,
    TooManyImages,
    UnsupportedMediaType,
)
from diagonalflip.wire import JSON, OCTETS

FORMS = ("number", "string", "flat", "rows")


def in_form(number: int, form: str) -> Any:
    bits = [int(bit) for bit in f"{number:04b}"]
    forms = {"number": number, "string": f"{number:04b}", "flat": bits}
    return forms.get(form, [bits[:2], bits[2:]])


def body_of(*images: Any) -> bytes:
    return json.dumps({"images": images}).encode()


def numbers_in(content_type: str, body: bytes | bytearray) -> list[int]:
    numbers: list[int] = wire.unpack(flip_decode.decode(content_type, body)).tolist()
    return numbers


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", range(16))
def test_every_image_can_be_said_in_every_form(number: int, form: str) -> None:
    assert numbers_in(JSON, body_of(in_form(number, form))) == [number]


@given(st.lists(st.tuples(st.integers(0, 15), st.sampled_from(FORMS)), min_size=1))
def test_any_mixture_of_forms_keeps_its_order(images: list[tuple[int, str]]) -> None:
    assert numbers_in(JSON, body_of(*(in_form(*image) for image in images))) == [
        number for number, _ in images
    ]


@given(st.lists(st.integers(0, 15), min_size=1))
def test_packed_and_json_say_the_same(numbers: list[int]) -> None:
    images = wire.pack(numbers)
    packed_type = f"{OCTETS};padding=4" if len(numbers) % 2 else OCTETS
    assert flip_decode.decode(packed_type, images.packed) == images
    assert flip_decode.decode(JSON, bytearray(body_of(*numbers))) == images


@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        "Application/JSON",
        f"{JSON};charset=utf-8",
        f'{JSON}; charset="UTF-8"',
        f"{JSON}; charset=utf8",
        f"{JSON}; charset=US-ASCII",
        f"{JSON}; unknown=parameter",
    ],
)
def test_json_in_utf8_is_read_however_it_is_announced(content_type: str) -> None:
    assert numbers_in(content_type, b' {"images" : [11, 6]}\n') == [11, 6]


@pytest.mark.parametrize(
    ("content_type", "numbers"),
    [
        (OCTETS, [11, 0]),
        ("APPLICATION/OCTET-STREAM", [11, 0]),
        (f"{OCTETS};padding=0", [11, 0]),
        (f"{OCTETS}; padding=4", [11]),
        (f'{OCTETS}; Padding="4"', [11]),
    ],
)
def test_padding_says_whether_the_last_nibble_is_an_image(
    content_type: str, numbers: list[int]
) -> None:
    assert numbers_in(content_type, b"\xb0") == numbers


@pytest.mark.parametrize("padding", ["", "x", "-4", "4.0", "²", "3", "8", "4" * 5000, "0x4"])
def test_other_padding_is_refused(padding: str) -> None:
    with pytest.raises(InvalidPadding, match="padding=4"):
        flip_decode.decode(f"{OCTETS};padding={padding}", b"\xb0")


@pytest.mark.parametrize("content_type", [JSON, OCTETS, f"{OCTETS};padding=4"])
@pytest.mark.parametrize("body", [b"", bytearray()])
def test_an_empty_body_is_an_empty_payload(content_type: str, body: bytes) -> None:
    with pytest.raises(EmptyPayload, match="0 bytes"):
        flip_decode.decode(content_type, body)


def test_an_empty_list_is_an_empty_payload() -> None:
    with pytest.raises(EmptyPayload, match="0 images"):
        flip_decode.decode(JSON, body_of())


@pytest.mark.parametrize(
    "image",
    [
        # Numbers.
        16, -1, 2**31, 2**63, -(2**63), 2**64 - 1, 10**30, 1.0, 0.5, True, False, None,
        # Strings.
        "", "1", "101", "10110", "1012", "abcd", "10 1", " 1011", "-101", "٠٠٠١", "é011", "/011",
        # Lists: length, depth, kinds, values.
        [], [1], [1, 0, 1], [1, 0, 1, 1, 0], [1, 0, 1, 2], [1, 0, 1, -1], [1, 0, 1, 2**63],
        [1, 0, 1, 1.0], [1, 0, 1, True], [1, 0, 1, None], [1, 0, 1, "1"], ["1", "0", "1", "1"],
        [[1, 0]], [[1, 0], [1]], [[1, 0], 1], [1, 0], [[1, 0], [1, 2]], [[1, 0], [1, True]],
        [[], []], [[1, 0], [1, 1], [0, 0]], [[1, 0, 1, 1]], [[1], [0], [1], [1]],
        [[[1, 0], [1, 1]], [[1, 0], [1, 1]]], [[1, 0], [1, 2**64 - 1]], [[[1], [0]], [[1], [1]]],
        # Objects.
        {}, {"image": 11},
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("index", [0, 1, 5])
def test_a_malformed_image_is_named_by_index_and_value(image: Any, index: int) -> None:
    good: list[Any] = [11, "0110", [1, 0, 1, 1], [[1, 0], [1, 1]], 3]
    images = [*good[:index], image, *good[index:], image]
    with pytest.raises(InvalidImage) as caught:
        flip_decode.decode(JSON, body_of(*images))
    assert caught.value.got.startswith(f"image {index}: ")
    assert "0-15" in caught.value.expected


def test_the_malformed_value_is_quoted_but_not_at_length() -> None:
    with pytest.raises(InvalidImage) as caught:
        flip_decode.decode(JSON, body_of("1012"))
    assert caught.value.got == 'image 0: "1012"'
    with pytest.raises(InvalidImage) as caught:
        flip_decode.decode(JSON, body_of("é" * 100_000))
    assert len(caught.value.got) < 100


@pytest.mark.parametrize("last", [b"16", b"[1,0,1]", b"null"])
def test_a_malformed_image_is_found_about_as_fast_as_good_ones_are_read(last: bytes) -> None:
    index = wire.MAX_TEXT_IMAGES - 1
    started = time.process_time()
    with pytest.raises(InvalidImage, match=f"Image {index}: "):
        flip_decode.decode(JSON, b'{"images":[' + b"7," * index + last + b"]}")
    assert time.process_time() - started < 2


@pytest.mark.parametrize("body", [b"null", b"true", b"11"])
def test_a_document_is_quoted_as_it_came(body: bytes) -> None:
    with pytest.raises(InvalidJson, match=rf"^The document {body.decode()}\."):
        flip_decode.decode(JSON, body)


@pytest.mark.parametrize("depth", [3, 200, 300, 1000])
@pytest.mark.parametrize("opening", [b"%b", b'{"images":%b}', b'{"images":[11,%b]}'])
def test_deep_nesting_is_refused_at_any_depth(opening: bytes, depth: int) -> None:
    with pytest.raises(InvalidPayload):
        flip_decode.decode(JSON, opening % (b"[" * depth + b"]" * depth))


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
        b'{"images": "1011"}', b'{"images": {"0": 11}}',
    ],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
def test_what_is_not_the_documented_json_is_invalid_json(body: bytes) -> None:
    with pytest.raises(InvalidJson) as caught:
        flip_decode.decode(JSON, body)
    assert caught.value.got
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("charset", ["utf-16", "latin-1", "", "rubbish"])
def test_other_charsets_are_unsupported(charset: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="Charset"):
        flip_decode.decode(f"{JSON};charset={charset}", b'{"images":[11]}')


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "application/x-www-form-urlencoded", "application/*", "json", ";padding=4"],
)
def test_other_media_types_are_unsupported(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        flip_decode.decode(content_type, b"\xb0")
    assert JSON in caught.value.expected
    assert OCTETS in caught.value.expected


def test_a_missing_content_type_is_said_to_be_missing() -> None:
    with pytest.raises(UnsupportedMediaType, match="No Content-Type"):
        flip_decode.decode("", b"\xb0")


def test_the_largest_request_is_the_same_in_json() -> None:
    most = b'{"images":[' + b"7," * (wire.MAX_TEXT_IMAGES - 1) + b"%b]}"
    assert flip_decode.decode(JSON, most % b"7").count == wire.MAX_TEXT_IMAGES
    with pytest.raises(TooManyImages, match=str(wire.MAX_TEXT_IMAGES + 1)):
        flip_decode.decode(JSON, most % b"7,7")


HEADERS = st.text(max_size=40) | st.sampled_from([JSON, OCTETS, f"{OCTETS};padding=4"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def accept_or_refuse(content_type: str, body: bytes) -> None:
    try:
        assert flip_decode.decode(content_type, body).count >= 1
    except DiagonalFlipError as error:
        assert error.status in (400, 413, 415)
        json.dumps(error.problem())


@given(HEADERS, st.binary(max_size=60))
def test_any_bytes_are_images_or_refused(content_type: str, body: bytes) -> None:
    accept_or_refuse(content_type, body)


@given(VALUES)
def test_any_json_is_images_or_refused(value: Any) -> None:
    accept_or_refuse(JSON, json.dumps(value).encode())


@given(st.lists(VALUES | st.integers(0, 15), max_size=8))
def test_any_json_list_is_images_or_refused(images: list[Any]) -> None:
    accept_or_refuse(JSON, body_of(*images))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", b'{"images": [11, 6]}'), ("text/plain", b"b6"), ("text/plain", b"b6\n")],
)
def test_a_byte_order_mark_is_no_part_of_a_text(content_type: str, body: bytes) -> None:
    images = flip_decode.decode(content_type, b"\xef\xbb\xbf" + body)
    assert wire.unpack(images).tolist() == [11, 6]


@pytest.mark.parametrize("value", [b"[]", b"{}", b"[[1,1],[1,1]]", b"11"])
def test_json_of_too_many_values_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, value: bytes
) -> None:
    """Parsed, 64 MiB of empty lists are more than a gigabyte."""
    monkeypatch.setattr(orjson, "loads", None)
    body = b'{"images": [' + b",".join([value] * (4 * wire.MAX_TEXT_IMAGES + 2000)) + b"]}"
    with pytest.raises(TooManyImages):
        flip_decode.decode("application/json", body)


def test_the_largest_request_in_its_longest_form_is_not_too_many() -> None:
    body = b'{"images": [' + b",".join([b"[[1,0],[1,1]]"] * wire.MAX_TEXT_IMAGES) + b"]}"
    assert flip_decode.decode("application/json", body).count == wire.MAX_TEXT_IMAGES

"""The wire format packs every image and every count, and rejects what it cannot mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diagonalflip
from diagonalflip import client, errors, predictor, wire
from diagonalflip.client import aio
from diagonalflip.errors import (
    DiagonalFlipError,
    EmptyPayload,
    InvalidImage,
    InvalidPadding,
    TooManyImages,
)

NUMBERS = st.lists(st.integers(0, 15), min_size=1, max_size=300)


@pytest.mark.parametrize("number", range(16))
def test_first_pixel_is_the_highest_bit(number: int) -> None:
    pixels = wire.to_pixels([number])
    assert pixels.shape == (1, 2, 2)
    assert pixels.dtype == np.uint8
    assert "".join(map(str, pixels.reshape(-1))) == f"{number:04b}"


@pytest.mark.parametrize("first", range(16))
@pytest.mark.parametrize("second", range(16))
def test_two_images_share_a_byte_the_first_one_high(first: int, second: int) -> None:
    images = wire.pack([first, second])
    assert images == wire.Images(bytes([first << 4 | second]), 2)
    assert wire.unpack(images).tolist() == [first, second]


@pytest.mark.parametrize(
    ("numbers", "packed"),
    [
        ([11, 6, 9], b"\xb6\x90"),
        ([1, 2, 3, 4], b"\x12\x34"),
        (list(range(16)), bytes.fromhex("0123456789abcdef")),
        ([15] * 7, b"\xff\xff\xff\xf0"),
        *(([number], bytes([number << 4])) for number in range(16)),
    ],
)
def test_odd_and_even_counts_pack_as_documented(numbers: list[int], packed: bytes) -> None:
    images = wire.pack(numbers)
    assert images == wire.Images(packed, len(numbers))
    assert wire.unpack(images).tolist() == numbers


@given(NUMBERS)
def test_unpack_undoes_pack(numbers: list[int]) -> None:
    images = wire.pack(numbers)
    assert len(images.packed) == (len(numbers) + 1) // 2
    assert wire.unpack(images).tolist() == numbers


@given(NUMBERS)
def test_what_pack_makes_the_server_accepts(numbers: list[int]) -> None:
    images = wire.pack(numbers)
    assert wire.from_packed(images.packed, 4 * (len(numbers) % 2)) == images


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_an_even_number_of_images(body: bytes) -> None:
    images = wire.from_packed(body)
    assert images.count == 2 * len(body)
    assert wire.pack(wire.unpack(images)).packed == body


@given(st.binary(max_size=20), st.integers(-20, 20))
def test_from_packed_raises_nothing_but_its_own_errors(body: bytes, padding_bits: int) -> None:
    try:
        images = wire.from_packed(body, padding_bits)
    except DiagonalFlipError as error:
        assert error.got
        assert error.expected
    else:
        assert images.count == 2 * len(body) - (padding_bits == 4)


def test_a_bytearray_is_not_copied() -> None:
    body = bytearray(b"\xb6")
    assert wire.from_packed(body).packed is body


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_pack_takes_every_integer_type(dtype: type[np.integer]) -> None:
    assert wire.pack(np.array([11, 6, 9], dtype=dtype)).packed == b"\xb6\x90"


@pytest.mark.parametrize(
    ("length", "padding_bits", "count"),
    [
        (wire.MAX_IMAGES // 2, 0, wire.MAX_IMAGES),
        (wire.MAX_IMAGES // 2, 4, wire.MAX_IMAGES - 1),
    ],
)
def test_the_largest_request_is_accepted(length: int, padding_bits: int, count: int) -> None:
    assert wire.from_packed(bytes(length), padding_bits).count == count


@pytest.mark.parametrize(("padding_bits", "count"), [(0, 2), (4, 1)])
def test_one_byte_more_is_too_many(padding_bits: int, count: int) -> None:
    with pytest.raises(TooManyImages) as caught:
        wire.from_packed(bytes(wire.MAX_IMAGES // 2 + 1), padding_bits)
    assert str(wire.MAX_IMAGES + count) in caught.value.got
    assert str(wire.MAX_IMAGES) in caught.value.expected


@pytest.mark.parametrize("padding_bits", [0, 4, 3])
@pytest.mark.parametrize("body", [b"", bytearray()])
def test_no_bytes_are_no_images(body: bytes | bytearray, padding_bits: int) -> None:
    with pytest.raises(EmptyPayload) as caught:
        wire.from_packed(body, padding_bits)
    assert caught.value.got == "a body of 0 bytes"
    assert "at least one image" in caught.value.expected


@pytest.mark.parametrize("padding_bits", [-4, 1, 2, 3, 5, 8, 12])
def test_padding_is_0_or_4_bits(padding_bits: int) -> None:
    with pytest.raises(InvalidPadding) as caught:
        wire.from_packed(b"\x00", padding_bits)
    assert caught.value.got == f"padding={padding_bits}"
    assert "padding=4" in caught.value.expected


@pytest.mark.parametrize("low", range(1, 16))
def test_padding_bits_are_zero(low: int) -> None:
    with pytest.raises(InvalidPadding) as caught:
        wire.from_packed(bytes([0x00, 0xA0 | low]), 4)
    assert f"0xa{low:x}" in caught.value.got
    assert "0" in caught.value.expected


@pytest.mark.parametrize(
    ("numbers", "got"),
    [
        ([16], "number 16 at index 0"),
        ([0, 15, -1], "number -1 at index 2"),
        ([0, 99, 77], "number 99 at index 1"),
        ([[1, 2]], "int64[1, 2]"),
        (3, "int64[]"),
        ([1.0], "float64[1]"),
        ([True], "bool[1]"),
        (["1"], "<U1[1]"),
        ([2**70], "object[1]"),
    ],
)
def test_what_is_no_image_number_is_named(numbers: object, got: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        wire.pack(numbers)  # type: ignore[arg-type]
    assert caught.value.got == got
    assert caught.value.expected


def test_nothing_cannot_be_packed() -> None:
    with pytest.raises(EmptyPayload):
        wire.pack([])


@pytest.mark.parametrize("name", diagonalflip.__all__)
def test_public_names_are_those_of_their_modules(name: str) -> None:
    homes = [wire, errors, client, aio, predictor]
    (owner,) = {id(getattr(home, name)) for home in homes if hasattr(home, name)}
    assert id(getattr(diagonalflip, name)) == owner


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = diagonalflip.nonsense

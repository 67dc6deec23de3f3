"""The wire format packs every image and every count, and rejects what it cannot mean."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
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

EVERY_PAIR = [*itertools.chain.from_iterable(itertools.product(range(16), repeat=2))]
DTYPES = [np.uint8, np.int8, np.int32, np.int64, np.uint64]


@given(st.lists(st.integers(0, 15), min_size=1, max_size=300), st.sampled_from(DTYPES))
@example(EVERY_PAIR, np.uint8)
@example([11, 6, 9], np.int64)
def test_images_are_bits_first_pixel_first(numbers: list[int], dtype: type[np.integer]) -> None:
    bits = "".join(f"{number:04b}" for number in numbers)
    packed = int(bits + "0000" * (len(numbers) % 2), 2).to_bytes((len(numbers) + 1) // 2)
    images = wire.Images(packed, len(numbers))
    assert wire.pack(np.array(numbers, dtype)) == wire.pack(numbers) == images
    assert wire.unpack(images).tolist() == numbers
    assert wire.from_packed(packed, 4 * (len(numbers) % 2)) == images
    pixels = wire.to_pixels(numbers)
    assert pixels.shape == (len(numbers), 2, 2)
    assert pixels.dtype == np.uint8
    assert "".join(map(str, pixels.reshape(-1))) == bits


@given(
    st.binary(max_size=20) | st.binary(max_size=20).map(bytearray),
    st.integers(-20, 20) | st.sampled_from([0, 4]),
)
@example(b"", 3)
@example(b"\x00\xa1", 4)
def test_packed_bytes_are_kept_or_rejected(body: bytes | bytearray, padding_bits: int) -> None:
    try:
        images = wire.from_packed(body, padding_bits)
    except EmptyPayload as error:
        assert (error.got, error.expected) == ("a body of 0 bytes", "at least one image")
        assert not body
    except InvalidPadding as error:
        if padding_bits == 4:
            assert body[-1] & 15
            assert f"0x{body[-1]:02x}" in error.got
            assert "to be 0" in error.expected
        else:
            assert error.got == f"padding={padding_bits}" != "padding=0"
            assert "padding=4" in error.expected
    else:
        assert images.packed is body
        assert images.count == 2 * len(body) - (padding_bits == 4)
        assert wire.pack(wire.unpack(images)).packed == body


@pytest.mark.parametrize("padding_bits", [0, 4])
def test_one_byte_more_than_the_largest_request_is_too_many(padding_bits: int) -> None:
    most = wire.MAX_IMAGES - (padding_bits == 4)
    body = bytes(wire.MAX_IMAGES // 2)
    assert wire.from_packed(body, padding_bits).count == most
    with pytest.raises(TooManyImages) as caught:
        wire.from_packed(body + b"\0", padding_bits)
    assert str(most + 2) in caught.value.got
    assert str(wire.MAX_IMAGES) in caught.value.expected


@pytest.mark.parametrize(
    ("numbers", "error", "got"),
    [
        ([], EmptyPayload, "0 images"),
        ([16], InvalidImage, "number 16 at index 0"),
        ([0, 15, -1], InvalidImage, "number -1 at index 2"),
        ([0, 99, 77], InvalidImage, "number 99 at index 1"),
        ([[1, 2]], InvalidImage, "int64[1, 2]"),
        (3, InvalidImage, "int64[]"),
        ([1.0], InvalidImage, "float64[1]"),
        ([True], InvalidImage, "bool[1]"),
        (["1"], InvalidImage, "<U1[1]"),
        ([2**70], InvalidImage, "object[1]"),
    ],
)
def test_a_wrong_number_is_named(numbers: object, error: type[DiagonalFlipError], got: str) -> None:
    with pytest.raises(error) as caught:
        wire.pack(numbers)  # type: ignore[arg-type]
    assert caught.value.got == got
    assert caught.value.expected


def test_public_names_are_those_of_their_modules_and_others_are_attribute_errors() -> None:
    homes = [wire, errors, client, aio, predictor]
    for name in diagonalflip.__all__:
        (owner,) = {id(getattr(home, name)) for home in homes if hasattr(home, name)}
        assert id(getattr(diagonalflip, name)) == owner
    with pytest.raises(AttributeError, match="nonsense"):
        _ = diagonalflip.nonsense

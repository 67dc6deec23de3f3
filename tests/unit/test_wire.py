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
from diagonalflip.errors import DiagonalFlipError, EmptyPayload, InvalidImage

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


@pytest.mark.parametrize(
    ("numbers", "error", "got"),
    [
        ([], EmptyPayload, "0 images"),
        ([0, 15, -1], InvalidImage, "number -1 at index 2"),
        ([0, 16, 77], InvalidImage, "number 16 at index 1"),
        *(([[1, 2]], InvalidImage, "int64[1, 2]"), (3, InvalidImage, "int64[]")),
        *(([1.0], InvalidImage, "float64[1]"), ([True], InvalidImage, "bool[1]")),
        *((["1"], InvalidImage, "<U1[1]"), ([2**70], InvalidImage, "object[1]")),
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

"""Forms of images that a caller may pass, and how they are cut into requests."""

from __future__ import annotations

import array
import itertools
import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagonalflip.client._chunks import ChunkLimit, chunks
from diagonalflip.client._images import Packed, packed_images, to_images
from diagonalflip.errors import DiagonalFlipError, EmptyPayload, InvalidImage, InvalidPadding
from diagonalflip.wire import Images, pack, to_pixels, unpack

NUMBERS = st.lists(st.integers(0, 15), min_size=1, max_size=50)
PIXELS = to_pixels(range(16))


def nested(number: int) -> Any:
    return PIXELS[number].tolist()


FORMS: dict[str, Any] = {
    "number": int,
    "numpy number": np.uint8,
    "bit string": lambda number: f"{number:04b}",
    "flat pixels": lambda number: PIXELS[number].reshape(4).tolist(),
    "nested list": nested,
    "nested tuple": lambda number: tuple(map(tuple, nested(number))),
    "array": lambda number: PIXELS[number],
    "flat array": lambda number: PIXELS[number].reshape(4),
    "bool array": lambda number: PIXELS[number].astype(bool),
}
WHOLE: dict[str, Any] = {
    "tuple": tuple,
    "generator": iter,
    "int64[n]": np.array,
    "uint8[n]": lambda numbers: np.array(numbers, dtype=np.uint8),
    "uint8[n, 2, 2]": to_pixels,
    "bool[n, 2, 2]": lambda numbers: to_pixels(numbers).astype(bool),
    "float-free[n, 4]": lambda numbers: to_pixels(numbers).reshape(-1, 4).astype(np.int32),
    "not contiguous": lambda numbers: np.repeat(numbers, 2)[::2],
    "strings[n]": lambda numbers: np.array([f"{number:04b}" for number in numbers]),
    "Images": pack,
}


@pytest.mark.parametrize("form", [*FORMS, *WHOLE])
@given(numbers=NUMBERS)
def test_every_form(form: str, numbers: list[int]) -> None:
    write = WHOLE.get(form, lambda numbers: [FORMS[form](number) for number in numbers])
    assert unpack(to_images(write(numbers))).tolist() == numbers


@given(mixed=st.lists(st.tuples(st.integers(0, 15), st.sampled_from(list(FORMS))), min_size=1))
def test_lists_of_mixed_forms(mixed: list[tuple[int, str]]) -> None:
    got = to_images([FORMS[form](number) for number, form in mixed])
    assert unpack(got).tolist() == [number for number, _ in mixed]


@pytest.mark.parametrize("where", [0, 7, 19])
def test_the_first_bad_image_is_named(where: int) -> None:
    for good, bad in ((3, 16), (3, 10**5000), ("0011", "0012"), (nested(3), [[1, 0], [1, 7]])):
        images = [good] * where + [bad] + [good] * (20 - where)
        with pytest.raises(InvalidImage, match=rf"\b{where}\b"):
            to_images(images)


@pytest.mark.parametrize(
    ("packed", "count", "error"),
    [
        *((b"\xb6", 3, InvalidPadding), (b"\xb6\xc0", 2, InvalidPadding)),
        *((b"\xb6\xc1", 3, InvalidPadding), (b"\xb6", -1, InvalidPadding)),
        *((b"\xb6", 0, EmptyPayload), (b"", None, EmptyPayload)),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 2])
def test_counts_that_do_not_fit(
    packed: bytes, count: int | None, error: type[DiagonalFlipError], piece_bytes: int
) -> None:
    with pytest.raises(error):
        packed_images(packed, count)
    if count is not None:
        with pytest.raises(error):
            to_images(Images(packed, count))
    pieces = [packed[i : i + piece_bytes] for i in range(0, len(packed), piece_bytes)]
    with pytest.raises(error):
        list(chunks(iter(pieces), ChunkLimit(100), count))


def test_too_many_bytes_are_noticed_before_the_end() -> None:
    with pytest.raises(InvalidPadding):
        list(chunks(itertools.repeat(bytes(10)), ChunkLimit(4), 100))


@given(
    pieces=st.lists(st.binary(max_size=40), min_size=1),
    limit=st.integers(1, 30),
    falls_to=st.integers(1, 30),
    odd=st.booleans(),
)
def test_chunks_hold_all_images(pieces: list[bytes], limit: int, falls_to: int, odd: bool) -> None:
    packed = bytearray(b"".join(pieces) + b"\x17")
    count = 2 * len(packed) - odd
    packed[-1] &= 0xF0 if odd else 0xFF
    shrinking, lowest = ChunkLimit(limit), limit
    got: list[npt.NDArray[np.uint8]] = []
    total: list[Packed] = [*pieces, b"", memoryview(packed)[-1:]]
    for chunk in chunks(iter(total), shrinking, count):
        assert chunk.count <= max(2, limit) or got
        assert chunk.count == 2 * len(chunk.packed) or odd
        got.append(unpack(chunk))
        shrinking.lower(falls_to)
        lowest = min(lowest, falls_to)
        shrinking.lower(limit + falls_to)  # as the larger one of two servers may tell late
        assert shrinking.images == lowest
    assert np.array_equal(np.concatenate(got), unpack(Images(bytes(packed), count)))
    assert all(len(part) % 2 == 0 for part in got[:-1])


class Table:
    """Behaves like a pandas DataFrame: iterating gives the names of its columns."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __iter__(self) -> Any:
        return iter(range(self._values.shape[-1]))

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
        return self._values


class Tensor(Table):
    """Behaves like a PyTorch tensor that requires a gradient, on a GPU."""

    def detach(self) -> Any:
        return SimpleNamespace(cpu=lambda: Table(self._values))

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
        raise TypeError("call detach and cpu first")


class Capsule:
    """Knows DLPack alone."""

    def __init__(self, values: Any) -> None:
        values = np.asarray(values)
        self.__dlpack__, self.__dlpack_device__ = values.__dlpack__, values.__dlpack_device__


class Unreadable:
    """Behaves like an array that its library does not give away."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
        raise RuntimeError("of another device")


def of_a_file(packed: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(packed))
    memory[:] = packed
    return memory


VIEW: Any = memoryview  # of arrays, too
ELEVEN, SIX = [[1, 0], [1, 1]], [[0, 1], [1, 0]]
BOTH = np.array([ELEVEN, SIX])
READ = [
    *(kind(b"\xb6") for kind in (bytes, bytearray, memoryview, of_a_file)),
    VIEW(b"\xb6\x00")[::2],
    # Other buffers are arrays.
    *(VIEW(each) for each in (BOTH, BOTH.astype(bool), np.array([11, 6], np.uint16))),
    *(VIEW(BOTH[::-1])[::-1], array.array("q", [11, 6]), array.array("B", [11, 6])),
    *(np.ma.array([11, 6]), np.ma.array(BOTH, mask=False)),
    *(
        kind(values)
        for kind in (Table, Tensor, Capsule)
        for values in ([11, 6], BOTH, BOTH.reshape(-1, 4))
    ),
    *([Table(ELEVEN), Tensor(SIX)], [11, Tensor(SIX)]),
    # Integers of mixed types.
    Table(np.array([[1, 0, np.int8(1), True], [0, 1, 1, 0]], dtype=object)),
    *(Table(np.array(each, dtype=object)) for each in ([ELEVEN, SIX], [11, np.int64(6)])),
]


@pytest.mark.parametrize("images", READ)
def test_a_buffer_of_plain_bytes_is_packed_and_any_other_an_array(images: Any) -> None:
    assert unpack(to_images(images)).tolist() == [11, 6]


@pytest.mark.parametrize(
    ("library", "kind", "values"),
    [
        *(("torch", "tensor", [11, 6]), ("torch", "tensor", BOTH), ("pyarrow", "array", [11, 6])),
        *(("pandas", "Series", [11, 6]), ("pandas", "DataFrame", BOTH.reshape(-1, 4))),
        *(("polars", "Series", [11, 6]), ("ml_dtypes", "uint4", [11, 6])),
        ("ml_dtypes", "int4", BOTH),
    ],
)
def test_the_libraries_themselves(library: str, kind: str, values: Any) -> None:
    made = getattr(pytest.importorskip(library), kind)
    images = np.array(values, made) if library == "ml_dtypes" else made(values)
    assert unpack(to_images(images)).tolist() == [11, 6]


@pytest.mark.parametrize(
    "packed",
    [
        *(PIXELS, np.array([11, 6]), VIEW(np.array([182])), array.array("q", [182])),
        *("b6", 182, [182], None, np.array([182.0]), np.zeros((1, 1), np.uint8)),
    ],
)
def test_only_bytes_are_packed_images(packed: Any) -> None:
    with pytest.raises(InvalidImage):
        packed_images(packed)
    with pytest.raises(InvalidImage):
        list(chunks(iter([packed]), ChunkLimit(4)))


def test_an_open_file_is_rejected_and_stays_usable(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"\xb6")
    with (tmp_path / "images").open("rb") as file:
        with pytest.raises(InvalidImage, match="predict_file"):
            to_images(file)
        assert file.read() == b"\xb6"


EMPTY: list[Any] = [[], (), b"", np.array([], int), np.zeros((0, 2, 2), int)]


@pytest.mark.parametrize(
    ("images", "error"),
    [
        *((each, EmptyPayload) for each in EMPTY),
        *((each, InvalidImage) for each in ("1011", 11, None, 1.5)),
        *(([each], InvalidImage) for each in (16, -1, 1 << 70, True, 1.0, None, b"\x01")),
        ([{}], InvalidImage),
        *(([each], InvalidImage) for each in ("101", "10 1", "2011", [1, 0], [[1, 0], [1, 2]])),
        *((each, InvalidImage) for each in (ELEVEN, [[[1, 0], [1]]], [3, [[1, 0], [1, 0.5]]])),
        *((each, InvalidImage) for each in ([3, True], ["1011", 16], {11: 1, "x": 2})),
        *((np.zeros(shape), InvalidImage) for shape in (3, (2, 2, 2))),
        *((np.zeros((2, 3), int), InvalidImage), (np.full((1, 2, 2), 2), InvalidImage)),
        *((np.array(each), InvalidImage) for each in (3, [16], ["1"], [None])),
        # What could mean something else.
        *((each, InvalidImage) for each in (Unreadable(), [Unreadable()], [3, Unreadable()])),
        *(
            (Table(each), InvalidImage)
            for each in ([[0, 1, 2, 3]], [[1.0, 0.0, 1.0, 1.0]], SIX, 11)
        ),
        (Table(np.array([[1, 0, 1, "x"]], dtype=object)), InvalidImage),
        *((each, InvalidImage) for each in ({0: 1, 1: 2}, {1, 2}, frozenset([1]))),
        ({"images": [11]}.keys(), InvalidImage),
        # What is masked.
        (np.ma.array([11, 6], mask=[False, True]), InvalidImage),
        (np.ma.array(PIXELS, mask=PIXELS == 1), InvalidImage),
        ([np.ma.array(PIXELS[11]), np.ma.array(PIXELS[6], mask=PIXELS[6] == 1)], InvalidImage),
        ([np.ma.array([1, 0, 1, 1], mask=[False, False, False, True]), 6], InvalidImage),
        ([11, np.ma.masked], InvalidImage),
    ],
)
def test_what_is_no_image(images: Any, error: type[DiagonalFlipError]) -> None:
    with pytest.raises(error):
        to_images(images)

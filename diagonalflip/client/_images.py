"""Read images in all forms that callers may pass."""

from __future__ import annotations

import io
import mmap
import operator
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip.errors import EmptyPayload, InvalidImage, InvalidPadding
from diagonalflip.wire import NIBBLE_BITS, PIXELS, Images, pack, pack_pixels, unpack

Packed = bytes | bytearray | memoryview
"""Two images per byte, high nibble first."""

Image = int | str | Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[Any]
"""A number 0-15, a bit string ``"1011"``, ``[1, 0, 1, 1]`` or ``[[1, 0], [1, 1]]``."""

ImagesLike = Images | Packed | npt.NDArray[Any] | Iterable[Image]
"""Everything that ``Client.predict`` accepts."""

_FORMS = 'a number 0 to 15, a bit string such as "1011", or 2x2 pixels of 0 or 1'
_BIT_STRINGS = {f"{number:04b}": number for number in range(16)}
_ALONE = [Images(bytes([number << NIBBLE_BITS]), 1) for number in range(16)]
"""Each image packed, for small requests: NumPy would take 10 us."""

_SHAPES = ((PIXELS,), (2, 2))


def to_images(images: ImagesLike) -> Images:
    """Pack images in any form that ``Operations.predict`` lists, with arrays of any library.

    Pixels may also be a table of four columns. A buffer of plain bytes is packed images; any other
    buffer is an array.

    Raises:
        EmptyPayload: There is no image.
        InvalidImage: An image is malformed; the first one is named.
        InvalidPadding: The count of an ``Images`` does not fit its bytes.
    """
    if isinstance(images, Images):
        return packed_images(images.packed, images.count)
    if type(images) is list and len(images) == 1 and type(images[0]) is int:
        if not 0 <= images[0] <= 15:
            raise InvalidImage(f"{repr(images[0])[:60]} at index 0", _FORMS)
        return _ALONE[images[0]]
    if isinstance(images, bytes | bytearray | memoryview | mmap.mmap):
        view = memoryview(images)
        if _is_bytes(view):
            return packed_images(view)
        images = np.asarray(view)
    if isinstance(images, io.IOBase):
        raise InvalidImage("an open file", "several images", "read it, or call predict_file")
    array = _as_array(images)
    if array is not None:
        return _from_array(array)
    # The meaning of a mapping or set would be a guess.
    if not isinstance(images, Iterable) or isinstance(images, str | Mapping | AbstractSet):
        got = f"an object of type {type(images).__name__}"
        if isinstance(images, str):
            got = f"the string {images[:20]!r}"
        raise InvalidImage(got, "several images", "put a single image into a list")
    return _from_items(list(images))


def _as_array(images: Any) -> npt.NDArray[Any] | None:
    """Return an array or table of NumPy, pandas, PyTorch, Arrow, JAX and the like; else None.

    (Iterating over a table would yield the names of its columns.)

    Raises:
        InvalidImage: Parts of it are masked, or its library cannot convert it for NumPy.
    """
    _reject_masked(images)
    try:
        if hasattr(images, "__array__") or hasattr(images, "__array_interface__"):
            if callable(getattr(images, "detach", None)):
                images = images.detach().cpu()  # a tensor may need a gradient, or be on a GPU
            return np.asarray(images)
        return np.from_dlpack(images) if hasattr(images, "__dlpack__") else None
    except Exception as error:
        got = f"an object of type {type(images).__name__} that is no array: {error}"
        raise InvalidImage(got, "what NumPy reads, with integers in it") from error


def _reject_masked(images: Any, where: str = "") -> None:
    """Raise InvalidImage for a masked array: NumPy would read the masked values."""
    if isinstance(images, np.ma.MaskedArray) and np.ma.is_masked(images):
        raise InvalidImage(f"masked pixels{where}", "images without a mask", "fill or drop them")


def _is_bytes(view: memoryview) -> bool:
    """Return whether a buffer is plain bytes, and not an array."""
    return view.ndim == 1 and view.format in ("B", "b", "c")


def packed_images(packed: Packed, count: int | None = None) -> Images:
    """Check packed bytes against the number of images in them.

    Args:
        packed: ``uint8[ceil(count / 2)]``; an unused last nibble is 0.
        count: Images; None means two per byte.

    Raises:
        EmptyPayload: ``packed`` has no bytes.
        InvalidImage: ``packed`` is not a buffer of bytes.
        InvalidPadding: ``count`` does not fit the number of bytes, or the padding is not 0.
    """
    body = packed if isinstance(packed, bytes | bytearray) else packed_bytes(packed).tobytes()
    return Images(body, checked_count(len(body), body[-1:], count))


def packed_bytes(packed: Packed) -> memoryview:
    """Return packed images as bytes.

    Raises:
        InvalidImage: It is not a buffer of plain bytes; other arrays are not packed images.
    """
    try:
        view = memoryview(packed)
    except TypeError:
        got = f"an object of type {type(packed).__name__}"
    else:
        if _is_bytes(view):
            return view if view.contiguous else memoryview(view.tobytes())
        got = f"a buffer of shape {list(view.shape or ())} and format {view.format!r}"
    raise InvalidImage(got, "packed images, uint8[n]", "call predict with it")


def checked_count(length_bytes: int, last: bytes | bytearray, count: int | None) -> int:
    """Return the number of images in ``length_bytes`` packed bytes that end in ``last``.

    Raises:
        EmptyPayload: There are no bytes.
        InvalidPadding: As ``packed_images``.
    """
    if count == 0 or not length_bytes:
        raise EmptyPayload(f"{length_bytes} bytes of images", "at least one image")
    if count is None:
        return 2 * length_bytes
    if not 0 <= 2 * length_bytes - count <= 1:
        raise InvalidPadding(
            f"{length_bytes} bytes for {count} images",
            f"{(count + 1) // 2} bytes",
            "pack two images per byte, and count the images",
        )
    if count % 2 and last[0] & ((1 << NIBBLE_BITS) - 1):
        raise InvalidPadding(
            f"a last byte of 0x{last[0]:02x} after an odd number of images",
            "its low nibble to be 0",
            "put the last image into the high nibble and clear the low one",
        )
    return count


def _from_array(array: npt.NDArray[Any]) -> Images:
    array = _integers(array)
    if array.ndim == 1 and array.dtype.kind not in "biuf":
        return _from_items(array.tolist())
    if array.ndim < 2:
        return pack(array)
    return _from_pixels(array)


def _integers(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array with a NumPy integer type: of a mixed table, or of JAX's ``int4``."""
    if array.dtype.kind == "V" and array.dtype.name in ("int2", "int4", "uint2", "uint4"):
        return array.astype(np.int8)
    if array.dtype.kind == "O" and array.ndim > 1:
        try:
            found = np.array(array.tolist())
        except (ValueError, TypeError):
            return array
        if found.shape == array.shape and found.dtype.kind in "biu":
            return found
    return array


def _from_pixels(array: npt.NDArray[Any]) -> Images:
    if array.dtype.kind not in "biu" or array.shape[1:] not in _SHAPES:
        raise InvalidImage(
            f"{array.dtype}{list(array.shape)}",
            "integers of shape [n], or pixels uint8[n, 2, 2]",
            "put a single image into a list",
        )
    wrong = np.argwhere((array != 0) & (array != 1))
    if wrong.size:
        value = array[tuple(wrong[0])]
        raise InvalidImage(f"pixel {value} in image {wrong[0][0]}", "pixels 0 or 1")
    return pack_pixels(array.reshape(-1, PIXELS))


def _from_items(items: list[Any]) -> Images:
    """Pack a list: at once by NumPy if all items have the same form, else one by one."""
    kinds = set(map(type, items))
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        for index, item in enumerate(items):
            _reject_masked(item, f" in image {index}")
    if str not in kinds:
        array: npt.NDArray[Any] = np.empty(0)
        with suppress(Exception):  # images of several forms, or what their library does not give
            array = np.array(items)
        if kinds <= {int} and array.dtype.kind == "i":
            return pack(array)
        if array.dtype.kind in "biu" and array.shape[1:] in _SHAPES:
            return _from_pixels(array)
    return pack(np.fromiter((_number(*item) for item in enumerate(items)), np.int64, len(items)))


def _number(index: int, item: Any) -> int:
    number = -1
    if isinstance(item, str):
        number = _BIT_STRINGS.get(item, -1)
    elif not isinstance(item, bool):
        try:
            number = operator.index(item)
        except TypeError:
            with suppress(Exception):  # rows of different lengths, no pixels, no array
                array = _as_array(item)
                pixels = np.array([item if array is None else array])
                number = int(unpack(_from_pixels(pixels))[0])
    if not 0 <= number <= 15:
        shown = f"a {type(item).__name__}"
        with suppress(Exception):  # Python does not write numbers of more than 4,300 digits
            shown = repr(item)[:60]
        raise InvalidImage(f"{shown} at index {index}", _FORMS)
    return number

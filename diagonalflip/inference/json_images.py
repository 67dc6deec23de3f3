"""Images in JSON, in any mixture of forms, without a Python loop over them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import chain, compress, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from diagonalflip.errors import EmptyPayload, InvalidImage, InvalidJson
from diagonalflip.inference.media_types import MediaType, check_charset
from diagonalflip.wire import MAX_TEXT_IMAGES, PIXELS, Images, check_count, pack

Body = bytes | bytearray
Numbers = npt.NDArray[np.int64]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Of UTF-8: editors and .NET write it before a text."""

SPARE_COMMAS = 1000
"""Of JSON, in which pixels are not all."""

IMAGE_FORMS = 'a number 0-15, a string "1011", [1,0,1,1] or [[1,0],[1,1]]'


def decode_json(media_type: MediaType, body: Body) -> Images:
    """``{"images": [...]}`` with each image in any of the forms of ``IMAGE_FORMS``."""
    check_charset(media_type)
    if not body:
        raise EmptyPayload("a body of 0 bytes", '{"images": [...]}')
    check_values(body)
    try:
        document = orjson.loads(body.removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        raise InvalidJson(str(error), "a JSON document", 'send {"images": [11, 6]}') from error
    if not isinstance(document, dict) or document.keys() != {"images"}:
        raise InvalidJson(
            f"the document {_describe(document)}", 'an object with the one key "images"'
        )
    images = document["images"]
    if not isinstance(images, list):
        raise InvalidJson(f'"images": {_describe(images)}', f"a list of images, each {IMAGE_FORMS}")
    if not images:
        raise EmptyPayload("0 images", "at least one image")
    check_count(len(images), MAX_TEXT_IMAGES)
    return pack(image_numbers(images))


def check_values(body: Body) -> None:
    """Rejects JSON of more values than its images have pixels, before it takes up memory.

    Raises:
        TooManyImages: More than one request may carry.
    """
    check_count((body.count(b",") - SPARE_COMMAS) // PIXELS, MAX_TEXT_IMAGES)


def image_numbers(images: list[Any]) -> Numbers:
    """Image numbers of JSON images in any mixture of forms, without a Python loop over them.

    Args:
        images: Decoded JSON values.

    Returns:
        ``int64[n]``, each 0-15.

    Raises:
        InvalidImage: Some image is malformed; the first one is named.
    """
    numbers = _numbers(images)
    if numbers is None:
        raise _first_invalid(images)
    return numbers


def _numbers(images: list[Any]) -> Numbers | None:
    """Return the same as ``image_numbers``, or None if an image is malformed."""
    kinds = list(map(type, images))
    numbers = np.empty(len(images), dtype=np.int64)
    for kind in set(kinds):
        mask = np.fromiter(map(operator.is_, kinds, repeat(kind)), dtype=bool, count=len(images))
        form = _FORMS.get(kind)
        part = form(list(compress(images, mask))) if form else None
        if part is None:
            return None
        numbers[mask] = part
    return numbers


def _from_numbers(images: list[int]) -> Numbers | None:
    try:
        numbers = np.array(images, dtype=np.int64)
    except OverflowError:
        return None
    return numbers if ((numbers >= 0) & (numbers <= 15)).all() else None


def _from_strings(images: list[str]) -> Numbers | None:
    text = "".join(images)
    if set(map(len, images)) != {4} or not text.isascii():
        return None
    pixels = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - ord("0")
    return _from_pixels(pixels)


def _from_lists(images: list[list[Any]]) -> Numbers | None:
    lengths = np.fromiter(map(len, images), dtype=np.int64, count=len(images))
    numbers = np.empty(len(images), dtype=np.int64)
    for length, flatten in ((4, _flatten), (2, _flatten_rows)):
        mask = lengths == length
        if not mask.any():
            continue
        values = flatten(list(compress(images, mask)))
        if values is None or set(map(type, values)) != {int}:
            return None
        try:
            part = _from_pixels(np.array(values, dtype=np.int64))
        except OverflowError:
            return None
        if part is None:
            return None
        numbers[mask] = part
    return numbers if np.isin(lengths, (2, 4)).all() else None


def _flatten(images: list[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(images))


def _flatten_rows(images: list[list[Any]]) -> list[Any] | None:
    rows = _flatten(images)
    if set(map(type, rows)) != {list} or set(map(len, rows)) != {2}:
        return None
    return _flatten(rows)


def _from_pixels(pixels: Numbers) -> Numbers | None:
    if ((pixels < 0) | (pixels > 1)).any():
        return None
    return np.asarray(pixels.reshape(-1, 4) @ np.array([8, 4, 2, 1]))


_FORMS: dict[type, Callable[[list[Any]], Numbers | None]] = {
    int: _from_numbers,
    str: _from_strings,
    list: _from_lists,
}


def _first_invalid(images: list[Any]) -> InvalidImage:
    """Names the first malformed image, by halving: others wait while a request is rejected."""
    start, end = 0, len(images)
    while end - start > 1:
        middle = (start + end) // 2
        if _numbers(images[start:middle]) is None:
            end = middle
        else:
            start = middle
    return InvalidImage(f"image {start}: {_describe(images[start])}", IMAGE_FORMS)


def _describe(value: object) -> str:
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # it reads deeper nesting than it writes
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Decode request bodies into packed images: one function per media type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import orjson

from diagonalflip import errors, wire
from diagonalflip.errors import EmptyPayload, InvalidImage, InvalidJson, UnsupportedMediaType
from diagonalflip.inference.media_types import check_charset, parse_media_type
from diagonalflip.inference.pictures import decode_pbm, decode_png
from diagonalflip.wire import MAX_TEXT_IMAGES, PIXELS, Body, Images, check_count, pack

HEX_DIGITS = b"0123456789abcdefABCDEF"
HEX_VALUES = bytes.maketrans(HEX_DIGITS, bytes([*range(16), *range(10, 16)]))
WHITE_SPACE = b" \t\r\n"

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""UTF-8's mark, which some editors and .NET write before a text."""

SPARE_COMMAS = 1000
"""Most commas of a JSON document that are not between pixels."""

Decoder = Callable[[Body], Images]

IMAGE_FORMS = 'a number 0-15, a string "1011", [1,0,1,1] or [[1,0],[1,1]]'

NUMBERS: dict[int | str | bytes, int] = {}
"""The number of each image in each form: numbers and strings as Python's, and all forms as JSON, in
which ``1`` differs from ``true`` and ``1.0``."""

for _number in range(16):
    _pixels = wire.to_pixels([_number])[0]
    _simple = _number, f"{_number:04b}"
    for _form in (*_simple, _pixels.reshape(PIXELS).tolist(), _pixels.tolist()):
        NUMBERS[orjson.dumps(_form)] = _number
    NUMBERS |= dict.fromkeys(_simple, _number)


def decoder_of(content_type: str) -> Decoder:
    """Return the decoder for a ``Content-Type`` header, which is "" if absent.

    The decoder raises InvalidPayload (a subclass of it, which says what is wrong and where), or
    TooManyImages.

    Raises:
        InvalidPadding: The parameter ``padding`` is not a number.
        UnsupportedMediaType: There is no decoder for that type or charset.
    """
    media_type = parse_media_type(content_type)
    decoder = DECODERS.get(media_type.name)
    if decoder is None:
        raise unsupported(media_type.name)
    if decoder is wire.from_packed:
        padding = media_type.parameters.get("padding", "0")
        if not (padding.isascii() and padding.isdigit() and len(padding) < 4):
            raise errors.InvalidPadding(f"padding={padding!r}", "padding=0 or padding=4")
        return partial(wire.from_packed, padding_bits=int(padding))
    if decoder in (decode_text, decode_json):
        check_charset(media_type)
    return decoder


def decode(content_type: str, body: Body) -> Images:
    """Decode the images of a request; raise what ``decoder_of`` and its decoder do."""
    return decoder_of(content_type)(body)


def unsupported(name: str) -> UnsupportedMediaType:
    """Return the error for a media type that is not in ``DECODERS``."""
    return UnsupportedMediaType(
        f"Content-Type {name!r}" if name else "no Content-Type",
        " or ".join(DECODERS),
        "with curl, --data-binary @FILE -H 'Content-Type: application/octet-stream', or "
        "-F data=@FILE",
    )


def decode_text(body: Body) -> Images:
    """Decode one hex digit per image; white space is ignored."""
    body = body.removeprefix(BYTE_ORDER_MARK)
    wrong = body.translate(None, HEX_DIGITS + WHITE_SPACE)
    if wrong:
        raise errors.InvalidText(
            f"{bytes(wrong[:1])!r} at byte {body.index(wrong[:1])}",
            "hex digits, one per image, and white space",
            f"if it is JSON, say so, by Content-Type: {wire.JSON}",
        )
    digits = body.translate(HEX_VALUES, WHITE_SPACE)
    check_count(len(digits), MAX_TEXT_IMAGES)
    return pack(np.frombuffer(digits, dtype=np.uint8))


def decode_json(body: Body) -> Images:
    """Decode ``{"images": [...]}``, each image in any of ``IMAGE_FORMS``."""
    if not body:
        raise EmptyPayload("a body of 0 bytes", '{"images": [...]}')
    try:
        document = load_json(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(str(error), "a JSON document", 'send {"images": [11, 6]}') from error
    if not isinstance(document, dict) or document.keys() != {"images"}:
        raise InvalidJson(
            f"the document {_describe(document)}", 'an object with the one key "images"'
        )
    images = document["images"]
    if not isinstance(images, list):
        raise InvalidJson(f'"images": {_describe(images)}', f"a list of images, each {IMAGE_FORMS}")
    check_count(len(images), MAX_TEXT_IMAGES)
    numbers = _numbers(images)
    if body.count(b":") > 1:  # valid images have none
        raise InvalidJson('"images" more than once', 'an object with the one key "images"')
    return pack(numbers)


def load_json(body: Body) -> Any:
    """Parse JSON, unless it has so many values that it would take too much memory.

    Raises:
        JSONDecodeError: orjson's; it is not JSON.
        TooManyImages: It has more values than the most images have pixels.
    """
    check_count((body.count(b",") - SPARE_COMMAS) // PIXELS, MAX_TEXT_IMAGES)
    return orjson.loads(body.removeprefix(BYTE_ORDER_MARK))


def _numbers(images: list[Any]) -> list[int]:
    """Return the number of each image; raise InvalidImage for the first malformed one."""
    keys = images if set(map(type, images)) <= {int, str} else map(orjson.dumps, images)
    try:
        numbers: list[Any] = list(map(NUMBERS.get, keys))
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
        numbers = [NUMBERS.get(_dump(image)) for image in images]
    if None in numbers:
        index = numbers.index(None)
        raise InvalidImage(f"image {index}: {_describe(images[index])}", IMAGE_FORMS)
    return numbers


def _dump(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return f"a deeply nested {type(value).__name__}".encode()


def _describe(value: object) -> str:
    text = _dump(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


DECODERS: dict[str, Decoder] = {
    wire.OCTETS: wire.from_packed,
    wire.PACKED: wire.from_packed,
    wire.JSON: decode_json,
    wire.TEXT: decode_text,
    wire.PNG: decode_png,
    wire.PBM: decode_pbm,
}
"""Decoder by media type."""

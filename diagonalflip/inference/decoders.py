"""Request bodies to packed images: one function a media type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diagonalflip.errors import InvalidPadding, InvalidText, UnsupportedMediaType
from diagonalflip.inference.json_images import BYTE_ORDER_MARK, decode_json
from diagonalflip.inference.media_types import MediaType, check_charset, parse_media_type
from diagonalflip.inference.pictures import decode_pbm, decode_png
from diagonalflip.wire import (
    JSON,
    MAX_TEXT_IMAGES,
    OCTETS,
    PACKED,
    PBM,
    PNG,
    TEXT,
    Images,
    check_count,
    from_packed,
    pack,
)

Body = bytes | bytearray

HEX_DIGITS = b"0123456789abcdefABCDEF"
HEX_VALUES = bytes.maketrans(HEX_DIGITS, bytes([*range(16), *range(10, 16)]))
WHITE_SPACE = b" \t\r\n"


def decode(content_type: str, body: Body) -> Images:
    """Reads the images of a request.

    Args:
        content_type: The ``Content-Type`` header, parameters included; "" if absent.
        body: The body as it came.

    Raises:
        InvalidPayload: One of its kinds, naming what is wrong and where.
        TooManyImages: More than one request may carry.
        UnsupportedMediaType: None of ``DECODERS`` is meant.
    """
    media_type = parse_media_type(content_type)
    decoder = DECODERS.get(media_type.name)
    if decoder is None:
        raise UnsupportedMediaType(
            f"Content-Type {media_type.name!r}" if media_type.name else "no Content-Type",
            " or ".join(DECODERS),
            "with curl, --data-binary @FILE -H 'Content-Type: application/octet-stream', or "
            "-F data=@FILE",
        )
    return decoder(media_type, body)


def decode_packed(media_type: MediaType, body: Body) -> Images:
    """Two images per byte, high nibble first; ``padding=4`` for an odd number."""
    padding = media_type.parameters.get("padding", "0")
    if not (padding.isascii() and padding.isdigit() and len(padding) < 4):
        raise InvalidPadding(f"padding={padding!r}", "padding=0 or padding=4")
    return from_packed(body, int(padding))


def decode_text(media_type: MediaType, body: Body) -> Images:
    """One hex digit an image; white space is ignored."""
    check_charset(media_type)
    body = body.removeprefix(BYTE_ORDER_MARK)
    wrong = body.translate(None, HEX_DIGITS + WHITE_SPACE)
    if wrong:
        raise InvalidText(
            f"{wrong[:1]!r} at byte {body.index(wrong[:1])}",
            "hex digits, one per image, and white space",
        )
    digits = body.translate(HEX_VALUES, WHITE_SPACE)
    check_count(len(digits), MAX_TEXT_IMAGES)
    return pack(np.frombuffer(digits, dtype=np.uint8))


DECODERS: dict[str, Callable[[MediaType, Body], Images]] = {
    OCTETS: decode_packed,
    PACKED: decode_packed,
    JSON: decode_json,
    TEXT: decode_text,
    PNG: decode_png,
    PBM: decode_pbm,
}
"""Media type to decoder."""

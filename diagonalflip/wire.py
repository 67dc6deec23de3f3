"""The wire format: four bits per image, two images per byte, and the names around it.

An image is 2x2 binary pixels, row-major. As a number 0-15, its first pixel is the highest bit, so
``0b1011`` is ``[[1, 0], [1, 1]]``. *Packed* images are two per byte, the first one in the high
nibble. After an odd number of images the last low nibble is unused: it is zero, and the media type
says so by the parameter ``padding``, which RFC 2046, section 4.5.1, defines for
``application/octet-stream`` (padding bits at the end).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip.errors import EmptyPayload, InvalidImage, InvalidPadding, TooManyImages

WIRE_VERSION = "1"
"""Changes when an old client would misread a new server, or a new client an old server."""

MODEL = "diagonal_flip"
"""The model's name in URLs."""

OCTETS = "application/octet-stream"
"""Packed images in requests; little-endian float32, four per image, in responses."""

PACKED = "application/vnd.diagonalflip.packed"
"""Packed images in requests and responses."""

FLOAT16 = "application/vnd.diagonalflip.float16"
JSON = "application/json"
TEXT = "text/plain"
PNG = "image/png"
PBM = "image/x-portable-bitmap"
NPY = "application/x-npy"
JSON_LINES = "application/jsonl"
FORM = "multipart/form-data"
PROBLEM = "application/problem+json"
"""Errors, RFC 9457."""

V2 = "v2"
FORMS = {
    OCTETS: "packed",
    PACKED: "packed",
    JSON: "json",
    TEXT: "text",
    PNG: "png",
    PBM: "pbm",
    V2: V2,
}
"""Short names of the forms of requests, by media type; V2 is the Open Inference Protocol."""

SUFFIXES = {
    ".bin": OCTETS,
    ".json": JSON,
    ".txt": TEXT,
    ".png": PNG,
    ".pbm": PBM,
    ".npy": NPY,
    ".jsonl": JSON_LINES,
}
"""Media types by a file name's suffix; the service reads all but the last two."""

PIXELS = 4
"""Pixels, and so bits, of an image; also the floats of a prediction."""

MAX_IMAGES = 1 << 20
"""Most images in a request: 512 KiB packed, with a float32 response of 16 MiB."""

MAX_TEXT_IMAGES = 1 << 17
"""Most images in a request or response of JSON or text: a million would keep a worker busy for
seconds."""

MAX_EXPLAINED_IMAGES = 1 << 12
"""Most images in a request for explanations, which are for people."""

MAX_BODY_BYTES = 1 << 25
"""Longest body, compressed or not: twice the most images in any form."""

MAX_CONNECTIONS = 4096
"""Most connections that a worker keeps open."""

NIBBLE_BITS = 4
"""Padding bits after an odd number of images."""

TOLERANCE = 1e-6
"""Largest absolute deviation of a prediction from the network's in double precision."""

Body = bytes | bytearray

Predictions = npt.NDArray[np.float32]
"""``float32[n, 4]``, one row per image."""


@dataclass(slots=True)
class Images:
    """Packed images, as they are sent.

    Attributes:
        packed: ``ceil(count / 2)`` bytes, high nibble first, an unused last nibble zero.
        count: Number of images, at least 1.
        columns: Tiles per row, if the images came as a picture; else 0.
    """

    packed: bytes | bytearray
    count: int
    columns: int = 0


def from_packed(body: Body, padding_bits: int = 0) -> Images:
    """Check received packed bytes, with 0 or 4 unused bits at the end.

    Raises:
        EmptyPayload: ``body`` has no bytes.
        InvalidPadding: ``padding_bits`` is neither 0 nor 4, or the padding is not zero.
        TooManyImages: More than ``MAX_IMAGES``.
    """
    if not body:
        raise EmptyPayload("a body of 0 bytes", "at least one image", "send two images per byte")
    if padding_bits not in (0, NIBBLE_BITS):
        raise InvalidPadding(
            f"padding={padding_bits}",
            "padding=0, or padding=4 for an odd number of images",
            "leave the parameter out when the number of images is even",
        )
    if padding_bits and body[-1] & 0x0F:
        raise InvalidPadding(
            f"last byte 0x{body[-1]:02x} with padding=4",
            "its low nibble to be 0",
            "put the last image into the high nibble and clear the low one",
        )
    count = 2 * len(body) - (1 if padding_bits else 0)
    check_count(count)
    return Images(body, count)


def check_count(count: int, limit: int = MAX_IMAGES) -> None:
    """Raise TooManyImages if one request may not carry ``count`` images."""
    if count > limit:
        raise TooManyImages.of(count, limit)


def with_padding(media_type: str, count: int) -> str:
    """Return the media type of ``count`` packed images, with ``padding`` for an odd number."""
    return f"{media_type}; padding={NIBBLE_BITS}" if count % 2 else media_type


def pack(numbers: npt.ArrayLike) -> Images:
    """Pack image numbers ``int[n]``, each 0-15, n at least 1.

    Raises:
        EmptyPayload: n is 0.
        InvalidImage: A number is below 0 or above 15.
    """
    array = np.asarray(numbers)
    if array.size == 0:
        raise EmptyPayload("0 images", "at least one image")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidImage(f"{array.dtype}{list(array.shape)}", "integers of shape [n]")
    wrong = np.flatnonzero((array < 0) | (array > 15))
    if wrong.size:
        raise InvalidImage(f"number {array[wrong[0]]} at index {wrong[0]}", "numbers 0 to 15")
    nibbles = np.zeros(array.size + array.size % 2, dtype=np.uint8)
    nibbles[: array.size] = array
    return Images(((nibbles[0::2] << 4) | nibbles[1::2]).tobytes(), array.size)


def unpack(images: Images) -> npt.NDArray[np.uint8]:
    """Return the image numbers, ``uint8[count]``, of packed images."""
    octets = np.frombuffer(images.packed, dtype=np.uint8)
    nibbles = np.stack([octets >> 4, octets & 0x0F], axis=1).reshape(-1)
    return nibbles[: images.count]


def pack_pixels(pixels: npt.NDArray[Any], columns: int = 0) -> Images:
    """Pack pixels ``uint8[n, 4]`` or ``bool[n, 4]`` that are 0 or 1; n at least 1."""
    if len(pixels) == 0:
        raise EmptyPayload("0 images", "at least one image")
    return Images(np.packbits(pixels).tobytes(), len(pixels), columns)


def to_pixels(numbers: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the pixels, ``uint8[n, 2, 2]`` row-major, of image numbers ``int[n]``."""
    shifts = np.array([3, 2, 1, 0])
    bits: npt.NDArray[np.int64] = (np.asarray(numbers)[:, None] >> shifts) & 1
    return bits.astype(np.uint8).reshape(-1, 2, 2)

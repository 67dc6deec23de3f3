"""Pictures: sheets of 2x2 tiles, each an image in requests and a prediction in responses."""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from diagonalflip.errors import EmptyPayload, InvalidPicture
from diagonalflip.wire import (
    MAX_IMAGES,
    PIXELS,
    Body,
    Images,
    Predictions,
    check_count,
    pack_pixels,
)

PICTURE = "a black and white picture of even width and height"
CONVERT = "convert it, as ImageMagick's -monochrome does"

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 10_000
"""Most chunks of a PNG; encoders write one per some kilobytes of data."""

COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")
MAX_COMMENTS = 10_000
"""Most comments among a plain PBM's bits; each takes time."""

BLANK = rb"(?:\s|#[^\r\n]*[\r\n])"
PBM_HEADER = re.compile(rb"(P[14])%b+(\d{1,10})%b+(\d{1,10})%b" % (BLANK, BLANK, BLANK))
PBM_HEADER_BYTES = 4096
"""Longest header of a PBM. Pillow would read it byte by byte, 32 MiB of blanks in 6 s."""

ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""Passes of an interlaced PNG: first column and row, and steps (PNG, section 8.2)."""

# Errors that Pillow's decoders raise for damaged files.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, OverflowError, IndexError)


def decode_png(body: Body) -> Images:
    """Decode a PNG of bit depth 1, or 8 in black and white only; white, or sample 1, is 1."""
    # If it is no PNG, ``_open`` raises the error.
    chunks = _critical_chunks(body) if body[:8] == SIGNATURE else [body[8:]]
    plain = body[:8] + b"".join(chunks)
    sheet = _open(plain, "PNG")
    data = [chunk[8:-4] for chunk in chunks if chunk[4:8] == b"IDAT"]
    if not _is_whole(plain, data, *sheet.shape):
        raise InvalidPicture("the picture has less data than its size needs", PICTURE)
    return _from_sheet(sheet)


def count_of(body: Body) -> int:
    """Return the number of images in a PNG, from its first chunk (PNG, section 11.2.2)."""
    width, height = (int.from_bytes(body[at : at + 4], "big") for at in (16, 20))
    return width * height // PIXELS


def decode_pbm(body: Body) -> Images:
    """Decode a PBM, plain (P1) or raw (P4); bit 1, which is black, is pixel 1."""
    header = PBM_HEADER.match(body, 0, PBM_HEADER_BYTES)
    if header is None:
        if len(body) > PBM_HEADER_BYTES:
            got = f"no header of a PBM in the first {PBM_HEADER_BYTES} bytes"
            raise InvalidPicture(got, PICTURE)
        return _from_sheet(~_open(body, "PPM"))
    raster = body[header.end() :]
    if header[1] == b"P1":
        if (comments := raster.count(b"#")) > MAX_COMMENTS:
            raise InvalidPicture(f"{comments} comments", f"at most {MAX_COMMENTS}")
        raster = COMMENT.sub(b"", raster)  # Pillow would copy the rest for each
    return _from_sheet(~_open(b" ".join(header.groups()) + b"\n" + raster, "PPM"))


def _open(body: Body, format_name: str) -> npt.NDArray[np.bool_]:
    """Return samples ``bool[height, width]``; True is white, or a palette's second colour.

    Raises:
        EmptyPayload: ``body`` has no bytes.
        InvalidPicture: Not a complete picture of that format, depth and size.
        TooManyImages: More tiles than one request may carry; raised before decoding.
    """
    if not body:
        raise EmptyPayload("a body of 0 bytes", PICTURE)
    try:
        with warnings.catch_warnings():
            # Pillow's limit against decompression bombs; ours below is lower.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(body), formats=[format_name])
        width, height = picture.size
        # Pillow does not tell the bit depth; a PNG's is byte 24, in its first chunk.
        is_grey = format_name == "PNG" and picture.mode == "L" and body[24] == 8
        is_binary = picture.mode == "1" or (picture.mode == "P" and body[24] == 1)
        if not (is_grey or is_binary) or width % 2 or height % 2:
            got = f"{width}x{height} pixels, mode {picture.mode!r}"
            raise InvalidPicture(got, PICTURE, CONVERT)
        check_count(width * height // PIXELS)
        if body[:2] == b"P4" and (rest := body[picture.tile[0][2] + (width + 7) // 8 * height :]):
            raise InvalidPicture(f"{len(rest)} bytes after the picture", PICTURE)
        samples = np.asarray(picture)
        if is_grey and not ((samples == 0) | (samples == 255)).all():
            raise InvalidPicture("greys between black and white", PICTURE, CONVERT)
        return samples.astype(np.bool_, copy=False)
    except Image.DecompressionBombError as error:
        raise InvalidPicture(str(error), f"a picture of at most {MAX_IMAGES} tiles") from error
    except BROKEN as error:
        raise InvalidPicture(
            f"{len(body)} bytes that are not a whole picture of that type", PICTURE
        ) from error


def _critical_chunks(body: Body) -> list[Body]:
    """Return the critical chunks of a PNG; others, such as long texts, are skipped.

    Raises:
        InvalidPicture: There are too many chunks, or one has a wrong checksum, is cut short, is
            out of order (PNG, section 5.6) or follows the last one.
    """
    chunks: list[Body] = []
    seen: list[bytes] = []
    view, at = memoryview(body), 8
    while seen[-1:] != [b"IEND"]:
        if len(seen) == MAX_CHUNKS:
            raise InvalidPicture(f"more than {MAX_CHUNKS} chunks", PICTURE)
        name = bytes(view[at + 4 : at + 8])
        if (name == b"IHDR") != (at == 8):  # ``count_of`` takes the size from there
            raise InvalidPicture("the picture does not begin with its size", PICTURE)
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(body):
            raise InvalidPicture("the picture is cut short", PICTURE, "send the whole file")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            got = f"a wrong checksum in the chunk at byte {at}"
            raise InvalidPicture(got, PICTURE, "send another copy: this file is damaged")
        if name == b"IDAT" != seen[-1] and name in seen:
            raise InvalidPicture("the picture's data are not in one piece", PICTURE)
        if name[:1].isupper():  # PNG, section 5.4
            chunks.append(body[at:end])
        seen.append(name)
        at = end
    if at < len(body):
        raise InvalidPicture(f"{len(body) - at} bytes after the picture", PICTURE)
    return chunks


def _is_whole(body: Body, data: list[Body], height: int, width: int) -> bool:
    """Return whether a PNG has data for all rows; Pillow reads missing data as zeros."""
    depth, passes = body[24], ADAM7 if body[28] else ((0, 0, 1, 1),)
    sizes = [((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in passes]
    needed = sum(rows * (1 + (columns * depth + 7) // 8) for columns, rows in sizes if columns > 0)
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(b"".join(data), needed)
        more = inflater.decompress(inflater.unconsumed_tail, 1)  # or its checksum would be left
    except zlib.error:
        return False
    return len(found) == needed and (inflater.eof or bool(more))


def _from_sheet(sheet: npt.NDArray[np.bool_]) -> Images:
    rows, columns = sheet.shape[0] // 2, sheet.shape[1] // 2
    tiles = sheet.reshape(rows, 2, columns, 2).transpose(0, 2, 1, 3).reshape(-1, PIXELS)
    return pack_pixels(tiles, columns)


def encode_png(images: Images, predictions: Predictions) -> bytes:
    """Predictions ``float32[n, 4]`` as greys: 0 is black, 1 is white, clipped."""
    columns = images.columns or math.ceil(math.sqrt(images.count))
    rows = math.ceil(images.count / columns)
    greys = np.zeros((rows * columns, PIXELS), dtype=np.uint8)
    exact = np.multiply(np.clip(predictions, 0, 1), 255, dtype=np.float64)
    greys[: images.count] = np.rint(exact, out=exact)
    sheet = greys.reshape(rows, columns, 2, 2).transpose(0, 2, 1, 3)
    written = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(sheet).reshape(rows * 2, columns * 2))
    picture.save(written, format="PNG", compress_level=1)
    return written.getvalue()

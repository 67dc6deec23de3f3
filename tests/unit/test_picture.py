"""Pictures: sheets of tiles in, greys out, and no way to hurt the decoder."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diagonalflip.errors import EmptyPayload, InvalidPicture, TooManyImages
from diagonalflip.inference import decoders, pictures
from diagonalflip.wire import pack, unpack

PNG, PBM = "image/png", "image/x-portable-bitmap"
CONVERT = r"Expected a black and white picture.*-monochrome"


Samples = npt.NDArray[np.bool_]
Write = Callable[[Any], bytes]


def sheet(rows: int, columns: int) -> Samples:
    return np.random.default_rng(rows * 100 + columns).random((2 * rows, 2 * columns)) < 0.5


def tiles_by_hand(samples: Samples) -> list[int]:
    """The image numbers, tile by tile, pixel by pixel."""
    return [
        int("".join(str(int(samples[top + y, left + x])) for y in (0, 1) for x in (0, 1)), 2)
        for top in range(0, samples.shape[0], 2)
        for left in range(0, samples.shape[1], 2)
    ]


def png(picture: Image.Image, **options: Any) -> bytes:
    written = io.BytesIO()
    picture.save(written, format="PNG", **options)
    return written.getvalue()


def png_of(samples: Samples) -> bytes:
    return png(Image.fromarray(samples))


def palette_png_of(samples: Samples, palette: Sequence[int] = (255, 0, 0, 0, 0, 255)) -> bytes:
    picture = Image.fromarray(samples.astype(np.uint8), mode="P")
    picture.putpalette(palette)
    return png(picture, bits=len(palette) // 6)


def plain_pbm_of(samples: Samples) -> bytes:
    rows = "\n".join(" ".join("01"[int(bit)] for bit in row) for row in samples)
    return f"P1\n# a comment\n{samples.shape[1]} {samples.shape[0]}\n{rows}\n".encode()


def raw_pbm_of(samples: Samples) -> bytes:
    header = f"P4\n{samples.shape[1]} {samples.shape[0]}\n".encode()
    return header + np.packbits(samples, axis=1).tobytes()


WRITERS = [(PNG, png_of), (PBM, plain_pbm_of), (PBM, raw_pbm_of), (PNG, palette_png_of)]


def chunk(name: bytes, content: bytes = b"") -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def joined(parts: Iterable[bytes]) -> bytes:
    return pictures.SIGNATURE + b"".join(parts)


def chunks(
    width: int, height: int, data: bytes = b"", interlaced: int = 0, depth: int = 1
) -> Iterator[bytes]:
    """The chunks of a grey PNG with ``data`` for its scan lines, in two of them."""
    packed = zlib.compress(data)
    yield chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, interlaced))
    yield chunk(b"IDAT", packed[:3])
    yield chunk(b"IDAT", packed[3:])
    yield chunk(b"IEND")


def raw_png(*given: Any, **named: Any) -> bytes:
    return joined(chunks(*given, **named))


WHOLE = [*chunks(4, 4, bytes(8))]
TEXT = chunk(b"tEXt", b"a\0b")
PALETTE = chunk(b"PLTE", bytes(3))
DAMAGED = {
    "is cut short": WHOLE[:-1],
    "cut short": [*WHOLE[:-1], WHOLE[-1][:-1]],
    "1 bytes after the picture": [*WHOLE, b"\0"],
    "bytes after the picture": [*WHOLE, *WHOLE[1:]],
    "not in one piece": [*WHOLE[:2], TEXT, *WHOLE[2:]],
    "data are not in one piece": [*WHOLE[:2], PALETTE, *WHOLE[2:]],
    "does not begin with its size": [chunk(b"tEXt", bytes(40)), *WHOLE],
}


@pytest.mark.parametrize("message", DAMAGED)
def test_a_png_whose_chunks_are_not_as_they_must_be_is_rejected(message: str) -> None:
    assert decoders.decode(PNG, joined(WHOLE)).count == 4
    with pytest.raises(InvalidPicture, match=message):
        decoders.decode(PNG, joined(DAMAGED[message]))


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("place", [8, -1])
def test_a_wrong_checksum_of_any_chunk_is_rejected(index: int, place: int) -> None:
    """Of those that Pillow skips, too: the file is damaged."""
    parts = [WHOLE[0], TEXT, PALETTE, *WHOLE[1:3], chunk(b"eXIf", b"\0"), WHOLE[3]]
    damaged = bytearray(parts[index])
    damaged[place] ^= 1
    parts[index] = bytes(damaged)
    with pytest.raises(InvalidPicture, match="wrong checksum"):
        decoders.decode(PNG, joined(parts))


@pytest.mark.parametrize("interlaced", [False, True])
def test_black_and_white_in_eight_bits_is_accepted_and_grey_is_not(*, interlaced: bool) -> None:
    """ImageMagick writes so what it was not told to write in one bit."""
    samples = sheet(3, 5)
    greys = samples.astype(np.uint8) * 255
    if interlaced:
        rows = [
            b"".join(b"\0" + row.tobytes() for row in greys[y::dy, x::dx])
            for x, y, dx, dy in pictures.ADAM7
            if greys[y::dy, x::dx].size
        ]
        body = raw_png(10, 6, b"".join(rows), 1, depth=8)
    else:
        body = png(Image.fromarray(greys))
    assert unpack(decoders.decode(PNG, body)).tolist() == tiles_by_hand(samples)
    greys[1, 2] ^= 1
    with pytest.raises(InvalidPicture, match="Greys between black and white"):
        decoders.decode(PNG, png(Image.fromarray(greys)))


def test_long_texts_beside_the_pixels_do_not_matter() -> None:
    samples = sheet(2, 2)
    notes = PngInfo()
    notes.add_text("comment", "a" * (8 << 20), zip=True)
    notes.add_text("plain", "b" * (1 << 20))
    body = png(Image.fromarray(samples), pnginfo=notes)
    assert unpack(decoders.decode(PNG, body)).tolist() == tiles_by_hand(samples)


def test_very_many_chunks_or_comments_take_no_longer_than_their_bytes() -> None:
    started = time.thread_time()
    with pytest.raises(InvalidPicture, match="chunks"):
        decoders.decode(PNG, joined([WHOLE[0], chunk(b"tEXt") * 5_000_000, *WHOLE[1:]]))
    assert time.thread_time() - started < 1
    content = b"P1 2 2\n1 0" + b"#\n" * 9_998 + b"1#1\r1 # the end"
    assert unpack(decoders.decode(PBM, content)).tolist() == [11]
    for body in (
        b"P1 2 2\n1 0" + b"#\n" * (1 << 24) + b"11",
        b"P4\n" + b" " * (1 << 25) + b"2 2\n\x80\xc0",
        b"P4 2 2" + b"\n#" * (1 << 24) + b"\n\x80\xc0",
        b"P4 2" + b"#\n" * (1 << 24) + b"2\n\x80\xc0",
    ):
        with pytest.raises(InvalidPicture):
            decoders.decode(PBM, body)
    assert time.thread_time() - started < 3


@pytest.mark.parametrize(
    "content",
    [
        b"P4\n# a 2\n2\t2\n\x80\xc0",
        b"P4 2#\n2 \x80\xc0",
        b"P1#c\n2 2#\n1011",
        b"P1\r\n2 2\r\n10\r\n11",
    ],
)
def test_blanks_and_comments_in_a_header(content: bytes) -> None:
    assert unpack(decoders.decode(PBM, content)).tolist() == [11]


def test_data_without_their_checksum_are_not_whole() -> None:
    data = zlib.compress(b"\0\x80\0\xc0")
    for cut, is_good in ((data, True), (data[:-1], False), (data[:-4], False)):
        body = joined([next(chunks(2, 2)), chunk(b"IDAT", cut), WHOLE[-1]])
        if is_good:
            assert unpack(decoders.decode(PNG, body)).tolist() == [11]
            continue
        with pytest.raises(InvalidPicture):
            decoders.decode(PNG, body)


@pytest.mark.parametrize(("content_type", "write"), WRITERS[:3])
def test_what_is_cut_short_is_rejected_without_a_leak(content_type: str, write: Write) -> None:
    body = write(sheet(9, 9))
    with pytest.raises(EmptyPayload):
        decoders.decode(content_type, b"")
    for length in range(1, len(body) - (content_type == PBM)):
        with pytest.raises(InvalidPicture, match=r"\A((?!0x|<).)*\Z"):
            decoders.decode(content_type, body[:length])


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        # Others are among the vectors.
        *((PNG, png(Image.new(mode, (2, 2))), CONVERT) for mode in ("RGB", "RGBA", "LA", "I;16")),
        (PNG, palette_png_of(np.full((2, 2), 3), range(12)), "mode 'P'"),
        (PBM, b"P6\n2 2\n255\n" + bytes(12), CONVERT),
        (PNG, raw_png(1 << 20, 1 << 20), "at most"),
        (PBM, b"P4\n4000000 4000000\n", "at most"),
        (PBM, b"P4\n2 2\n\x80\x40P4\n2 2\n\x80\x40", "9 bytes after the picture"),
        (PBM, b"P4\r\n2 2\r\n\x80\x40", "1 bytes after the picture"),
        (PBM, b"P4\n2 2\n#\n\x80\x40", "2 bytes after the picture"),
    ],
)
def test_other_pictures_are_rejected(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidPicture, match=message):
        decoders.decode(content_type, body)


@pytest.mark.parametrize(("width", "height"), [(2050, 2048), (10_000, 10_000)])
def test_a_sheet_over_the_limit_is_rejected_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(TooManyImages, match=f"{width * height // 4} images"):
        decoders.decode(PNG, raw_png(width, height))


@pytest.mark.parametrize(
    ("width", "height", "interlaced", "needed"),
    [(2, 2, 0, 4), (10, 6, 0, 18), (2, 2, 1, 2 + 2 + 2), (8, 8, 1, 2 + 2 + 2 + 4 + 4 + 8 + 8)],
)
def test_a_png_needs_all_its_data(width: int, height: int, interlaced: int, needed: int) -> None:
    whole = raw_png(width, height, bytes(needed), interlaced)
    assert decoders.decode(PNG, whole).count == width * height // 4
    for rows, data in ((height, bytes(needed - 1)), (height + 2, bytes(needed))):
        with pytest.raises(InvalidPicture):
            decoders.decode(PNG, raw_png(width, rows, data, interlaced))


def test_greys_are_clipped_and_rounded_half_to_even() -> None:
    values = np.array([[-1, 2, 0.5, 1.5 / 255]], np.float32)
    picture = Image.open(io.BytesIO(pictures.encode_png(pack([0]), values)))
    assert (picture.mode, list(picture.tobytes())) == ("L", [0, 255, 128, 2])

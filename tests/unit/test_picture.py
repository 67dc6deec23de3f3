"""Pictures: sheets of tiles in, greys out, and no way to hurt the decoder."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diagonalflip.errors import DiagonalFlipError, EmptyPayload, InvalidPicture, TooManyImages
from diagonalflip.inference import decoders, pictures
from diagonalflip.wire import Images, pack, unpack

PNG, PBM = "image/png", "image/x-portable-bitmap"
CONVERT = r"Expected a black and white picture.*-monochrome"


def sheet(rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """Random samples of a sheet of tiles."""
    return np.random.default_rng(rows * 100 + columns).random((2 * rows, 2 * columns)) < 0.5


def tiles_by_hand(samples: npt.NDArray[np.bool_]) -> list[int]:
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


def png_of(samples: npt.NDArray[np.bool_]) -> bytes:
    return png(Image.fromarray(samples))


def palette_png_of(
    samples: npt.NDArray[Any], palette: Sequence[int] = (255, 0, 0, 0, 0, 255)
) -> bytes:
    picture = Image.fromarray(samples.astype(np.uint8), mode="P")
    picture.putpalette(palette)
    return png(picture, bits=len(palette) // 6)


def plain_pbm_of(samples: npt.NDArray[np.bool_]) -> bytes:
    rows = "\n".join(" ".join("01"[int(bit)] for bit in row) for row in samples)
    return f"P1\n# a comment\n{samples.shape[1]} {samples.shape[0]}\n{rows}\n".encode()


def raw_pbm_of(samples: npt.NDArray[np.bool_]) -> bytes:
    header = f"P4\n{samples.shape[1]} {samples.shape[0]}\n".encode()
    return header + np.packbits(samples, axis=1).tobytes()


WRITERS = [(PNG, png_of), (PBM, plain_pbm_of), (PBM, raw_pbm_of), (PNG, palette_png_of)]


@pytest.mark.parametrize(("content_type", "write"), WRITERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (3, 9), (40, 33)])
def test_a_sheet_is_its_tiles_row_by_row(
    content_type: str, write: Callable[[Any], bytes], size: tuple[int, int]
) -> None:
    samples = sheet(*size)
    images = decoders.decode(content_type, write(samples))
    assert unpack(images).tolist() == tiles_by_hand(samples)
    assert images.columns == size[1]


def raw_png(
    width: int, height: int, data: bytes = b"", interlaced: int = 0, depth: int = 1
) -> bytes:
    """A PNG of bit depth ``depth`` with ``data`` for its scan lines, in two chunks."""
    packed = zlib.compress(data)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, interlaced)
    parts = ((b"IHDR", header), (b"IDAT", packed[:3]), (b"IDAT", packed[3:]), (b"IEND", b""))
    return pictures.SIGNATURE + b"".join(chunk(*part) for part in parts)


def chunk(name: bytes, content: bytes = b"") -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def chunks_of(body: bytes) -> list[bytes]:
    """The chunks of a PNG."""
    found, at = [], 8
    while at < len(body):
        end = at + 12 + int.from_bytes(body[at : at + 4], "big")
        found.append(body[at:end])
        at = end
    return found


DAMAGED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "is cut short": lambda parts: parts[:-1],
    "cut short": lambda parts: [*parts[:-1], parts[-1][:-1]],
    "1 bytes after the picture": lambda parts: [*parts, b"\0"],
    "bytes after the picture": lambda parts: [*parts, *parts[1:]],
    "not in one piece": lambda parts: [*parts[:2], chunk(b"tEXt"), *parts[2:]],
    "does not begin with its size": lambda parts: [chunk(b"tEXt", bytes(40)), *parts],
    "data are not in one piece": lambda parts: [*parts[:2], chunk(b"PLTE", bytes(3)), *parts[2:]],
}


@pytest.mark.parametrize("message", DAMAGED)
def test_a_png_whose_chunks_are_not_as_they_must_be_is_rejected(message: str) -> None:
    parts = chunks_of(raw_png(4, 4, bytes(8)))
    assert decoders.decode(PNG, pictures.SIGNATURE + b"".join(parts)).count == 4
    with pytest.raises(InvalidPicture, match=message):
        decoders.decode(PNG, pictures.SIGNATURE + b"".join(DAMAGED[message](parts)))


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("place", [8, -1])
def test_a_wrong_checksum_of_any_chunk_is_rejected(index: int, place: int) -> None:
    """Of those that Pillow skips, too: the file is damaged."""
    parts = chunks_of(raw_png(4, 4, bytes(8)))
    parts[1:1] = [chunk(b"tEXt", b"a\0b"), chunk(b"PLTE", bytes(3))]
    parts.insert(-1, chunk(b"eXIf", b"\0"))
    damaged = bytearray(parts[index])
    damaged[place] ^= 1
    parts[index] = bytes(damaged)
    with pytest.raises(InvalidPicture, match="wrong checksum"):
        decoders.decode(PNG, pictures.SIGNATURE + b"".join(parts))


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


def test_a_png_of_very_many_chunks_is_rejected_at_once() -> None:
    whole = png_of(sheet(1, 1))
    more = chunk(b"tEXt") * 5_000_000
    started = time.thread_time()
    with pytest.raises(InvalidPicture, match="chunks"):
        decoders.decode(PNG, whole[:33] + more + whole[33:])
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(("content_type", "write"), WRITERS[:3])
def test_what_is_cut_short_is_rejected_without_a_leak(
    content_type: str, write: Callable[[Any], bytes]
) -> None:
    body = write(sheet(9, 9))
    with pytest.raises(EmptyPayload):
        decoders.decode(content_type, b"")
    for length in range(1, len(body) - (content_type == PBM)):
        with pytest.raises(InvalidPicture) as caught:
            decoders.decode(content_type, body[:length])
        assert "0x" not in str(caught.value)
        assert "<" not in str(caught.value)


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        *(
            (PNG, png(Image.new("1", (w, h))), f"{w}x{h} pixels")
            for w, h in ((3, 2), (2, 3), (1, 1))
        ),
        *((PNG, png(Image.new(mode, (2, 2))), CONVERT) for mode in ("RGB", "RGBA", "LA", "I;16")),
        (PNG, palette_png_of(np.full((2, 2), 3), range(12)), "mode 'P'"),
        *(
            (PBM, b"P5\n2 2\n255\n" + bytes(4), CONVERT),
            (PBM, b"P6\n2 2\n255\n" + bytes(12), CONVERT),
        ),
        *(
            (PNG, raw_pbm_of(sheet(2, 2)), "of that type"),
            (PBM, png_of(sheet(2, 2)), "of that type"),
        ),
        *((PNG, raw_png(1 << 20, 1 << 20), "at most"), (PBM, b"P4\n4000000 4000000\n", "at most")),
    ],
)
def test_other_pictures_are_rejected(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidPicture, match=message):
        decoders.decode(content_type, body)


@pytest.mark.parametrize("size", [(2050, 2048), (10_000, 10_000)])
def test_a_sheet_over_the_limit_is_rejected_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(TooManyImages, match=f"{size[0] * size[1] // 4} images"):
        decoders.decode(PNG, raw_png(*size))


@given(st.sampled_from([PNG, PBM]), st.binary(max_size=300), st.binary(max_size=40))
def test_arbitrary_bytes_give_only_our_errors(content_type: str, tail: bytes, cut: bytes) -> None:
    starts = {PNG: png_of(sheet(2, 2)), PBM: b"P4 4 2 "}
    body = starts[content_type][: 8 + len(cut)] + tail
    try:
        assert decoders.decode(content_type, body).count >= 1
    except DiagonalFlipError as error:
        assert error.status in (400, 413)


def read_greys(body: bytes) -> npt.NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(body))
    assert (picture.format, picture.mode) == ("PNG", "L")
    return np.asarray(picture)


def test_greys_are_clipped_scaled_and_rounded_half_to_even() -> None:
    values = np.array([[-1, 2, 0.5, 1.5 / 255]], dtype=np.float32)
    greys = read_greys(pictures.encode_png(pack([0]), values))
    assert greys.tolist() == [[0, 255], [128, 2]]


@pytest.mark.parametrize(
    ("count", "columns", "size"),
    [(6, 3, (4, 6)), (6, 6, (2, 12)), (1, 0, (2, 2)), (5, 0, (4, 6)), (9, 0, (6, 6))],
)
def test_tiles_lie_as_in_the_picture_sent_else_in_a_square(
    count: int, columns: int, size: tuple[int, int]
) -> None:
    packed = pack(np.arange(count))
    images = Images(packed.packed, count, columns)
    values = np.arange(1, count * 4 + 1, dtype=np.float32).reshape(-1, 4) / np.float32(255)
    greys = read_greys(pictures.encode_png(images, values))
    assert greys.shape == size
    wide = size[1] // 2
    for index in range(count):
        top, left = 2 * (index // wide), 2 * (index % wide)
        tile = greys[top : top + 2, left : left + 2].reshape(-1)
        assert tile.tolist() == [4 * index + 1, 4 * index + 2, 4 * index + 3, 4 * index + 4]
    assert greys.astype(int).sum() == sum(range(1, count * 4 + 1)), "unused tiles are black"


def test_a_million_comments_take_no_longer_than_their_bytes() -> None:
    started = time.process_time()
    content = b"P1 2 2\n1 0" + b"#\n" * (1 << 20) + b"1#1\r1 # the end"
    assert unpack(decoders.decode(PBM, content)).tolist() == [11]
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("width", "height", "interlaced", "needed"),
    [(2, 2, 0, 4), (10, 6, 0, 18), (2, 2, 1, 2 + 2 + 2), (8, 8, 1, 2 + 2 + 2 + 4 + 4 + 8 + 8)],
)
def test_a_png_without_data_for_all_its_rows_is_not_whole(
    width: int, height: int, interlaced: int, needed: int
) -> None:
    whole = raw_png(width, height, bytes(needed), interlaced)
    assert decoders.decode(PNG, whole).count == width * height // 4
    with pytest.raises(InvalidPicture):
        decoders.decode(PNG, raw_png(width, height, bytes(needed - 1), interlaced))
    with pytest.raises(InvalidPicture):
        decoders.decode(PNG, raw_png(width, height + 2, bytes(needed), interlaced))

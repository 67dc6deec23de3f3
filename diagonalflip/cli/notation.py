"""Images as people write them on a command line, and as they are drawn for people."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from diagonalflip.errors import InvalidImage

READING = """
Each IMAGE is read by the first rule that fits it:

1. 0x and hex digits: one image a digit (0xb6 is two images).

2. 0b and one to four bits: one image (0b0110 is 6, and so is 0b110).

3. Exactly four characters, all 0 or 1: the bits of one image (1011 is 11).

4. One or two decimal digits, at most 15: one image by its number (11 is eleven).

5. Any other hex digits: one image a digit (b6f0 is four images, 16 is 1 and 6).

Where 3 or 4 would read your hex digits, write 0x before them: 0x1011, 0x11.
"""

_RULES = (
    (re.compile(r"0x([0-9a-f]+)"), 16),
    (re.compile(r"0b([01]{1,4})"), 2),
    (re.compile(r"([01]{4})"), 2),
    (re.compile(r"(0?[0-9]|1[0-5])"), 10),
    (re.compile(r"(?!0b)([0-9a-f]+)"), 16),
)


BLOCKS, ASCII = "░█", ".#"
"""To draw pixels 0 and 1 with."""


def read_images(words: Iterable[str]) -> list[int]:
    """Image numbers, 0-15, of words; see ``READING``.

    Raises:
        InvalidImage: A word is none of these; the first one is named.
    """
    return [number for word in words for number in _read_word(word)]


def _read_word(word: str) -> list[int]:
    for pattern, base in _RULES:
        if match := pattern.fullmatch(word.lower()):
            digits = match[1]
            return [int(digit, 16) for digit in digits] if base == 16 else [int(digits, base)]
    raise InvalidImage(
        f"the image {word!r}",
        "four bits, 0b and bits, a number 0 to 15, or hex digits",
        "see diagonalflip predict --help",
    )


def draw(number: int, prediction: npt.NDArray[np.float32], blocks: str) -> str:
    """Two lines: an image of 2x2 blocks, its pixels' predictions beside it.

    Args:
        number: Of the image.
        prediction: ``float32[4]``.
        blocks: A character for pixel 0, and one for pixel 1.
    """
    bits = f"{number:04b}"
    lines = []
    for row, label in enumerate((bits, " " * 4)):
        picture = "".join(2 * blocks[int(bit)] for bit in bits[2 * row : 2 * row + 2])
        numbers = "".join(f"{value:>10.4f}" for value in prediction[2 * row : 2 * row + 2])
        lines.append(f"{label}  {picture}{numbers}")
    return "\n".join(lines)


def draw_flip(image: str, flip: str, blocks: str) -> str:
    """Two lines: an image and its flip, both given as four bits."""
    rows = []
    arrow = "->" if blocks == ASCII else "→"
    for place, bits in ((0, f"{image} {arrow} {flip}"), (2, " " * (10 + len(arrow)))):
        drawn = [
            "".join(2 * blocks[int(b)] for b in each[place : place + 2]) for each in (image, flip)
        ]
        rows.append(f"{bits}  {'  '.join(drawn)}")
    return "\n".join(rows)


def blocks_for(encoding: str | None) -> str:
    """Characters to draw with that this encoding of stdout has, and an arrow too."""
    try:
        f"{BLOCKS}→".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS

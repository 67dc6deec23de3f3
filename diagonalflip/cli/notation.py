"""Read images that people type on a command line, and draw images for people."""

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
"""Characters for pixels 0 and 1."""


def read_images(words: Iterable[str]) -> list[int]:
    """Return the image numbers, 0-15, of words; see ``READING``.

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


def draw(image: str, prediction: npt.NDArray[np.float32], blocks: str) -> str:
    """Draw an image of four bits in two lines, with the prediction ``float32[4]`` beside it."""
    upper, lower = _rows(image, blocks)
    a, b, c, d = (f"{value:>z10.4f}" for value in prediction)
    return f"{image}  {upper}{a}{b}\n{' ' * 4}  {lower}{c}{d}"


def draw_flip(image: str, flip: str, blocks: str) -> str:
    """Draw an image and its flip, both given as four bits, in two lines."""
    label = f"{image} {'->' if blocks == ASCII else '→'} {flip}"
    (upper, lower), (flipped_upper, flipped_lower) = _rows(image, blocks), _rows(flip, blocks)
    return f"{label}  {upper}  {flipped_upper}\n{' ' * len(label)}  {lower}  {flipped_lower}"


def _rows(image: str, blocks: str) -> tuple[str, str]:
    """Draw the upper and the lower row of an image, each pixel two characters wide."""
    drawn = "".join(2 * blocks[int(bit)] for bit in image)
    return drawn[:4], drawn[4:]


def blocks_for(encoding: str | None) -> str:
    """Return characters to draw with that are in an encoding: blocks if it has an arrow, too."""
    try:
        f"{BLOCKS}→".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS

"""Images as they are written on a command line, and drawn."""

from __future__ import annotations

import numpy as np
import pytest

from diagonalflip import errors
from diagonalflip.cli.notation import blocks_for, draw, read_images


@pytest.mark.parametrize(
    ("word", "numbers"),
    [
        *(("1011", [11]), ("0000", [0]), ("0b0110", [6]), ("0b110", [6]), ("0B1", [1])),
        *(("11", [11]), ("7", [7]), ("07", [7]), ("00", [0]), ("15", [15]), ("16", [1, 6])),
        *(("b6f0", [11, 6, 15, 0]), ("B", [11]), ("011", [0, 1, 1]), ("1012", [1, 0, 1, 2])),
        *(("10110", [1, 0, 1, 1, 0]), ("0x11", [1, 1]), ("0x1011", [1, 0, 1, 1])),
        ("0X0b6", [0, 11, 6]),
    ],
)
def test_an_image_is_read_in_one_way(word: str, numbers: list[int]) -> None:
    assert read_images([word]) == numbers


@pytest.mark.parametrize("word", ["", "g", "0b", "0b2", "0b6f", "0b01101", "0x", "-1", "1.0", "²"])
def test_anything_else_is_no_image(word: str) -> None:
    with pytest.raises(errors.InvalidImage, match="The image"):
        read_images(["1", word])


def test_an_image_is_drawn_beside_its_prediction() -> None:
    prediction = np.array([0.1, -0.1, -0.00004, -0.25], np.float32)
    assert draw("1011", prediction, "░█") == (
        "1011  ██░░    0.1000   -0.1000\n      ████    0.0000   -0.2500"
    )


@pytest.mark.parametrize(
    ("encoding", "blocks"), [("utf-8", "░█"), ("latin-1", ".#"), (None, ".#"), ("none", ".#")]
)
def test_blocks_are_characters_that_the_terminal_has(encoding: str | None, blocks: str) -> None:
    assert blocks_for(encoding) == blocks

"""Mutations without coverage: for tests, and where there is no libFuzzer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

LONGEST = 4096
"""Bytes of a mutant at most."""

TELLING = (0, 1, 2, 15, 16, 35, 126, 127, 128, 192, 255)
"""Bytes at the public listener of something."""


def mutants(seeds: Sequence[bytes], tokens: Sequence[bytes], number: int) -> Iterator[bytes]:
    """The seeds, then mutants of them for ever; the same ones for the same ``number``."""
    random = Random(number)  # noqa: S311 -- it is to be repeatable
    yield from seeds
    while True:
        mutant = bytearray(random.choice(seeds))
        for _ in range(random.choice((1, 1, 2, 3, 5, 8))):
            _mutate(mutant, random, seeds, tokens)
        yield bytes(mutant[:LONGEST])


def _mutate(
    mutant: bytearray, random: Random, seeds: Sequence[bytes], tokens: Sequence[bytes]
) -> None:
    """Changes ``mutant`` once, in one of seven ways."""
    at = random.randint(0, len(mutant))
    end = min(len(mutant), at + random.choice((1, 1, 2, 4, 16, 64)))
    way = random.randrange(7)
    if way == 0:
        mutant[at:end] = b""
    elif way == 1:
        mutant[at:at] = mutant[at:end] * random.choice((1, 2, 8))
    elif way == 2:
        mutant[at:end] = random.choice(tokens)
    elif way == 3:
        mutant[at:at] = random.choice(tokens)
    elif way == 4:
        mutant[at:] = random.choice(seeds)[at:]
    elif at < len(mutant):
        mutant[at] = random.choice(TELLING) if way == 5 else mutant[at] ^ 1 << random.randrange(8)

"""Parts of both targets: decisions from fuzz bytes, mutants of them, an execution's findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from random import Random
from typing import NamedTuple

MARK = b"~"

LONGEST = 4096  # bytes of a mutant at most
TELLING = (0, 1, 2, 15, 16, 35, 126, 127, 128, 192, 255)  # bytes at the edges of ranges
SINGLE = 192  # up to here, a byte that says how often a piece is repeated says once
FLOOR_BYTES = 1 << 10  # a request counts as so long: what it costs in any case is no byte's
KNOWN = 224  # up to here, a byte that says what a header is chooses from a list


class Execution(NamedTuple):
    """One execution without a finding: the request's form and bytes, and processor time."""

    form: str
    length: int
    ns: int
    rejected: bool

    @property
    def ns_per_byte(self) -> float:
        """Processor time a byte, in nanoseconds."""
        return self.ns / max(FLOOR_BYTES, self.length)


class Source(BytesIO):
    """Reads decisions off fuzz bytes; after their end, every one is 0."""

    def byte(self) -> int:
        """The next byte."""
        return int.from_bytes(self.read(1), "big")

    def header(self, known: Sequence[str | None]) -> str | None:
        """One of ``known``, or a text of its own."""
        chosen = self.byte()
        if chosen < KNOWN:
            return known[chosen % len(known)]
        return self.read(self.byte()).decode("latin-1")


def header_bytes(value: str | None, known: Sequence[str | None]) -> bytes:
    """Bytes that ``Source.header`` reads as ``value``."""
    if value in known:
        return bytes([known.index(value)])
    text = (value or "").encode("latin-1")[:255]
    return bytes([255, len(text)]) + text


def repeat(data: bytes, times: int, longest: int) -> bytes:
    """``data`` with what lies between marks repeated, two such pieces at most.

    Args:
        data: The bytes, marks included.
        times: As drawn; from ``SINGLE`` on, every third value doubles the number.
        longest: Bytes that a piece may fill.
    """
    parts = data.split(MARK, 4)
    if times < SINGLE or len(parts) < 3:
        return data
    pieces = parts[1::2]
    number = min(2 << (times - SINGLE) // 3, longest // max(1, *map(len, pieces)))
    parts[1::2] = [piece * number for piece in pieces]
    return b"".join(parts)


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

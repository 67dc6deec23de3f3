"""Media types: reading ``Content-Type`` and choosing an answer by ``Accept`` (RFC 9110)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from diagonalflip.errors import UnsupportedMediaType


@dataclass(frozen=True)
class MediaType:
    """``type/subtype`` in lower case, and its parameters with lower-case names."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)


@lru_cache(maxsize=256)
def parse_media_type(value: str) -> MediaType:
    """Reads a ``Content-Type``, or a range of ``Accept``; rubbish becomes an unknown type."""
    name, *rest = value.split(";")
    parameters = {}
    for part in rest:
        key, _, text = part.partition("=")
        parameters[key.strip().lower()] = text.strip().strip('"')
    return MediaType(name.strip().lower(), parameters)


@lru_cache(maxsize=256)
def negotiate(accept: str, offers: Sequence[str]) -> str | None:
    """The best of ``offers`` for an ``Accept`` header, RFC 9110 section 12.5.1.

    Args:
        accept: The header; empty means anything.
        offers: Media types the server can answer, the one it prefers first. Hashable.

    Returns:
        One of ``offers``, or None if the client takes none of them.
    """
    if not accept.strip():
        return offers[0]
    ranges = [parse_media_type(part) for part in accept.split(",") if part.strip()]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    return best if _quality(best, ranges) > 0 else None


def _quality(offer: str, ranges: Sequence[MediaType]) -> float:
    """The weight that the most specific range gives to ``offer``; 0 if none matches."""
    kind = offer.partition("/")[0]
    for pattern in (offer, f"{kind}/*", "*/*"):
        weights = [_weight(r) for r in ranges if r.name == pattern]
        if weights:
            return max(weights)
    return 0.0


def _weight(media_range: MediaType) -> float:
    try:
        weight = float(media_range.parameters.get("q", "1"))
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def check_charset(media_type: MediaType) -> None:
    """Raises UnsupportedMediaType for a text that is not said to be UTF-8."""
    charset = media_type.parameters.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {charset!r}", "UTF-8")

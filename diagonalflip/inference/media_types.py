"""Media types: reading ``Content-Type``, telling a file's, choosing by ``Accept`` (RFC 9110)."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PureWindowsPath

from diagonalflip.errors import UnsupportedMediaType
from diagonalflip.wire import FORMS, JSON, NPY, OCTETS, PBM, PNG, SUFFIXES, Body

GENERIC = ("", OCTETS)
"""What senders of files say of those that they know nothing of."""

BEGINNINGS = {
    PNG: re.compile(rb"\x89PNG\r\n\x1a\n"),
    PBM: re.compile(rb"P[14]\s+(?:#[^\n]*\n\s*)*[0-9]+\s"),
    JSON: re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"[^"]*"\s*:'),
    NPY: re.compile(rb"\x93NUMPY"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff(?:\xe0..JFIF|\xe1..Exif)\0", re.DOTALL),
    "application/zip": re.compile(rb"PK\x03\x04[\x0a\x14\x2d]\0"),
    "application/gzip": re.compile(rb"\x1f\x8b\x08[\0-\x1f].{4}[\0\2\4][\0-\x0d\xff]", re.DOTALL),
}
"""How files begin, by media type; each is too long for packed images to begin so by chance."""

MOST_BEGINNING = 1 << 12
"""Bytes in which a beginning must be complete: a PBM's may have comments."""


@dataclass(frozen=True)  # whose attributes are read faster than a tuple's
class MediaType:
    """``type/subtype`` in lower case, and its parameters with lower-case names."""

    name: str
    parameters: dict[str, str]


@lru_cache(maxsize=256)
def parse_media_type(value: str) -> MediaType:
    """Read a ``Content-Type``, or a range of ``Accept``; rubbish becomes an unknown type.

    A parameter that comes twice has both values, which is none that anybody knows.
    """
    name, *rest = value.split(";")
    parameters: dict[str, str] = {}
    for part in rest:
        key, _, text = part.partition("=")
        key, text = key.strip().lower(), text.strip().strip('"')
        parameters[key] = f"{parameters[key]}, {text}" if key and key in parameters else text
    return MediaType(name.strip().lower(), parameters)


def file_type(declared: str, content: Body, name: str = "") -> str:
    """Return the media type of a file in a form.

    Args:
        declared: Its ``Content-Type``. It wins unless it is generic, as curl's and browsers' is
            for suffixes that they do not know.
        content: The file.
        name: Its name; "" if it is not known.

    Raises:
        UnsupportedMediaType: A file's suffix and content say different things, or say
            what is none of ``FORMS``.
    """
    if parse_media_type(declared).name not in GENERIC:
        return declared
    named = _named(PureWindowsPath(name.strip()).suffix.lower())
    beginning = content[:MOST_BEGINNING]
    found = next((kind for kind, each in BEGINNINGS.items() if each.match(beginning)), "")
    if named and found and named != found:
        raise UnsupportedMediaType(
            f"the file {name[:60]!r} begins as {found} does",
            f"{named}, as its name says",
            "rename it, or name its type, with curl -F 'data=@FILE;type=TYPE'",
        )
    kind = named or found
    if kind and name and kind not in FORMS:
        raise UnsupportedMediaType(
            f"the file {name[:60]!r} is {kind}",
            " or ".join(suffix for suffix, each in SUFFIXES.items() if each in FORMS),
            "convert it; `diagonalflip predict --input FILE` reads .npy and .jsonl, too",
        )
    return declared or kind if kind in GENERIC else kind


@lru_cache(maxsize=256)
def _named(suffix: str) -> str:
    """Return the media type of a suffix, the same on every host; "" if none is known."""
    kind, coding = mimetypes.MimeTypes().guess_type(f"a{suffix}")
    return f"application/{coding}" if coding else SUFFIXES.get(suffix) or kind or ""


@lru_cache(maxsize=256)
def negotiate(accept: str, offers: Sequence[str]) -> str | None:
    """Return the best of ``offers`` for an ``Accept`` header (RFC 9110, section 12.5.1).

    Args:
        accept: The header; empty means anything.
        offers: Media types the server can answer, the one it prefers first. Hashable.

    Returns:
        One of ``offers``, or None if the client takes none of them.
    """
    ranges = [parse_media_type(part) for part in accept.split(",") if part.strip()]
    if not ranges:
        return offers[0]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    return best if _quality(best, ranges) > 0 else None


def _quality(offer: str, ranges: Sequence[MediaType]) -> float:
    """Return the weight that the most specific range gives to ``offer``; 0 if none matches."""
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
    """Raise UnsupportedMediaType for a text that is not said to be UTF-8."""
    charset = media_type.parameters.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {charset!r}", "UTF-8")

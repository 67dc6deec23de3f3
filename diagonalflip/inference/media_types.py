"""Media types: parse ``Content-Type``, detect a file's, choose by ``Accept`` (RFC 9110)."""

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
"""Types that clients send for files of unknown type."""

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
"""First bytes of files by media type; packed images are unlikely to begin so by chance."""

MOST_BEGINNING = 1 << 12
"""Bytes that are searched for a beginning: a PBM's may have comments."""


@dataclass(frozen=True)  # its attributes are faster than a NamedTuple's
class MediaType:
    """``type/subtype`` in lower case, and its parameters with lower-case names."""

    name: str
    parameters: dict[str, str]


@lru_cache(maxsize=256)
def parse_media_type(value: str) -> MediaType:
    """Parse a ``Content-Type``, or a range of ``Accept``; a malformed one is an unknown type.

    A parameter that is repeated gets both values, which makes it an unknown value.
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
        declared: Its ``Content-Type``. It wins unless it is generic: curl and browsers send a
            generic one for suffixes that they do not know.
        content: The file.
        name: Its name; "" if it is not known.

    Raises:
        UnsupportedMediaType: The file's suffix and content contradict each other, or its type is
            not one of ``FORMS``.
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
    """Return the media type of a suffix, independent of the host; "" if it is unknown."""
    kind, coding = mimetypes.MimeTypes().guess_type(f"a{suffix}")
    return f"application/{coding}" if coding else SUFFIXES.get(suffix) or kind or ""


def negotiate(accept: str, offers: Sequence[str]) -> str | None:
    """Return the best of ``offers`` for an ``Accept`` header (RFC 9110, section 12.5.1).

    Args:
        accept: The header; empty accepts anything.
        offers: Media types that the server can send, the preferred one first.

    Returns:
        One of ``offers``, or None if the client accepts none of them.
    """
    ranges = [parse_media_type(part) for part in accept.split(",") if part.strip()]
    if not ranges:
        return offers[0]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    return best if _quality(best, ranges) > 0 else None


def _quality(offer: str, ranges: Sequence[MediaType]) -> float:
    """Return the weight of ``offer`` by the most specific range; 0 if no range matches."""
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
    """Raise UnsupportedMediaType for a text that is declared as anything but UTF-8."""
    charset = media_type.parameters.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {charset!r}", "UTF-8")

"""Predictions to response bodies: one function a media type."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import orjson
from flip_media import JSON, PACKED, negotiate, parse_media_type

from diagonalflip.errors import DiagonalFlipError, NotAcceptable

Predictions = npt.NDArray[np.float32]


def choose(accept: str, content_type: str) -> str:
    """The media type to answer with: what ``Accept`` likes best, by default the request's own.

    Raises:
        NotAcceptable: ``accept`` rules out everything in ``ENCODERS``.
    """
    twin = parse_media_type(content_type).name
    offers = tuple(sorted(ENCODERS, key=lambda name: name != twin))
    chosen = negotiate(accept, offers)
    if chosen is None:
        raise NotAcceptable(f"Accept {accept[:100]!r}", " or ".join(ENCODERS))
    return chosen


def encode(media_type: str, predictions: Predictions) -> bytes:
    """Writes ``float32[n, 4]`` as ``media_type``, one of ``ENCODERS``."""
    return ENCODERS[media_type](predictions)


def encode_packed(predictions: Predictions) -> bytes:
    """Little-endian float32, four an image, in order."""
    return (predictions if sys.byteorder == "little" else predictions.byteswap()).tobytes()


def encode_json(predictions: Predictions) -> bytes:
    """``{"predictions": [[4 numbers], ...]}``; read as float32 they are exact."""
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_error(error: DiagonalFlipError) -> bytes:
    """An RFC 9457 problem document."""
    return orjson.dumps(error.problem())


ENCODERS: dict[str, Callable[[Predictions], bytes]] = {PACKED: encode_packed, JSON: encode_json}
"""Media type to encoder."""

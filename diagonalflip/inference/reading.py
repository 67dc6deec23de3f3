"""Read a request: what images it has, and in what form their predictions are asked for."""

from __future__ import annotations

from functools import lru_cache

from diagonalflip import wire
from diagonalflip.errors import DiagonalFlipError, ModelMismatch, NotAcceptable, RequestTooLarge
from diagonalflip.inference import content_codings, decoders, encoders, forms, pictures, v2
from diagonalflip.inference.media_types import negotiate, parse_media_type
from diagonalflip.message import Operation, Request
from diagonalflip.wire import MAX_EXPLAINED_IMAGES, MAX_IMAGES, Body, check_count

PREDICT, EXPLAIN, INFER = Operation  # looking a member up takes as long as calling a function

SAYING_WHAT = {"content-type", v2.HEADER_LENGTH}
"""Headers that describe a body; with one of them, an empty body is an error."""

EXPLANATION_COST = 64
"""Explaining an image takes about as long as 64 predictions."""

UNWRAPPED_BYTES = 1 << 18
"""Longest body that is decompressed before it is queued."""


def unwrap(request: Request, most: int = wire.MAX_BODY_BYTES) -> tuple[dict[str, str], Body]:
    """Return a request's headers and body, decompressed and taken out of a form.

    V2 has no forms; ``read`` raises the error for their media type.

    Raises:
        DiagonalFlipError: The body is malformed, or decompressed longer than ``most`` bytes.
    """
    headers, body = request.headers, request.body
    content_type = headers.get("content-type", "")
    is_form = content_type != wire.OCTETS and parse_media_type(content_type).name == wire.FORM
    if not is_form and "content-encoding" not in headers:  # the usual case
        return headers, body
    headers = dict(headers)
    body = content_codings.decoded(headers.pop("content-encoding", ""), body, most)
    if body and is_form and request.operation is not INFER:
        headers["content-type"], body = forms.file_of(content_type, body)
    return headers, body


def cost_of(request: Request) -> int:
    """Return the most work that a request can be, in predictions; unwrap a small body.

    The bound is what decoding begins with: the length of the body, for a PNG the size in its first
    chunk, for gzip the length at its end.
    """
    try:
        request.headers, request.body = unwrap(request, UNWRAPPED_BYTES)
    except RequestTooLarge:
        pass
    except DiagonalFlipError:
        return 1  # ``read`` raises the error again
    headers, body = request.headers, request.body
    media_type = parse_media_type(headers.get("content-type", "")).name
    if "content-encoding" in headers:
        length = content_codings.length_of(headers["content-encoding"], body)
        count = MAX_IMAGES if media_type in (wire.PNG, wire.FORM) else 2 * length
    else:
        count = pictures.count_of(body) if media_type == wire.PNG else 2 * len(body)
    if request.operation is EXPLAIN:
        return min(count, MAX_EXPLAINED_IMAGES) * EXPLANATION_COST
    return min(count, MAX_IMAGES)


def read(request: Request, version: str, model_digest: str) -> bool:
    """Set ``images``, ``form`` and ``write`` of a request; ``write`` stays None for explanations.

    ``version`` is that of the served model, and ``model_digest`` its SHA-256 (hex).

    Returns:
        False if it has no images, and so asks for the description.

    Raises:
        DiagonalFlipError: One with an HTTP status.
    """
    if "if-match" in request.headers:
        _check_model(request.headers["if-match"], model_digest)
    headers, body = unwrap(request)
    content_type, accept = headers.get("content-type", ""), headers.get("accept", "")
    request.form = wire.FORMS.get(parse_media_type(content_type).name, "")
    if request.operation is EXPLAIN:
        request.images = decoders.decode(content_type, body)
        check_count(request.images.count, MAX_EXPLAINED_IMAGES)
        return True
    is_empty = not body and request.operation is PREDICT
    if is_empty and (request.method in ("GET", "HEAD") or not headers.keys() & SAYING_WHAT):
        if negotiate(accept, (wire.JSON,)) is None:
            raise NotAcceptable(f"Accept {accept[:100]!r}", wire.JSON)
        return False
    inference = v2.read(headers, body, strict=request.operation is INFER)
    if inference is not None:
        request.images, request.form = inference.images, wire.V2
        request.write = lambda _, predictions: inference.answer(version, predictions)
        return True
    decode, request.write, most = forms_of(content_type, accept)
    request.images = decode(body)
    check_count(request.images.count, most)
    return True


@lru_cache(maxsize=256)
def forms_of(content_type: str, accept: str) -> tuple[decoders.Decoder, encoders.Encoder, int]:
    """Return decoder and encoder by a request's headers, and the most images for the encoder.

    Raises:
        InvalidPadding, UnsupportedMediaType: As ``decoder_of``.
        NotAcceptable: As ``choose``.
    """
    media_type = encoders.choose(accept, content_type)
    most = wire.MAX_TEXT_IMAGES if media_type in (wire.JSON, wire.TEXT) else MAX_IMAGES
    return decoders.decoder_of(content_type), encoders.ENCODERS[media_type], most


def _check_model(wanted: str, model_digest: str) -> None:
    tags = {tag.strip().strip('"').lower() for tag in wanted.split(",")}
    if wanted.strip() != "*" and model_digest not in tags:
        raise ModelMismatch(
            f"If-Match {wanted[:100]!r}",
            f'"{model_digest}", the model served here',
            "fetch the manifest that belongs to this server, or leave If-Match out",
        )

"""Read a request: it becomes a job with images for the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from diagonalflip import wire
from diagonalflip.errors import DiagonalFlipError, ModelMismatch, NotAcceptable, RequestTooLarge
from diagonalflip.inference import content_codings, decoders, encoders, forms, pictures, v2
from diagonalflip.inference.encoders import Written
from diagonalflip.inference.media_types import negotiate, parse_media_type
from diagonalflip.message import Operation, Request
from diagonalflip.wire import MAX_EXPLAINED_IMAGES, MAX_IMAGES, Body, Images, check_count

SAYING_WHAT = {"content-type", v2.HEADER_LENGTH}
"""Headers that describe a body; with one of them, an empty body is an error."""

EXPLANATION_COST = 64
"""Explaining an image takes about as long as 64 predictions."""

UNWRAPPED_BYTES = 1 << 18
"""Longest body that is decompressed before it is queued."""


@dataclass(slots=True)
class Job:
    """A request on its way through the network.

    Attributes:
        request: The request.
        images: The images to predict.
        write: Encodes predictions ``float32[n, 4]`` in the form that was asked for; for an
            explanation, it takes the weights as well.
        form: The form of the images in the request, one of ``FORMS``' values.
        decode_s: Seconds that reading took.
    """

    request: Request
    images: Images
    write: Callable[..., Written]
    form: str
    decode_s: float = 0.0


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
    if body and is_form and request.operation is not Operation.INFER:
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
    if request.operation is Operation.EXPLAIN:
        return min(count, MAX_EXPLAINED_IMAGES) * EXPLANATION_COST
    return min(count, MAX_IMAGES)


def read(request: Request, version: str, model_digest: str) -> Job | None:
    """Read one request; return None if it has no images, and so asks for the description.

    ``version`` is that of the served model, and ``model_digest`` its SHA-256 (hex).

    Raises:
        DiagonalFlipError: One with an HTTP status.
    """
    if "if-match" in request.headers:
        _check_model(request.headers["if-match"], model_digest)
    headers, body = unwrap(request)
    content_type, accept = headers.get("content-type", ""), headers.get("accept", "")
    form = wire.FORMS.get(parse_media_type(content_type).name, "")
    if request.operation is Operation.EXPLAIN:
        images = decoders.decode(content_type, body)
        check_count(images.count, MAX_EXPLAINED_IMAGES)
        return Job(request, images, partial(encoders.explain, images), form)
    is_empty = not body and request.operation is Operation.PREDICT
    if is_empty and (request.method in ("GET", "HEAD") or not headers.keys() & SAYING_WHAT):
        if negotiate(accept, (wire.JSON,)) is None:
            raise NotAcceptable(f"Accept {accept[:100]!r}", wire.JSON)
        return None
    inference = v2.read(headers, body, strict=request.operation is Operation.INFER)
    if inference is not None:
        return Job(request, inference.images, partial(inference.answer, version), wire.V2)
    media_type = encoders.choose(accept, content_type)
    images = decoders.decode(content_type, body)
    if media_type in (wire.JSON, wire.TEXT):
        check_count(images.count, wire.MAX_TEXT_IMAGES)
    return Job(request, images, partial(encoders.ENCODERS[media_type], images), form)


def _check_model(wanted: str, model_digest: str) -> None:
    tags = {tag.strip().strip('"').lower() for tag in wanted.split(",")}
    if wanted.strip() != "*" and model_digest not in tags:
        raise ModelMismatch(
            f"If-Match {wanted[:100]!r}",
            f'"{model_digest}", the model served here',
            "fetch the manifest that belongs to this server, or leave If-Match out",
        )

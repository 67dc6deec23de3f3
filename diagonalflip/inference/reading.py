"""A request, read: a job with images for the network, or None where it says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from diagonalflip.errors import DiagonalFlipError, ModelMismatch, NotAcceptable, RequestTooLarge
from diagonalflip.inference import content_codings, decoders, encoders, forms, pictures, v2
from diagonalflip.inference.forms import Body
from diagonalflip.inference.media_types import negotiate, parse_media_type
from diagonalflip.message import Operation, Request
from diagonalflip.wire import (
    FORM,
    FORMS,
    JSON,
    MAX_BODY_BYTES,
    MAX_EXPLAINED_IMAGES,
    MAX_IMAGES,
    MAX_TEXT_IMAGES,
    OCTETS,
    PNG,
    TEXT,
    V2,
    Images,
    check_count,
)

SAYING_WHAT = {"content-type", v2.HEADER_LENGTH}
"""Headers that say what a body is; a body that is empty nevertheless is a mistake."""

EXPLANATION_COST = 64
"""Explaining an image takes about as long as so many predictions."""

UNWRAPPED_BYTES = 1 << 18
"""Longest body that is taken out of its compression before it waits."""

Rows = npt.NDArray[np.float32]
Written = tuple[bytes, str, dict[str, str]]
"""Body, ``Content-Type``, and further headers."""


@dataclass(slots=True)
class Job:
    """A request on its way through the network.

    Attributes:
        request: What it was.
        images: What is to be predicted.
        write: Writes predictions ``float32[n, 4]`` in the form that was asked for; the steps
            of an explanation from these and the weights.
        form: In which they came, one of ``FORMS``' values.
        explains: Whether it takes every step.
        decode_s: How long reading took.
    """

    request: Request
    images: Images
    write: Callable[..., Written]
    form: str
    explains: bool = False
    decode_s: float = 0.0

    @property
    def cost(self) -> int:
        """Its work, in predictions."""
        return self.images.count * (EXPLANATION_COST if self.explains else 1)


def unwrap(request: Request, most: int = MAX_BODY_BYTES) -> tuple[dict[str, str], Body]:
    """Take a request's body out of its compression and out of its form.

    V2 has no forms: their type is an error, which ``read`` raises.

    Args:
        request: It stays as it is.
        most: Bytes that the body may have without its compression.

    Returns:
        Headers and body of the same request without compression and form.

    Raises:
        DiagonalFlipError: It is broken, or longer.
    """
    headers = dict(request.headers)
    body = content_codings.decoded(headers.pop("content-encoding", ""), request.body, most)
    if body and _is_form(request):
        headers["content-type"], body = forms.file_of(headers["content-type"], body)
    return headers, body


def cost_of(request: Request) -> int:
    """Return the most work that a request can be, in predictions; a small body is unwrapped.

    It is estimated by what decoding begins with, and is bounded by the length of the body, of a
    PNG by the size in its head, of gzip by the length at its end.
    """
    if _is_wrapped(request):
        try:
            request.headers, request.body = unwrap(request, UNWRAPPED_BYTES)
        except RequestTooLarge:
            pass
        except DiagonalFlipError:
            return 1  # ``read`` says what is wrong with it
    headers, body = request.headers, request.body
    content_type = headers.get("content-type", "")
    media_type = content_type if content_type == OCTETS else parse_media_type(content_type).name
    if "content-encoding" in headers:
        length = content_codings.length_of(headers["content-encoding"], body)
        count = MAX_IMAGES if media_type in (PNG, FORM) else 2 * length
    else:
        count = pictures.count_of(body) if media_type == PNG else 2 * len(body)
    if request.operation is Operation.EXPLAIN:
        return min(count, MAX_EXPLAINED_IMAGES) * EXPLANATION_COST
    return min(count, MAX_IMAGES)


def _is_wrapped(request: Request) -> bool:
    headers = request.headers
    is_packed = headers.get("content-type") == OCTETS  # as most are
    return "content-encoding" in headers or (not is_packed and _is_form(request))


def _is_form(request: Request) -> bool:
    name = parse_media_type(request.headers.get("content-type", "")).name
    return name == FORM and request.operation is not Operation.INFER


def read(request: Request, version: str, model_digest: str) -> Job | None:
    """Read one request; return None if it says nothing, and so asks what is served.

    Args:
        request: From any listener.
        version: The version of the model that is served.
        model_digest: SHA-256 (hex) of that model.

    Raises:
        DiagonalFlipError: One of those that travel over HTTP.
    """
    headers = request.headers
    if "if-match" in headers:
        _check_model(headers["if-match"], model_digest)
    body = request.body
    if _is_wrapped(request):
        headers, body = unwrap(request)
    content_type, accept = headers.get("content-type", ""), headers.get("accept", "")
    form = FORMS.get(parse_media_type(content_type).name, "")
    if request.operation is Operation.EXPLAIN:
        images = decoders.decode(content_type, body)
        check_count(images.count, MAX_EXPLAINED_IMAGES)
        return Job(request, images, partial(_explained, images), form, explains=True)
    if request.operation is Operation.PREDICT and not body and not headers.keys() & SAYING_WHAT:
        if negotiate(accept, (JSON,)) is None:
            raise NotAcceptable(f"Accept {accept[:100]!r}", JSON)
        return None
    inference = v2.read(headers, body, strict=request.operation is Operation.INFER)
    if inference is not None:
        return Job(request, inference.images, partial(inference.answer, version), V2)
    media_type = encoders.choose(accept, content_type)
    images = decoders.decode(content_type, body)
    if media_type in (JSON, TEXT):
        check_count(images.count, MAX_TEXT_IMAGES)
    return Job(request, images, partial(_encoded, media_type, images), form)


def _encoded(media_type: str, images: Images, predictions: Rows) -> Written:
    return *encoders.encode(media_type, images, predictions), {}


def _explained(images: Images, predictions: Rows, weights: dict[str, Rows]) -> Written:
    return *encoders.explain(images, predictions, weights), {}


def _check_model(wanted: str, model_digest: str) -> None:
    if wanted.strip() != "*" and model_digest not in {
        tag.strip().strip('"').lower() for tag in wanted.split(",")
    }:
        raise ModelMismatch(
            f"If-Match {wanted[:100]!r}",
            f'"{model_digest}", the model served here',
            "fetch the manifest that belongs to this server, or leave If-Match out",
        )

"""Read a server's response: a checked array, or the error that it stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip import errors
from diagonalflip.client._endpoint import FLIPS, Form, Reply
from diagonalflip.wire import PIXELS, TOLERANCE, WIRE_VERSION

WORKER_DIED = "Worker died."
"""TorchServe's message in JSON for the requests of a worker that has died.

The status is 500, or 507 after SIGKILL, which TorchServe takes for a lack of memory.
"""

Other = tuple[type[errors.DiagonalFlipError], str, str]
OTHERS: dict[int, Other] = {
    401: (errors.NotAuthorized, "an accepted token", "check the token"),
    403: (errors.NotAuthorized, "an accepted token", "check the token"),
    404: (errors.ModelNotFound, "a model of that name", "check url and model"),
    408: (errors.RequestTimeout, "the whole request in time", "send it again"),
    429: (errors.RateLimited, "fewer requests", "send it again later"),
    503: (errors.ServerOverloaded, "an answer", "send it again later"),
    **dict.fromkeys(
        (502, 504, *range(520, 525)),
        (errors.ConnectionFailed, "an answer from behind the gateway", "send it again"),
    ),
}
"""Errors for statuses of TorchServe and proxies; 520 to 524 are Cloudflare's."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Description of a server.

    Attributes:
        version: The model's version.
        flips: How many of the 16 images that version flips.
        model_digest: SHA-256 (hex) of the model, for ``Client(model_digest=...)``.
        wire_version: The wire format's version.
        workers: Number of workers that the server was started with; None if it does not know.
        device: ``cpu``, or ``cuda:0`` and so on, of the worker that answered.
        device_name: The device's model name.
        runtime: The library that runs the network.
        max_images: Most images in one request.
        max_explained_images: Most images in one request to ``/explanations``.
        largest_deviation: Of the 16 images' predictions on that device, from the parity report.
        batch_invariant: Whether that worker gives an image the same bits in every batch.
    """

    version: str
    flips: int
    model_digest: str
    wire_version: str
    workers: int | None
    device: str
    device_name: str
    runtime: str
    max_images: int
    max_explained_images: int
    largest_deviation: float
    batch_invariant: bool


def read(reply: Reply, count: int, form: Form) -> npt.NDArray[Any]:
    """Return the answer for ``count`` images, ``form.dtype[count, *form.shape]``.

    Raises:
        DiagonalFlipError: The server rejected the request, or its answer is not what was asked for.
    """
    if reply.status != 200:
        raise rejection(reply, count)
    headers, media_type = reply.headers, form.content_type(count)
    got = headers.get("Content-Type") or ""
    if got != media_type and _media_type(got) != _media_type(media_type):
        raise errors.InvalidAnswer(f"Content-Type: {got}", media_type, _LOOK)
    if (coding := headers.get("Content-Encoding", "")).lower() not in ("", "identity"):
        raise errors.InvalidAnswer(f"Content-Encoding: {coding}", "none", _LOOK)
    for name, expected in (("Flip-Images", str(count)), ("Flip-Wire-Version", WIRE_VERSION)):
        if (found := headers.get(name, expected)) != expected:
            raise errors.InvalidAnswer(f"{name}: {found}", expected, _LOOK)
    length, wanted = len(reply.body), form.length_bytes(count)
    if length != wanted:
        more = "or more " if length > wanted else ""
        got = f"a body of {length} bytes {more}for {count} images"
        raise errors.InvalidAnswer(got, f"{wanted} bytes", _LOOK)
    if form is FLIPS and headers.get("Flip-Flips") != "16":
        raise does_not_flip(headers.get("Flip-Model-Version"), headers.get("Flip-Flips"))
    return form.decode(reply.body, count)


def does_not_flip(version: object, flips: object) -> errors.ModelDoesNotFlip:
    """Return the error for a version that was asked for flips but does not flip all images."""
    return errors.ModelDoesNotFlip(
        f"version {version}, which flips {flips} of 16 images",
        "a version that flips all of them",
        "name one: version=...",
    )


_LOOK = "check that the URL is a DiagonalFlipNet server and what proxies on the way do"


def rejection(reply: Reply, count: int) -> errors.DiagonalFlipError:
    """Return the error that a status other than 200 stands for."""
    problem = _document(reply.body)
    status = reply.status
    if status == errors.TooManyImages.status:
        return _too_many(reply, count)
    reason = problem.get("message") or problem.get("detail") or reply.headers.get("Location")
    reason = str(reason or bytes(reply.body[:200]))
    kind = errors.KINDS.get(str(problem.get("code")))
    if kind is not None and kind.status == status:
        error = kind(*(str(problem.get(name, "")) for name in ("got", "expected", "action")))
    else:
        other: Other = (errors.InvalidAnswer, "status 200", _LOOK)
        if status >= 500 and problem.get("message") == WORKER_DIED:
            other = (errors.InternalError, "an answer", "send it again")
        kind, expected, action = OTHERS.get(status, other)
        error = kind(f"status {status}: {reason}", expected, action)
    if isinstance(error, errors.RateLimited | errors.ServerOverloaded):
        error.retry_after_s = _seconds(reply.headers.get("Retry-After", ""))
    return error


def info(reply: Reply) -> ServerInfo:
    """Return the description of a server.

    Raises:
        DiagonalFlipError: The server rejected the request, or its answer lacks a field.
    """
    names = [field.name for field in fields(ServerInfo)]
    found = document(reply, "a server's description", names)
    return ServerInfo(**{name: found[name] for name in names})


def document(reply: Reply, expected: str, members: Iterable[str]) -> dict[str, Any]:
    """Return the JSON object that a server answered with.

    Raises:
        DiagonalFlipError: The server rejected the request, or answered with something else.
    """
    if reply.status != 200:
        raise rejection(reply, 0)
    found = _document(reply.body)
    if missing := set(members) - found.keys():
        got = f"an answer that lacks {min(missing)!r}" if found else "no JSON object"
        raise errors.InvalidAnswer(got, expected, _LOOK)
    return found


def check_all_16(
    together: npt.NDArray[np.float32], alone: Sequence[npt.NDArray[np.float32]]
) -> None:
    """Check predictions of all images: ``float32[16, 4]``, and 16 times ``float32[1, 4]``.

    Raises:
        InvalidAnswer: One is not finite, or differs between alone and together.
    """
    if not np.isfinite(together).all():
        raise errors.InvalidAnswer("a prediction is not finite", "finite numbers", _LOOK)
    if not agree(together, np.concatenate(alone).reshape(-1, PIXELS)):
        raise errors.InvalidAnswer(
            "an image is predicted differently alone and in a batch", "the same prediction"
        )


def check_out(out: object, count: int) -> None:
    """Raise ClientError unless predictions of ``count`` images can be read into ``out``."""
    if (
        isinstance(out, np.ndarray)
        and out.dtype == np.dtype(np.float32)
        and out.shape == (count, PIXELS)
        and out.flags.c_contiguous
        and out.flags.writeable
    ):
        return
    got = f"{out.dtype}{list(out.shape)}" if isinstance(out, np.ndarray) else type(out).__name__
    raise errors.ClientError(f"out is {got}", f"a writable array float32[{count}, 4], row by row")


def agree(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> bool:
    """Return whether two answers for the same images, ``float32[n, 4]``, can both be right.

    Each may deviate from the exact prediction by the tolerance. Bits may differ: they depend
    on the processor, and a balancer may have sent two requests to two hosts.
    """
    return got.shape == wanted.shape and bool((np.abs(got - wanted) <= 2 * TOLERANCE).all())


def _too_many(reply: Reply, count: int) -> errors.DiagonalFlipError:
    """Return an error whose ``limit`` says how many images to send instead."""
    if count <= 1:
        return errors.InvalidAnswer(f"status 413 for {count} images", "status 200", _LOOK)
    published = number(reply, "Flip-Max-Images")
    # Without a number, or with a senseless one, send half.
    return errors.TooManyImages.of(count, published if 0 < published < count else count // 2)


def number(reply: Reply, name: str) -> int:
    """Return the number in a header; 0 if there is none, or a senseless one."""
    text = reply.headers.get(name, "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def _media_type(text: str) -> tuple[str, str]:
    """Return type and padding of a ``Content-Type``; other parameters do not matter."""
    header = Message()
    header["Content-Type"] = text
    return header.get_content_type(), str(header.get_param("padding", "0"))


def _seconds(retry_after: str) -> float:
    """Return ``Retry-After``, in seconds or as a date, as seconds from now; 0 if malformed."""
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", retry_after):
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def _document(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    try:
        document = json.loads(bytes(body))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}

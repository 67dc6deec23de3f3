"""One request and one response, whatever the transport.

A transport makes the ``Request``: our HTTP, TorchServe's handler, the supervisor's health check.
It knows of headers what the protocol says; behind it nobody looks at protocols again.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

from diagonalflip.errors import DiagonalFlipError
from diagonalflip.wire import JSON, MODEL, PROBLEM


class Operation(enum.StrEnum):
    """Kinds of requests."""

    PREDICT = "predict"
    """Predictions, in any form; of a request that says nothing, a description of the model."""

    EXPLAIN = "explain"
    INFER = "infer"
    """Predictions, by the Open Inference Protocol V2."""


HINTS: dict[int, dict[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"www-authenticate": "Bearer"},
    HTTPStatus.TOO_MANY_REQUESTS: {"retry-after": "1"},
    HTTPStatus.SERVICE_UNAVAILABLE: {"retry-after": "1"},
}
"""Headers that tell a client what to do about a status."""


def operations(version: str = "") -> dict[str, Operation]:
    """Return the paths of operations of a version, or of the default if none is named."""
    end, v2_end = (f"/{version}", f"/versions/{version}") if version else ("", "")
    return {
        f"/predictions/{MODEL}{end}": Operation.PREDICT,
        f"/explanations/{MODEL}{end}": Operation.EXPLAIN,
        f"/v2/models/{MODEL}{v2_end}/infer": Operation.INFER,
    }


def v2_paths(version: str = "") -> dict[str, str]:
    """Return the paths by which V2 describes the server and a version, and their documents."""
    path = f"/v2/models/{MODEL}" + (f"/versions/{version}" if version else "")
    return {"/v2": "server", path: "model", f"{path}/ready": "ready", f"{path}/config": "config"}


class Transport(Protocol):
    """What has made a request, and sends its response."""

    listener: str
    """Name of where it came in, for metrics; empty for a health check."""

    lost: bool
    """True once nobody waits for the response."""

    buffered: Any
    """What it keeps of the worker's memory: ``server.http.shares.Buffered``."""

    def reply(self, request: Request) -> None:
        """Send its response."""

    def abort(self) -> None:
        """End the connection at once."""


@dataclass
class Request:
    """One request, from its head until its response is sent (server/http/lifecycle.py).

    What is known later has its default in the class, so that making one costs little.

    Attributes:
        operation: What is asked of the model; None if nothing is.
        headers: By lower-case name; repeated ones are one, joined by commas.
        body: As it came, less the framing.
        service: The version of the model that answers, if a listener chose it.
        method, path: Of HTTP; empty if they could not be read.
        transport: What sends the response; None in TorchServe, which gets it returned.
        token: Name of the client's token, if the listener wants one.
        arrived: When its head had come, then when all of it had, in ``perf_counter``'s seconds.
        connection: What the response has to say of the connection, in the header of that name.
        cost: The most work that it can be, in predictions.
        job: What the service has read.
        response: As soon as it is known.
    """

    operation: Operation | None
    headers: dict[str, str]
    body: bytes | bytearray = b""
    service: Any = None
    method: str = ""
    path: str = ""
    transport: Transport = None  # type: ignore[assignment]
    token: str = field(default="", init=False)
    arrived: float = field(default=0.0, init=False)
    connection: str = field(default="", init=False)
    cost: int = field(default=0, init=False)
    job: Any = field(default=None, init=False)
    response: Response | None = field(default=None, init=False)

    def rejection(
        self, error: DiagonalFlipError, headers: dict[str, str] | None = None, *, v2: bool = False
    ) -> Response:
        """Make the response that tells of ``error``: RFC 9457, or V2's error object.

        Args:
            error: What is wrong.
            headers: Further ones.
            v2: Whether the client speaks V2, although its path does not say so.
        """
        status = int(error.status or HTTPStatus.INTERNAL_SERVER_ERROR)
        headers = HINTS.get(status, {}) | (headers or {})
        told, kind = error.problem(), PROBLEM
        if v2 or self.operation is Operation.INFER or f"{self.path}/".startswith("/v2/"):
            told, kind = {"error": f"{error.code}: {error}"}, JSON
        return Response(json.dumps(told).encode(), kind, status, headers, error.code)


Work = tuple[str, int, float, float, float]
"""Cost of an answer: form of its images, one of ``FORMS``' values, and how many;
seconds of reading it, of its whole batch in the network, and of writing the answer."""


class Common:
    """Headers that responses have in common, as a mapping and as they are sent.

    Args:
        headers: By name.
    """

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers
        self.lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())


NOTHING_COMMON = Common({})


@dataclass(slots=True)
class Response:
    """One response.

    Attributes:
        body: Its bytes.
        content_type: The body's.
        status: HTTP's.
        headers: Further ones, of this response alone.
        code: The error's that it tells of, if any.
        work: What it took, if images were predicted.
        common: Headers that it shares with others.
    """

    body: bytes
    content_type: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    code: str = ""
    work: Work | None = None
    common: Common = NOTHING_COMMON

    @property
    def all_headers(self) -> dict[str, str]:
        """All headers but those of its body, by name."""
        return self.common.headers | self.headers

"""One request and one response, whatever the transport.

A transport makes the ``Request``: our HTTP, TorchServe's handler, the supervisor's health check.
It knows the protocol; the code behind it does not.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from diagonalflip.errors import DiagonalFlipError
from diagonalflip.wire import JSON, MODEL, PROBLEM

if TYPE_CHECKING:
    from collections.abc import Callable

    from diagonalflip.wire import Images


Written = tuple[bytes, str, dict[str, str]]
"""A response's body, its ``Content-Type``, and further headers."""


class Operation(enum.StrEnum):
    """Kinds of requests."""

    PREDICT = "predict"
    """Predictions, in any form; or, for a request without images, a description of the model."""

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
    """Return the paths of a version's operations; without a version, those of the default."""
    end, v2_end = (f"/{version}", f"/versions/{version}") if version else ("", "")
    return {
        f"/predictions/{MODEL}{end}": Operation.PREDICT,
        f"/explanations/{MODEL}{end}": Operation.EXPLAIN,
        f"/v2/models/{MODEL}{v2_end}/infer": Operation.INFER,
    }


def v2_paths(version: str = "") -> dict[str, str]:
    """Return the paths at which V2 describes the server and a version, and their documents."""
    path = f"/v2/models/{MODEL}" + (f"/versions/{version}" if version else "")
    return {"/v2": "server", path: "model", f"{path}/ready": "ready", f"{path}/config": "config"}


class Transport(Protocol):
    """Maker of a request, which sends its response."""

    listener: str
    """Name of the listener that it came by, for metrics; empty for a health check."""

    lost: bool
    """True once the client has disconnected."""

    buffered: Any
    """Bytes that it keeps in the worker's memory: ``server.http.shares.Buffered``."""

    def reply(self, request: Request) -> None:
        """Send its response."""

    def abort(self) -> None:
        """End the connection at once."""


@dataclass
class Request:
    """One request, from its head until its response is sent (server/http/lifecycle.py).

    Attributes that are set later have their defaults in the class: making a request costs little.

    Attributes:
        operation: What is asked of the model; None for other paths.
        headers: By lower-case name; repeated headers are joined by commas.
        body: As it came, without the framing.
        service: The version of the model that answers, if a listener chose it.
        method, path: HTTP's; empty if they could not be read.
        transport: Sends the response; None in TorchServe, which takes it as a return value.
        token: Name of the client's token, if the listener asks for tokens.
        arrived: When its head had arrived, later when all of it had, in ``perf_counter``'s seconds.
        connection: Value of the response's header ``Connection``.
        cost: The most work that it can be, in predictions.
        images: The images to predict, once the service has read them.
        form: Their form in the request, one of ``FORMS``' values.
        write: Encodes images and their predictions, ``float32[n, 4]``, in the form that was asked
            for.
        response: None until it is known.
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
    images: Images = field(default=None, init=False)  # type: ignore[assignment]
    form: str = field(default="", init=False)
    write: Callable[..., Written] = field(default=None, init=False)  # type: ignore[assignment]
    response: Response = field(default=None, init=False)  # type: ignore[assignment]

    def rejection(
        self, error: DiagonalFlipError, headers: dict[str, str] | None = None, *, v2: bool = False
    ) -> Response:
        """Return the response that reports ``error``: RFC 9457, or V2's error object.

        Args:
            error: What is wrong.
            headers: Further headers of the response.
            v2: Whether the client speaks V2, although its path does not say so.
        """
        status = int(error.status or HTTPStatus.INTERNAL_SERVER_ERROR)
        headers = HINTS.get(status, {}) | (headers or {})
        document, kind = error.problem(), PROBLEM
        if v2 or self.operation is Operation.INFER or f"{self.path}/".startswith("/v2/"):
            document, kind = {"error": f"{error.code}: {error}"}, JSON
        return Response(json.dumps(document).encode(), kind, status, headers, error.code)


@dataclass(slots=True, eq=False)
class Times:
    """When a batch began, in ``perf_counter``'s seconds; how long its steps took, in this order."""

    started: float
    decode_s: float
    forward_s: float
    encode_s: float


class Common:
    """Headers that responses share, as a mapping and as they are sent.

    Args:
        headers: By name.
        lines: The same, if they are known.
    """

    def __init__(self, headers: dict[str, str], lines: str = "") -> None:
        self.headers = headers
        self.lines = lines or "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def also(self, name: str, value: str) -> Common:
        """Return these headers and another one."""
        return Common(self.headers | {name: value}, f"{self.lines}{name}: {value}\r\n")


NOTHING_COMMON = Common({})


@dataclass(slots=True)
class Response:
    """One response.

    Attributes:
        body: Its bytes.
        content_type: The body's.
        status: HTTP's.
        headers: Headers of this response alone.
        code: Code of the error that it reports, if any.
        common: Headers that it shares with other responses.
        times: Those of its batch, the same object for all of it; None without predictions.
    """

    body: bytes
    content_type: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    code: str = ""
    common: Common = NOTHING_COMMON
    times: Times | None = None

    @property
    def all_headers(self) -> dict[str, str]:
        """All headers by name, without those of the body."""
        return self.common.headers | self.headers

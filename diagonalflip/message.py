"""One request and one response, whichever door they came through.

A door makes the ``Request``: it decides the verb, and knows of headers what the protocol says.
Behind it nobody looks at protocols again.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from diagonalflip.errors import DiagonalFlipError
from diagonalflip.wire import MODEL, PROBLEM


class Verb(enum.StrEnum):
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


def refusal(error: DiagonalFlipError, headers: dict[str, str] | None = None) -> Response:
    """The response that tells of ``error``, with further ``headers``."""
    status = int(error.status or HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = HINTS.get(status, {}) | (headers or {})
    return Response(json.dumps(error.problem()).encode(), PROBLEM, status, headers, error.code)


def verbs(version: str = "") -> dict[str, Verb]:
    """Paths that ask for something of a version of the model, of the default if none is named."""
    end, v2_end = (f"/{version}", f"/versions/{version}") if version else ("", "")
    return {
        f"/predictions/{MODEL}{end}": Verb.PREDICT,
        f"/explanations/{MODEL}{end}": Verb.EXPLAIN,
        f"/v2/models/{MODEL}{v2_end}/infer": Verb.INFER,
    }


def v2_paths(version: str = "") -> dict[str, str]:
    """Paths by which V2 describes the server and that version: the document of each."""
    path = f"/v2/models/{MODEL}" + (f"/versions/{version}" if version else "")
    return {"/v2": "server", path: "model", f"{path}/ready": "ready", f"{path}/config": "config"}


@dataclass(slots=True)
class Request:
    """One request.

    Attributes:
        verb: What is asked for.
        headers: By lower-case name; repeated ones are one, joined by commas.
        body: As it came, less the framing.
        service: The version of the model that answers, if a door chose it.
        token: Name of the client's token, if the door wants one.
    """

    verb: Verb
    headers: dict[str, str]
    body: bytes | bytearray = b""
    service: Any = None
    token: str = ""


Work = tuple[str, int, float, float, float]
"""Cost of an answer: form of its images, one of ``FORMS``' values, and how many;
seconds of reading it, of its whole batch in the network, and of writing the answer."""


@dataclass(slots=True)
class Response:
    """One response.

    Attributes:
        body: Its bytes.
        content_type: Of the body.
        status: Of HTTP.
        headers: Further ones.
        code: Of the error that it tells of, if any.
        work: What it took, if images were predicted.
    """

    body: bytes
    content_type: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    code: str = ""
    work: Work | None = None

    @property
    def phrase(self) -> str:
        """The status in words."""
        return HTTPStatus(self.status).phrase

"""An error as a response (RFC 9457), where no request was understood."""

from __future__ import annotations

import json
from http import HTTPStatus

from diagonalflip.errors import DiagonalFlipError
from diagonalflip.message import Response
from diagonalflip.wire import PROBLEM


def refusal(error: DiagonalFlipError, headers: dict[str, str] | None = None) -> Response:
    """The response that tells of ``error``, with further ``headers``."""
    status = int(error.status or HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = headers or {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = "1"
    return Response(json.dumps(error.problem()).encode(), PROBLEM, status, headers)

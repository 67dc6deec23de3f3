"""The server that a subcommand asks: the global options, and what they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import urlsplit

import typer

from diagonalflip.cli.exits import UsageError
from diagonalflip.client import Client
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import Endpoint, Reply
from diagonalflip.client._transport import Transport
from diagonalflip.message import operations
from diagonalflip.wire import MODEL

if TYPE_CHECKING:
    from diagonalflip.predictor import Predictor

DEFAULT_URL = "http://127.0.0.1:8080"
PREDICTIONS = f"/predictions/{MODEL}"
MOST_BYTES = 1 << 26

UrlArgument = Annotated[
    str | None, typer.Argument(metavar="[URL]", help="The server; instead of --url.")
]


class Raw:
    """Single requests, for what the client hides: headers, forms of answers, rejections, pictures.

    Args:
        url: Of the server, without a path of ours.
        transport: To it.
        deadline_s: Seconds until a request is given up.
        version: Of the model; None asks the server's default.
    """

    def __init__(
        self, url: str, transport: Transport, deadline_s: float, version: str | None = None
    ) -> None:
        self.url = url
        self._transport, self._deadline_s = transport, deadline_s
        self._paths = dict(zip(operations(), operations(version or ""), strict=True))

    def of(self, version: str | None) -> Raw:
        """The same server, asked for a version, or for its default."""
        return Raw(self.url, self._transport, self._deadline_s, version)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def post(self, body: bytes, headers: Mapping[str, str], path: str = PREDICTIONS) -> Reply:
        """Sends one request, once, without any ``Content-Type`` or ``Accept`` but in ``headers``.

        Raises:
            DiagonalFlipError: As ``Transport.send``.
        """
        return self._send("POST", path, headers, body)

    def get(self, path: str) -> Reply:
        """Sends one GET, once."""
        return self._send("GET", path, {})

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        sent = {"Accept-Encoding": "identity"} | dict(headers)
        deadline = Deadline(self._deadline_s)
        asked, mark, query = path.partition("?")
        path = f"{self._paths.get(asked, asked)}{mark}{query}"
        return self._transport.send(
            self.url + path, body, sent, deadline, MOST_BYTES, method=method
        )


@dataclass(frozen=True)
class Target:
    """The global options.

    Attributes:
        url: Of the server, without the path of the model.
        token: Sent as ``Authorization: Bearer``, or None.
        ca: Bundle of certificates to trust, or None for the usual ones.
        deadline_s: Seconds that an answer may take in all.
        version: Of the model, or None for the server's default.
        make_client: ``Client``, or what a test puts in its place.
        local: Whether to predict in this process, without a server.
    """

    url: str
    token: str | None
    ca: Path | None
    deadline_s: float
    version: str | None = None
    make_client: Callable[..., Client] = Client
    local: bool = False

    def client(self, url: str | None = None, version: str | None = None) -> Client:
        """A client of ``url``, or of the global one, and of a version or the global one."""
        return self.make_client(
            self._server(url),
            version=version or self.version,
            deadline_s=self.deadline_s,
            token=self.token,
            verify=self._verify(),
        )

    def predictor(self) -> Client | Predictor:
        """Return a client, or what predicts in this process.

        Raises:
            UsageError: A package is missing that this takes.
            DiagonalFlipError: As ``Predictor``.
        """
        if not self.local:
            return self.client()
        try:
            from diagonalflip.predictor import Predictor  # noqa: PLC0415 - needs the extra serve
        except ModuleNotFoundError as error:
            raise UsageError(f"{error.name} is missing", "the extra serve installed") from error
        return Predictor(self.version)

    def raw(self, url: str | None = None) -> Raw:
        """Single requests to ``url``, or to the global one."""
        endpoint = Endpoint(self._server(url), MODEL, self.token)
        return Raw(endpoint.base, Transport(endpoint, self._verify(), None), self.deadline_s)

    def _server(self, url: str | None) -> str:
        chosen = (url or self.url).rstrip("/")
        parts = urlsplit(chosen)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"the URL {chosen!r}", f"one such as {DEFAULT_URL}")
        return chosen

    def _verify(self) -> bool | str:
        return True if self.ca is None else os.fspath(self.ca)


def target_of(context: typer.Context) -> Target:
    """The server that the global options describe."""
    found: Any = context.obj
    assert isinstance(found, Target)  # noqa: S101 - the callback has put it there
    return found

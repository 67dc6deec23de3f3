"""How a subcommand reaches the server: the global options, and what they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from diagonalflip.cli.exits import UsageError
from diagonalflip.cli.raw import Raw
from diagonalflip.client import Client

DEFAULT_URL = "http://127.0.0.1:8080"

UrlArgument = Annotated[
    str | None, typer.Argument(metavar="[URL]", help="The server; instead of --url.")
]


@dataclass(frozen=True)
class Connection:
    """The global options.

    Attributes:
        url: Of the server, without the path of the model.
        token: Sent as ``Authorization: Bearer``, or None.
        ca: Bundle of certificates to trust, or None for the usual ones.
        deadline_s: Seconds that an answer may take in all.
        make_client: ``Client``, or what a test puts in its place.
    """

    url: str
    token: str | None
    ca: Path | None
    deadline_s: float
    make_client: Callable[..., Client] = Client

    def client(self, url: str | None = None) -> Client:
        """A client of ``url``, or of the global one."""
        return self.make_client(
            self._server(url), deadline_s=self.deadline_s, token=self.token, verify=self._verify()
        )

    def raw(self, url: str | None = None) -> Raw:
        """Plain HTTP to ``url``, or to the global one."""
        return Raw(self._server(url), self.token, self._verify(), self.deadline_s)

    def _server(self, url: str | None) -> str:
        chosen = (url or self.url).rstrip("/")
        parts = urlsplit(chosen)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"the URL {chosen!r}", f"one such as {DEFAULT_URL}")
        return chosen

    def _verify(self) -> bool | str:
        return True if self.ca is None else os.fspath(self.ca)


def connection_of(context: typer.Context) -> Connection:
    """The connection that the global options describe."""
    found: Any = context.obj
    assert isinstance(found, Connection)  # noqa: S101 - the callback has put it there
    return found

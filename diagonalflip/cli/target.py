"""The server that a subcommand uses, by the global options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from diagonalflip.client import Client
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import Endpoint, Reply, quoted
from diagonalflip.client._transport import Transport
from diagonalflip.message import operations
from diagonalflip.wire import MODEL

DEFAULT_URL = "http://127.0.0.1:8080"
PREDICTIONS = f"/predictions/{MODEL}"
MOST_BYTES = 1 << 26

UrlArgument = Annotated[
    str | None, typer.Argument(metavar="[URL]", help="The server; instead of --url.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@dataclass
class Raw:
    """Sends single requests, with headers and forms that the client does not offer.

    Attributes:
        url: The server's URL, without the path of an operation.
        version: The model's version; None asks for the server's default.
    """

    url: str
    transport: Transport
    deadline_s: float
    version: str | None

    def send(
        self, body: bytes, headers: Mapping[str, str], path: str = PREDICTIONS, method: str = "POST"
    ) -> Reply:
        """Send one request once, without ``Content-Type`` or ``Accept`` unless in ``headers``.

        Raises:
            ClientError: As ``Transport.send``.
        """
        paths = dict(zip(operations(), operations(quoted(self.version or "")), strict=True))
        plain, mark, query = path.partition("?")
        url = f"{self.url}{paths.get(plain, plain)}{mark}{query}"
        sent = {"Accept-Encoding": "identity"} | dict(headers)
        deadline = Deadline(self.deadline_s)
        return self.transport.send(url, body, sent, deadline, MOST_BYTES, method=method)


@dataclass(frozen=True)
class Target:
    """The global options; see ``app.globally``."""

    url: str
    token: str | None
    verify: bool | str
    deadline_s: float
    version: str | None

    def client(self, url: str | None = None, version: str | None = None) -> Client:
        """Return a client for a URL and a version; by default, for the global options'."""
        return Client(
            url or self.url,
            version=version or self.version,
            deadline_s=self.deadline_s,
            token=self.token,
            verify=self.verify,
        )

    @contextmanager
    def raw(self, url: str | None = None) -> Iterator[Raw]:
        """Yield a sender of single requests to ``url``, by default the global option's."""
        endpoint = Endpoint(url or self.url, MODEL, self.token, verify=self.verify)
        with closing(Transport(endpoint)) as transport:
            yield Raw(endpoint.base, transport, self.deadline_s, self.version)

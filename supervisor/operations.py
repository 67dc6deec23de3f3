"""The operations port: liveness, readiness, and the metrics of every part on one page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path

from diagonalflip.errors import DiagonalFlipError, ModelNotFound, NotAuthorized
from diagonalflip.message import Request, Response, Verb, refusal
from diagonalflip.wire import JSON
from supervisor.metrics import Page
from supervisor.models import Models
from supervisor.proof import Prover
from worker.batch import FAULT, Batcher, Client
from worker.guard import read_tokens, who
from worker.listener import Address, Door, HttpServer, listen
from worker.metrics import Metrics
from worker.routes import PROBES, unserved

PERCENT = re.compile("100|[0-9]{1,2}")
OPERATORS = (
    "run `make token NAME=me TOKENS_FILE=operators`, and serve with OPERATORS_FILE=operators"
)

logger = logging.getLogger(__name__)


@dataclass
class Health:
    """State of the service; written by the supervisor's thread, read by the port's.

    Attributes:
        prover: Of the workers that TorchServe runs now; None while it does not run.
        earned: Whether, since TorchServe's start, every worker has been proven.
        draining: Whether a stop was asked for.
        restarts: Of parts, by name.
        pages: Gives the metrics of all living workers.
        models: The versions of the model; None before they are known.
    """

    prover: Prover | None = None
    earned: bool = False
    draining: bool = False
    restarts: Counter[str] = field(default_factory=Counter)
    pages: Callable[[], list[str]] = list
    models: Models | None = None

    @property
    def proven(self) -> int:
        """Workers whose last proof was right."""
        return self.prover.proven if self.prover is not None else 0

    @property
    def ready(self) -> bool:
        """Return whether requests should be sent here."""
        return self.earned and self.proven > 0 and not self.draining


class Changes(Batcher):
    """Makes changes of the model's versions in a thread, one after the other.

    The event loop goes on answering probes meanwhile.
    """

    def put(self, client: Client, request: Request) -> None:
        """Begin a change, whose answer ``client`` gets later."""
        made = asyncio.get_running_loop().run_in_executor(None, request.service)
        made.add_done_callback(lambda done: client.reply(_outcome(done)))


def _outcome(made: asyncio.Future[Response]) -> Response:
    """The answer to a change."""
    error = made.exception()
    if error is None:
        return made.result()
    if isinstance(error, DiagonalFlipError):
        return refusal(error)
    logger.error("a change failed", exc_info=error)
    return refusal(FAULT)


class OperationsServer(HttpServer):
    """Answers probes and scrapes out of ``health``, and changes the model's versions.

    Args:
        health: What the supervisor knows.
        operators_file: Digests and names of the tokens that may change something.
    """

    def __init__(self, health: Health, operators_file: Path | None) -> None:
        super().__init__(Metrics())
        self.batcher = Changes(self.metrics)
        self._health, self._operators_file = health, operators_file
        self._page = Page(health)

    def route(self, method: str, path: str, headers: dict[str, str]) -> Request | Response:
        """The answer to any request, or the change that it asks for."""
        pages: dict[str, Callable[[], Response]] = {
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/ping": self._ready,
            "/metrics": partial(self._metrics, headers),
            "/models": self._models,
        }
        if path in pages:
            return pages[path]() if method in PROBES else unserved(method, PROBES)
        change = self._change(path)
        if change is None:
            served = f"one of {', '.join(pages)}, or a change of /models"
            return refusal(ModelNotFound(f"path {path[:100]}", served))
        if method != "POST":
            return unserved(method, ("POST",))
        try:
            name = self._operator(headers)
        except DiagonalFlipError as error:
            return refusal(error)

        def make() -> Response:
            change()
            logger.info("%s, by %s", path.lstrip("/"), name)
            return self._models()

        return Request(Verb.PREDICT, headers, service=make)

    def _change(self, path: str) -> Callable[[], None] | None:
        """The change that a path stands for, if any."""
        models = self._health.models
        parts = path.split("/")[1:]
        if models is None or parts[0] != "models":
            return None
        if parts == ["models", "rollback"]:
            return models.rollback
        changes = {"load": models.load, "unload": models.unload, "default": models.make_default}
        if len(parts) == 3 and parts[2] in changes:
            return partial(changes[parts[2]], parts[1])
        if len(parts) == 4 and parts[2] == "canary" and PERCENT.fullmatch(parts[3]):
            return partial(models.make_canary, parts[1], int(parts[3]))
        return None

    def _operator(self, headers: dict[str, str]) -> str:
        """The name of who asks.

        Raises:
            NotAuthorized: The token is none of an operator.
            SettingError: The file of tokens cannot be read.
        """
        if self._operators_file is None:
            raise NotAuthorized("changes need OPERATORS_FILE", "it to be set", OPERATORS)
        name, error = who(headers.get("authorization", ""), read_tokens(self._operators_file))
        if error is not None:
            raise type(error)(*error.args)
        return name

    def _models(self) -> Response:
        models = self._health.models
        assert models is not None  # noqa: S101 - the path is served then only
        return Response(json.dumps(models.document()).encode(), JSON)

    def _live(self) -> Response:
        return Response(b'{"live": true}', JSON)

    def _ready(self) -> Response:
        health = self._health
        told = {
            "ready": health.ready,
            "draining": health.draining,
            "workers_proven": health.proven,
            "workers": len(health.prover.workers) if health.prover is not None else 0,
        }
        body = json.dumps(told).encode()
        if health.ready:
            return Response(body, JSON)
        return Response(body, JSON, HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "1"})

    def _metrics(self, headers: dict[str, str]) -> Response:
        return Response(*self._page.render(headers.get("accept", "")))


@contextlib.contextmanager
def serving(health: Health, address: Address, operators_file: Path | None = None) -> Iterator[None]:
    """Keeps the port open, by a thread of its own.

    Raises:
        OSError: The address cannot be opened.
    """
    server = OperationsServer(health, operators_file)
    opened = threading.Event()
    serving = server.serve([Door("operations", listen(address))], opened.set)
    thread = threading.Thread(target=asyncio.run, args=(serving,), name="operations")
    thread.start()
    opened.wait()
    try:
        yield
    finally:
        server.end()
        thread.join()

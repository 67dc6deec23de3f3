"""The admin port: liveness, readiness, and the metrics of every part on one page."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from diagonalflip.errors import (
    DiagonalFlipError,
    InsecureConnection,
    InternalError,
    ModelNotFound,
    NotAuthorized,
    SettingError,
)
from diagonalflip.message import HINTS, Request, Response
from diagonalflip.server.http.authentication import RejectionLog, read_tokens, who
from diagonalflip.server.http.connection import Connection
from diagonalflip.server.http.hosts import is_this_host
from diagonalflip.server.http.lifecycle import FAULT, Lifecycle
from diagonalflip.server.http.listener import HttpServer
from diagonalflip.server.http.routes import PROBES, unserved
from diagonalflip.server.models.versions import Models
from diagonalflip.server.supervisor.access import AccessFiles, is_pipe, readable
from diagonalflip.server.supervisor.metrics import Page
from diagonalflip.server.supervisor.torchserve import TorchServe
from diagonalflip.server.supervisor.workers import Workers
from diagonalflip.server.worker.metrics import Metrics
from diagonalflip.wire import JSON

PERCENT = re.compile("100|[0-9]{1,2}")
OPERATORS = (
    "run `make token NAME=me TOKENS_FILE=operators`, and `make serve OPERATORS_FILE=operators`"
)

NOT_LOCAL = InsecureConnection(
    "a change of versions from another host, without TLS: others could read the token",
    "a connection from this host",
    "run `diagonalflip model` there, by ssh, docker exec or kubectl exec, or kubectl port-forward",
)

UNUSABLE = InternalError("the file of operators cannot be used", "its tokens", "see the log")

logger = logging.getLogger(__name__)


@dataclass
class Health:
    """State of the service.

    Attributes:
        torchserve: TorchServe, if it is on.
        access: Tokens and certificate of the public listener, if it is on.
        started: Whether all workers have become ready after the start.
        draining: Whether the service is stopping.
        degraded: Whether workers have been missing for some time.
        reachable: Whether the clients' ports answer.
    """

    workers: Workers
    torchserve: TorchServe | None
    models: Models
    access: AccessFiles | None = None
    started: bool = False
    draining: bool = False
    degraded: bool = False
    reachable: bool = True

    @property
    def ready(self) -> bool:
        """True while requests should be sent here."""
        return self.started and self.workers.ready > 0 and self.reachable and not self.draining


class Changes(Lifecycle):
    """Makes changes of the model's versions; meanwhile the event loop goes on answering probes."""

    def __init__(self, route: Callable[[Request], Response | None], metrics: Metrics) -> None:
        super().__init__(route, metrics)
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, request: Request) -> bool:
        """Start a change; the response is sent when it is done."""
        task = asyncio.get_running_loop().create_task(self._make(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _make(self, request: Request) -> None:
        try:
            request.response = await request.service()
        except DiagonalFlipError as error:
            request.response = request.rejection(error)
        except Exception:
            logger.exception("a change failed")
            request.response = request.rejection(FAULT)
        request.transport.reply(request)


def is_local(peer: Sequence[Any] | None, own: Sequence[Any]) -> bool:
    """Return whether a connection comes from this host, by both ends' addresses (host first).

    A client that had disconnected before it was accepted has no address.
    """
    return peer is not None and (is_this_host(peer[0]) or peer[0] == own[0])


class AdminServer(HttpServer):
    """Answers probes and scrapes from ``health``, and lets operators change the model's versions.

    Without a file of operators' tokens, no changes are allowed.

    Raises:
        SettingError: That file cannot be used.
    """

    def __init__(self, health: Health, operators_file: Path | None) -> None:
        super().__init__(Metrics())
        self.lifecycle = Changes(self.route, self.metrics)
        self._health, self._operators_file = health, operators_file
        self._reading = asyncio.Lock()
        self._operators()
        self._page = Page(health)
        self._rejections = RejectionLog()

    def route(self, request: Request) -> Response | None:
        """Return a request's response; for versions and their changes, set a service instead."""
        method, path, headers = request.method, request.path, request.headers
        pages: dict[str, Callable[[], Response | None]] = {
            "/v2/health/live": lambda: Response(b'{"live": true}', JSON),
            "/v2/health/ready": self._ready,
            "/ping": self._ready,
            "/metrics": lambda: Response(*self._page.render(headers.get("accept", ""))),
            "/models": partial(setattr, request, "service", self._list_models),
        }
        if path in pages:
            return pages[path]() if method in PROBES else unserved(request, PROBES)
        change = self._change(path)
        if change is None:
            served = f"one of {', '.join(pages)}, or a change of /models"
            return request.rejection(ModelNotFound(f"path {path[:100]}", served))
        if method != "POST":
            return unserved(request, ("POST",))
        try:
            name, error = self._operator(request)
        except SettingError as unreadable:
            logger.error("no change is made: %s", unreadable)  # noqa: TRY400 - no fault of ours
            return request.rejection(UNUSABLE)
        if error is not None:
            self._rejections.put(method, path, name, error)
            return request.rejection(error)

        async def make() -> Response:
            before = self._health.models.desired
            await change()
            changed = self._health.models.desired is not before
            outcome = "" if changed else ": nothing to change"
            logger.info("%s, by %s%s", path.lstrip("/"), name, outcome)
            return await self._list_models(changed=changed)

        request.service = make
        return None

    def _change(self, path: str) -> Callable[[], Awaitable[None]] | None:
        """Return the change that a path asks for, if any."""
        models = self._health.models
        match path.split("/"):
            case ["", "models", "rollback"]:
                return models.rollback
            case ["", "models", version, "load"]:
                return partial(models.load, version)
            case ["", "models", version, "unload"]:
                return partial(models.unload, version)
            case ["", "models", version, "default"]:
                return partial(models.make_default, version)
            case ["", "models", version, "canary", percent] if PERCENT.fullmatch(percent):
                return partial(models.make_canary, version, int(percent))
        return None

    def tick(self) -> None:
        """Begin another second."""
        self._rejections.tick()

    def _operator(self, request: Request) -> tuple[str, NotAuthorized | None]:
        """Return the operator's name, and the error if the change is not allowed.

        Raises:
            SettingError: The file of tokens cannot be read.
        """
        info = cast("Connection", request.transport).get_extra_info
        if not is_local(info("peername"), info("sockname")):
            return "", NOT_LOCAL
        if self._operators_file is None:
            return "", NotAuthorized("changes need FLIP_OPERATORS_FILE", "a file", OPERATORS)
        return who(request.headers.get("authorization", ""), self._operators())

    def _operators(self) -> dict[str, str]:
        """Return names by tokens' digests; raise SettingError if the file cannot be used."""
        path = self._operators_file
        if path is None:
            return {}
        if is_pipe(path):  # the file is read again for each change
            raise SettingError(f"FLIP_OPERATORS_FILE={path} is a pipe", "a file", OPERATORS)
        with readable(path):
            return read_tokens(path)

    async def _list_models(self, **more: bool) -> Response:
        """Return all versions, read by one thread at a time: the disk may hang."""
        async with self._reading:
            document = await asyncio.to_thread(self._health.models.document)
        return Response(json.dumps(document | more).encode(), JSON)

    def _ready(self) -> Response:
        health, torchserve = self._health, self._health.torchserve
        status = {
            "ready": health.ready,
            "degraded": health.degraded,
            "draining": health.draining,
            "workers_ready": health.workers.ready,
            "workers": health.workers.count,
            "torchserve": torchserve
            and {
                "ready": torchserve.ready,
                "torchserve_port": torchserve.settings.torchserve_port,
                "grpc_port": torchserve.settings.grpc_port,
            },
        }
        code = HTTPStatus.OK if health.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(json.dumps(status).encode(), JSON, code, HINTS.get(code, {}))

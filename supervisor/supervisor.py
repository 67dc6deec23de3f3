"""Owns TorchServe, its workers and their doors: starts, watches, restarts and drains them."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from diagonalflip.errors import ArtifactError, StartError
from supervisor import host, operations, readiness
from supervisor.edge import EdgeFiles
from supervisor.front import FrontDoor
from supervisor.models import Models
from supervisor.operations import Health
from supervisor.ports import resolve
from supervisor.settings import LOOPBACK, Settings, refuse_unsafe
from supervisor.stop import TICK_S, Stop, StopRequested
from supervisor.torchserve import TorchServe, running
from worker.routes import metrics_file

CHORES_S = 2.0
SILENCE_S = 10.0
"""Longest silence of TorchServe's metrics port before it counts as hanging."""

STABLE_S = 60.0
"""A part that lived this long is started again at once; a shorter life makes a longer pause."""

MAX_SHORT_LIVES = 5
"""In a row; then the supervisor gives up."""

logger = logging.getLogger(__name__)


class GaveUpError(Exception):
    """A part dies again and again."""


class Lives:
    """Delays between restarts of one part.

    Raises:
        GaveUpError: By ``ended``, after ``MAX_SHORT_LIVES``.
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self._short = 0
        self._born = time.monotonic()

    def begin(self) -> None:
        """The part has started."""
        self._born = time.monotonic()

    def ended(self) -> float:
        """The part has ended; returns the seconds until it should start again."""
        if time.monotonic() - self._born > STABLE_S:
            self._short = 0
        self._short += 1
        if self._short > MAX_SHORT_LIVES:
            raise GaveUpError(f"{self.part} ended {self._short} times, each soon after its start")
        return float(2 ** (self._short - 1) - 1)


class Supervisor:
    """Serves until it is asked to stop.

    Args:
        settings: What to serve, and where.
        stop: Ends it.

    Raises:
        SettingError: The settings are unsafe, or a port is taken.
    """

    def __init__(self, settings: Settings, stop: Stop) -> None:
        refuse_unsafe(settings)
        self.settings = resolve(settings)
        host.allow_many_files()
        self.health = Health()
        self._stop = stop
        self._edge: EdgeFiles | None = None
        self._torchserve_lives = Lives("torchserve")

    def run(self, ready: Callable[[], None]) -> None:
        """Serves for ever; calls ``ready`` when it first can.

        Raises:
            StopRequested: A signal asked for it, and all has ended in order.
            GaveUpError: A part died again and again.
            DiagonalFlipError: It cannot start.
        """
        settings = self.settings
        with contextlib.ExitStack() as held:
            sockets = Path(held.enter_context(host.private_folder()))
            operating = (settings.operations_host, settings.operations_port)
            held.enter_context(operations.serving(self.health, operating, settings.operators_file))
            doors = [(LOOPBACK, settings.port)]
            if settings.tokens_file is not None:
                self._edge = EdgeFiles(settings, settings.tokens_file, sockets)
                doors.append((settings.host, settings.edge_port))
            self._front = held.enter_context(FrontDoor(doors, settings.workers, sockets))
            self._models = Models(
                settings.model_store,
                sockets,
                self._front,
                default=settings.default_version,
                trusted_key=settings.trusted_key,
            )
            self.health.models = self._models
            self.health.pages = lambda: _pages(self._front, sockets)
            with self._torchserve(sockets) as server:
                self._earn(server)
                ready()
                self._watch(server)
            while True:
                self._serve_again(sockets)

    @contextlib.contextmanager
    def _torchserve(self, sockets: Path) -> Iterator[TorchServe]:
        """TorchServe; when a stop is requested it ends after all who came in are answered."""
        with running(self.settings, self._models, sockets) as server:
            self.health.prover = server.prover
            self._models.changed = partial(server.follow, self._models)
            try:
                yield server
            except StopRequested:
                self._drain()
                raise
            finally:
                self._models.changed = lambda: None
                self.health.earned = False

    def _earn(self, server: TorchServe) -> None:
        readiness.wait(server, self._models.default, self._stop.pause)
        self.health.earned = True

    def _serve_again(self, sockets: Path) -> None:
        pause_s = self._torchserve_lives.ended()
        self.health.restarts["torchserve"] += 1
        logger.error("TorchServe is started again in %g s", pause_s)
        self._front.forget()
        self._stop.pause(pause_s)
        self._torchserve_lives.begin()
        try:
            with self._torchserve(sockets) as server:
                self._earn(server)
                logger.info("Ready again")
                self._watch(server)
        except (StartError, ArtifactError) as error:
            logger.error("TorchServe did not come back: %s", error)  # noqa: TRY400

    def _drain(self) -> None:
        """First not ready, then no new connections, then what was accepted is finished."""
        self.health.draining = True
        self._front.not_ready()
        settings = self.settings
        logger.info("Stopping: not ready any more")
        time.sleep(settings.drain_s)
        logger.info("Finishing what was accepted, for %d s at most", settings.stop_s)
        deadline = time.monotonic() + settings.stop_s
        self._front.close()
        self._front.wait(deadline - time.monotonic())

    def _watch(self, server: TorchServe) -> None:
        """Returns, saying why, when TorchServe has to be started again."""
        chores_due = 0.0
        heard = proven = time.monotonic()
        while True:
            now = time.monotonic()
            status = server.process.poll()
            if status is not None:
                logger.error("TorchServe ended by itself, status %d", status)
                return
            if now >= chores_due:
                chores_due = now + CHORES_S
                self._reap(server)
                self.health.restarts["worker"] = self._front.handed_out_again
                if _answers(self.settings.metrics_port):
                    heard = now
            proven = now if self.health.proven else proven
            if now - heard > SILENCE_S:
                logger.error("TorchServe has not answered for %g s", now - heard)
                return
            if now - proven > self.settings.start_timeout_s:
                logger.error("no worker has been proven for %g s", now - proven)
                return
            if self._edge is not None:
                self._edge.follow()
            self._stop.pause(TICK_S)

    def _reap(self, server: TorchServe) -> None:
        """Reap orphans, which the first process of a container inherits: workers of a dead Java."""
        if os.getpid() != 1:
            return
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in {int(pid) for pid in children} - {server.process.pid}:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def _pages(front: FrontDoor, sockets: Path) -> list[str]:
    """The metrics that living workers have published."""
    pages = []
    for number in front.living():
        with contextlib.suppress(FileNotFoundError):  # a first worker has not yet
            pages.append(metrics_file(sockets, number).read_text(encoding="utf-8"))
    return pages


def _answers(metrics_port: int) -> bool:
    """Return whether TorchServe gives its metrics; ``http.client`` knows no proxies."""
    connection = http.client.HTTPConnection(LOOPBACK, metrics_port, timeout=1.0)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/metrics")
        return bool(connection.getresponse().read())
    return False

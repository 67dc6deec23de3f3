"""Owns TorchServe, its workers and the edge: starts, watches, restarts and drains them."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from diagonalflip.errors import ArtifactError, SettingError, StartError
from supervisor import host, operations, readiness, store
from supervisor.edge import Edge
from supervisor.front import FrontDoor
from supervisor.operations import Health
from supervisor.ports import resolve
from supervisor.proof import UnixConnection
from supervisor.settings import LOOPBACK, Settings, refuse_unsafe
from supervisor.stop import TICK_S, Stop, StopRequested
from supervisor.store import Artifacts
from supervisor.torchserve import TorchServe, running
from worker.routes import metrics_file

CHORES_S = 2.0
SILENCE_S = 10.0
"""How long TorchServe may not answer for its metrics, until it counts as hanging."""

STABLE_S = 60.0
"""A part that lived this long is started again at once; a shorter life makes a longer pause."""

MAX_SHORT_LIVES = 5
"""In a row; then the supervisor gives up."""

logger = logging.getLogger(__name__)


class GaveUpError(Exception):
    """A part dies again and again."""


class Lives:
    """When to start a part again that has ended.

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
        model: What the model store holds.
        stop: Ends it.

    Raises:
        SettingError: The settings are unsafe, or a port is taken.
    """

    def __init__(self, settings: Settings, model: Artifacts, stop: Stop) -> None:
        refuse_unsafe(settings)
        self.settings = resolve(settings)
        self.health = Health()
        self._model, self._stop = model, stop
        self._edge: Edge | None = None
        self._torchserve_lives, self._edge_lives = Lives("torchserve"), Lives("edge")
        self._edge_due = 0.0

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
            port = (settings.operations_host, settings.operations_port)
            addresses = (port, sockets / "operations.sock")
            held.enter_context(operations.serving(self.health, addresses))
            front = FrontDoor(settings.port, settings.workers, sockets)
            self._front = held.enter_context(front)
            self.health.pages = lambda: _pages(front, sockets)
            if settings.tokens_file is not None:
                self._edge = Edge(settings, settings.tokens_file, self._model, sockets)
            try:
                with self._torchserve(sockets) as server:
                    self._earn(server)
                    if self._edge is not None:
                        self._edge.start()
                    ready()
                    self._watch(server, sockets)
                while True:
                    self._serve_again(sockets)
            finally:
                if self._edge is not None:
                    self._edge.stop()

    def reload(self) -> None:
        """Has the edge read tokens and certificates again, at once."""
        if self._edge is not None:
            self._edge.forget_files()

    @contextlib.contextmanager
    def _torchserve(self, sockets: Path) -> Iterator[TorchServe]:
        """TorchServe; when a stop is requested it ends after the edge has drained."""
        with running(self.settings, self._model, sockets) as server:
            self.health.prover = server.prover
            try:
                yield server
            except StopRequested:
                self._drain()
                raise
            finally:
                self.health.earned = False

    def _earn(self, server: TorchServe) -> None:
        readiness.wait(server, self._model, self._stop.pause)
        self.health.earned = True

    def _serve_again(self, sockets: Path) -> None:
        pause_s = self._torchserve_lives.ended()
        self.health.restarts["torchserve"] += 1
        logger.error("TorchServe is started again in %g s", pause_s)
        self._front.forget()
        self._stop.pause(pause_s)
        self._torchserve_lives.begin()
        try:
            self._model = store.check(self.settings.model_store)
            with self._torchserve(sockets) as server:
                self._earn(server)
                logger.info("Ready again")
                self._watch(server, sockets)
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
        if self._edge is not None:
            self._edge.drain(settings.stop_s)
        self._front.wait(deadline - time.monotonic())

    def _watch(self, server: TorchServe, sockets: Path) -> None:
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
                if self._edge is not None:
                    edge = UnixConnection(sockets / "edge-metrics.sock", 1.0)
                    self.health.edge_page = _metrics(edge) or ""
                torchserve = LOOPBACK, self.settings.metrics_port
                if _metrics(http.client.HTTPConnection(*torchserve, timeout=1.0)) is not None:
                    heard = now
            proven = now if self.health.proven else proven
            if now - heard > SILENCE_S:
                logger.error("TorchServe has not answered for %g s", now - heard)
                return
            if now - proven > self.settings.start_timeout_s:
                logger.error("no worker has been proven for %g s", now - proven)
                return
            if self._edge is not None:
                self._watch_edge(self._edge, now)
            self._stop.pause(TICK_S)

    def _watch_edge(self, edge: Edge, now: float) -> None:
        if edge.ended:
            if not self._edge_due:
                pause_s = self._edge_lives.ended()
                self._edge_due = now + pause_s
                self.health.restarts["edge"] += 1
                logger.error("the edge ended by itself; it is started again in %g s", pause_s)
            if now >= self._edge_due:
                self._edge_due = 0.0
                self._edge_lives.begin()
                edge.start()
            return
        try:
            if edge.follow_files():
                logger.info("The edge took over changed tokens or certificates")
        except SettingError as error:
            logger.error("the edge goes on with what it had: %s", error)  # noqa: TRY400

    def _reap(self, server: TorchServe) -> None:
        """As the first process of a container it inherits orphans, the workers of a dead Java."""
        known = {server.process.pid, self._edge.pid if self._edge is not None else 0}
        if os.getpid() != 1:
            return
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in {int(pid) for pid in children} - known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def _pages(front: FrontDoor, sockets: Path) -> list[str]:
    """The metrics that living workers have published."""
    pages = []
    for number in front.living():
        with contextlib.suppress(FileNotFoundError):  # a first worker has not yet
            pages.append(metrics_file(sockets, number).read_text(encoding="utf-8"))
    return pages


def _metrics(connection: http.client.HTTPConnection) -> str | None:
    """A part's metrics; None if it gives none. ``http.client`` knows no proxies."""
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    return None

"""The process that starts, checks and stops the others, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any

from diagonalflip.errors import StartError
from diagonalflip.server import health
from diagonalflip.server.http.hosts import read_names
from diagonalflip.server.http.listener import Listener
from diagonalflip.server.models.versions import Models
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor.access import AccessFiles
from diagonalflip.server.supervisor.admin import AdminServer, Health
from diagonalflip.server.supervisor.ports import take_no_more
from diagonalflip.server.supervisor.torchserve import TorchServe
from diagonalflip.server.supervisor.torchserve_command import find_torchserve
from diagonalflip.server.supervisor.workers import GaveUpError, Workers

TICK_S = 0.5

PORT_CHECK_S = 10.0
PORT_CHECK_TIMEOUT_S = 5.0
MAX_PORT_FAILURES = 3
"""Consecutive failed checks through the clients' ports, after which the service is not ready."""

LIVE = "/v2/health/live"

logger = logging.getLogger(__name__)


class Supervisor:
    """Serves until it is asked to stop.

    Args:
        settings: With the ports that were chosen.
        listeners: The sockets of the clients' ports, by name.
        workers: They are started, and wait for ``serve``.

    Raises:
        SettingError: A file of tokens or certificates cannot be used, or TorchServe is missing.
        ArtifactError: The default version cannot be served.
    """

    def __init__(
        self, settings: Settings, listeners: dict[str, socket.socket], workers: Workers
    ) -> None:
        self._settings, self._listeners, self._workers = settings, listeners, workers
        self._complete_at = time.monotonic()
        self._port_failures = 0
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if settings.tls_cert else None
        if self._tls is not None:  # verifying the certificate is up to the clients
            self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        tokens_file = settings.tokens_file
        self._access = AccessFiles(settings, tokens_file) if tokens_file is not None else None
        self._models = Models(
            settings.versions,
            workers.apply,
            default=settings.default_version,
            trusted_key=settings.trusted_key,
        )
        self._torchserve: TorchServe | None = None
        has_archive = self._models.default.archive is not None
        if (installed := find_torchserve(settings, has_archive=has_archive)) is not None:
            self._torchserve = TorchServe(settings, installed, self._models)
            self._models.changed = self._torchserve.follow
        self._health = Health(workers, self._torchserve, self._models, self._access)
        self._admin = AdminServer(self._health, settings.operators_file)

    async def run(
        self, admin: socket.socket, stop: asyncio.Event, ready: Callable[[], None]
    ) -> None:
        """Serve until ``stop`` is set, then drain.

        Args:
            admin: The socket of the admin port.
            stop: Set to stop the service.
            ready: Called when all workers are ready.

        Raises:
            GaveUpError: No worker can be started any more.
            StartError: The workers did not become ready.
        """
        settings = self._settings
        listener = Listener("admin", admin, read_names(settings.allowed_hosts))
        answering = asyncio.create_task(self._admin.serve([listener], lambda: None))
        serving = asyncio.create_task(self._serve(ready))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await serving
        await self._drain(serving)
        answering.cancel()

    async def _serve(self, ready: Callable[[], None]) -> None:
        """Start, and serve until cancelled; raise as ``run`` does."""
        workers = self._workers
        if self._access is not None:
            workers.announce("access", self._access.content)
        while True:
            workers.serve(self._models.desired)
            try:
                await self._all_ready()
                break
            except StartError:
                if not self._models.leave_out(workers.faults):
                    raise
        self._health.started = True
        ready()
        work = [self._every(TICK_S, self._tick), self._every(PORT_CHECK_S, self._check_ports)]
        if self._torchserve is not None:
            work.append(self._torchserve.run())
        tasks = [asyncio.create_task(each) for each in work]
        try:
            await workers.until(lambda: workers.gave_up)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise GaveUpError(f"no worker can start; {workers.last_error}")

    async def _all_ready(self) -> None:
        """Wait until every worker is ready.

        Raises:
            StartError: A worker cannot serve, or is not ready in time.
        """
        workers, timeout_s = self._workers, self._settings.start_timeout_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await workers.until(
                    lambda: workers.ready == workers.count or workers.fault or workers.gave_up
                )
        if workers.ready < workers.count:
            got = f"{workers.ready} of {workers.count} workers ready; {workers.last_error}"
            expected = f"a correct prediction of each within {timeout_s} s"
            raise StartError(got, expected, f"see the logs in {self._settings.log_dir}")

    async def _every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something at an interval; log its failures."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception:
                logger.exception("the supervisor failed")

    async def _tick(self) -> None:
        """Reload changed files, share figures, reap orphans, and update ``degraded``."""
        if self._access is not None and self._access.changed():
            self._workers.announce("access", self._access.content)
        self._workers.share_status()
        self._reap_orphans()
        now, missing = time.monotonic(), self._workers.count - self._workers.ready
        if not missing:
            self._complete_at = now
        degraded = missing > 0 and now - self._complete_at >= self._settings.degraded_after_s
        if degraded != self._health.degraded:
            self._health.degraded = degraded
            if degraded:
                logger.warning("Degraded: %d workers are missing", missing)
            else:
                logger.info("All workers are ready again")

    async def _check_ports(self) -> None:
        """Ask for a worker's health through the ports that clients use."""
        settings = self._settings
        try:
            async with asyncio.timeout(PORT_CHECK_TIMEOUT_S):
                await health.ask(settings.port, "GET", LIVE)
                if self._access is not None:
                    port, host = settings.public_port, settings.public_address
                    await health.ask(port, "GET", LIVE, host=host, tls=self._tls)
            self._port_failures = 0
        except (OSError, ValueError) as error:
            self._port_failures += 1
            logger.error("no answer through the ports of clients: %r", error)  # noqa: TRY400
        self._health.reachable = self._port_failures < MAX_PORT_FAILURES

    async def _drain(self, serving: asyncio.Task[None]) -> None:
        """Become not ready, then accept no connections, then finish the accepted requests."""
        settings = self._settings
        self._health.draining = True
        self._workers.announce("not_ready")
        logger.info("Stopping: not ready any more")
        await asyncio.sleep(settings.drain_s)
        logger.info("Finishing what was accepted, for %d s at most", settings.stop_timeout_s)
        for listener in self._listeners.values():
            take_no_more(listener)
            listener.close()
        serving.cancel()  # TorchServe cannot drain, and takes seconds to exit
        await self._workers.drain(settings.stop_timeout_s)
        await asyncio.gather(serving, return_exceptions=True)

    def _reap_orphans(self) -> None:
        """Reap the workers of a dead Java: process 1 of a container becomes their parent."""
        if os.getpid() != 1:
            return
        ours = {worker.process.pid for worker in self._workers.living}
        if self._torchserve is not None and self._torchserve.process is not None:
            ours.add(self._torchserve.process.pid)
        which = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):  # there are no children
            # Our own children are waited for where they were started.
            while (ended := os.waitid(os.P_ALL, 0, which)) and ended.si_pid not in ours:
                os.waitpid(ended.si_pid, 0)

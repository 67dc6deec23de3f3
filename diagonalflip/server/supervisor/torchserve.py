"""TorchServe, beside the workers: started, checked by predictions, restarted alone.

It is a stock TorchServe: its Java, its worker processes, and the archive of each version. Nothing
else waits for it or ends because of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagonalflip.errors import DiagonalFlipError
from diagonalflip.server import health
from diagonalflip.server.http.routes import ALL_IMAGES
from diagonalflip.server.models.store import Artifacts
from diagonalflip.server.models.versions import Models
from diagonalflip.server.settings import LOOPBACK, Settings
from diagonalflip.server.supervisor import host, logs
from diagonalflip.server.supervisor.backoff import RestartBackoff
from diagonalflip.server.supervisor.ports import free_ports, require_free
from diagonalflip.server.supervisor.torchserve_command import (
    Installed,
    command,
    configuration,
    count_numbered_gpus,
    environment,
)
from diagonalflip.wire import MODEL

logger = logging.getLogger(__name__)

MANAGEMENT_TIMEOUT_S = 30.0
CHECK_TIMEOUT_S = 10.0
MAX_FAILED_CHECKS = 3
"""Consecutive failed checks after which TorchServe is restarted."""

WORKERS_OF_DEFAULT = 2
"""While one answers a batch, the other reads the next: 1.4 times the requests per second. Only the
version that is the default when TorchServe starts has two, so a switch starts no process."""

ROOM = 8
"""Room for its files, as a multiple of the archives' size: unpacked and compiled, they take 5."""

POLL_S = 0.1
STOP_TIMEOUT_S = 10.0
PORTS = ("torchserve_port", "metrics_port", "grpc_port", "grpc_management_port")


class EndedError(Exception):
    """Raised when TorchServe has ended, or does not predict."""


class TorchServe:
    """Keeps TorchServe running.

    Attributes:
        ready: Whether its last predictions were right.
        restarts: Number of restarts.
        process: Java; None while it does not run.
        settings: With the ports of its last start.
    """

    def __init__(self, settings: Settings, installed: Installed, models: Models) -> None:
        self.ready = False
        self.restarts = 0
        self.settings = settings
        self._wanted, self._installed, self._models = settings, installed, models
        self.process: Process | None = None
        self._workers: dict[str, int] = {}  # number by version
        self._is_up = False  # it has predicted since its last start
        self._management: int | Path = 0
        self._following = asyncio.Lock()
        self._backoff = RestartBackoff()
        self._output = logs.Part("java", settings)

    async def run(self) -> None:
        """Run it, and restart it whenever it has ended."""
        while True:
            try:
                default = self._models.default  # TorchServe's default is the first version
                others = (each for each in self._models.loaded if each.archive and each != default)
                served = [default, *others]
                room = ROOM * sum(len(each.archive or b"") for each in served)
                with host.private_folder(room) as scratch:
                    try:
                        await self._run(Path(scratch), served)
                    finally:
                        await self._stop()
            except (EndedError, DiagonalFlipError, OSError) as error:
                reason = str(error)
            except Exception:
                logger.exception("TorchServe")
                reason = "the supervisor failed"
            self.restarts += 1
            delay_s = self._backoff.ended()
            logger.error("TorchServe: %s; starting it again in %g s", reason, delay_s)
            await asyncio.sleep(delay_s)

    async def _stop(self) -> None:
        """Stop Java and its workers; kill them if they do not exit in time."""
        self.ready = self._is_up = False
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            self.process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        self.process = None

    async def follow(self) -> None:
        """Have it serve the versions that workers serve, of those that it knew at its start."""
        if not self._is_up:
            return  # this is called again at the end of its start
        async with self._following:
            served = {each.version for each in self._models.loaded}
            for version, workers in self._workers.items():
                if (version in served) != (workers > 0):
                    await self._scale(version, int(version in served))
            if (default := self._models.default.version) in self._workers:
                await self._manage(f"/models/{MODEL}/{default}/set-default")

    async def _scale(self, version: str, workers: int) -> None:
        """Set the number of workers of a version."""
        scale = f"min_worker={workers}&max_worker={workers}&synchronous=true"
        if await self._manage(f"/models/{MODEL}/{version}?{scale}"):
            self._workers[version] = workers

    async def _manage(self, path: str) -> bool:
        """Send a PUT to TorchServe's management; return whether it succeeded."""
        try:
            async with asyncio.timeout(MANAGEMENT_TIMEOUT_S):
                status, answer = await health.ask(self._management, "PUT", path)
        except (OSError, ValueError) as error:
            logger.error("TorchServe goes on as before: no answer to PUT %s: %r", path, error)  # noqa: TRY400
            return False
        if status not in (200, 202):
            reason = answer[:200].decode(errors="replace")
            logger.error("TorchServe goes on as before: PUT %s: %s", path, reason)
        return status in (200, 202)

    async def _run(self, scratch: Path, served: Sequence[Artifacts]) -> None:
        """Run it once; raise an error that says why it must be restarted."""
        started = time.monotonic()
        await self._start(scratch, served)
        timeout_s = self.settings.start_timeout_s
        while not await self._predicts():
            if time.monotonic() > started + timeout_s:
                reason = self._output.last_error()
                raise EndedError(f"no prediction within {timeout_s} s; {reason}")
            await self._pause(POLL_S)
        self._backoff.ready()
        if self.settings.workers >= WORKERS_OF_DEFAULT:
            await self._scale(next(iter(self._workers)), WORKERS_OF_DEFAULT)
        self._is_up = True
        await self.follow()  # versions may have been changed meanwhile
        self.ready = True
        port, seconds = self.settings.torchserve_port, time.monotonic() - started
        logger.info("TorchServe is ready on port %d after %.1f s", port, seconds)
        failures = 0
        while failures < MAX_FAILED_CHECKS:
            await self._pause(self.settings.health_check_interval_s)
            self.ready = await self._predicts()
            failures = 0 if self.ready else failures + 1
        raise EndedError(f"{failures} checks failed in a row")

    async def _pause(self, seconds: float) -> None:
        """Sleep; raise EndedError if the process ends meanwhile."""
        assert self.process is not None  # noqa: S101 - it was started
        with contextlib.suppress(TimeoutError):
            status = await asyncio.wait_for(self.process.wait(), seconds)
            raise EndedError(f"ended by itself with status {status}; {self._output.last_error()}")

    async def _predicts(self) -> bool:
        """Return whether every version that it serves predicts; raise ParityError if wrongly."""
        loaded = {each.version: each for each in self._models.loaded}
        port = self.settings.torchserve_port
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                for version, workers in list(self._workers.items()):
                    if workers and version in loaded:
                        path = f"/predictions/{MODEL}/{version}"
                        status, answer = await health.ask(port, "POST", path, body=ALL_IMAGES)
                        if status != 200:
                            return False
                        health.compare(answer, loaded[version])
        except (OSError, ValueError):
            return False
        return True

    async def _start(self, scratch: Path, served: Sequence[Artifacts]) -> None:
        """Start Java itself, not the command ``torchserve``.

        The command hides Java's exit status, and leaves Java running when it is killed
        (pytorch/serve: ts/model_server.py).
        """
        ports: dict[str, Any] = {
            name: getattr(self._wanted, name) or free_ports() for name in PORTS
        }
        self._management = scratch / "management.sock"
        management = f"unix:{self._management}"
        if self._wanted.management_port is not None or not host.takes_programs(scratch):
            self._management = port = self._wanted.management_port or free_ports()
            management = f"http://{LOOPBACK}:{port}"
            logger.warning("TorchServe's management is on %s: any user here can use it", management)
        self.settings = settings = replace(self._wanted, **ports)
        require_free(PORTS, settings)  # Java would not say which one is taken
        self._workers = {each.version: 1 for each in served}  # as the archives say
        archives = {f"{MODEL}-{each.version}.mar": each.archive for each in served if each.archive}
        store, config = scratch / "store", scratch / "config.properties"
        store.mkdir()
        for name, content in archives.items():
            (store / name).write_bytes(content)
        gpus = await asyncio.to_thread(count_numbered_gpus)
        config.write_text(configuration(settings, archives, self._installed, gpus, management))
        self.process = await asyncio.create_subprocess_exec(
            *command(self._installed, config, settings),
            cwd=scratch,
            env=environment(settings, scratch, gpus),
            stdin=DEVNULL,
            stdout=self._output.writer,
            stderr=self._output.writer,
            # A group of its own: Ctrl-C does not reach it, and the whole group can be killed.
            start_new_session=True,
            preexec_fn=host.die_with_parent,
        )

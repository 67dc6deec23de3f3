"""The workers: started, checked, restarted with growing delays, drained; a channel to each."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from diagonalflip.errors import ArtifactError, ParityError, ServerOverloaded
from diagonalflip.server.http import balance
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import process
from diagonalflip.server.supervisor.backoff import RestartBackoff
from diagonalflip.server.supervisor.logs import Part
from diagonalflip.server.supervisor.process import Worker, WorkerEndedError

if TYPE_CHECKING:  # it imports NumPy, for which starting the workers should not wait
    from diagonalflip.server.models.desired import Desired

RESULTS = ("passed", "wrong", "unanswered")
"""Results of health checks."""

SERVABLE = "a version that every worker can serve"

LISTENERS = {"port": "http", "public_port": "public"}

MAX_FAILED_STARTS = 6
"""Consecutive failed starts of every worker, after which the service gives up."""

logger = logging.getLogger(__name__)


class GaveUpError(Exception):
    """Raised when no worker can be started."""


class Workers:
    """Keeps the configured number of workers running.

    Args:
        settings: The number of workers, and what they need to know.
        listeners: The sockets from which workers accept clients, by the names of the ports.

    Attributes:
        desired: The versions to serve; None until ``serve``.
        checks: Number of health checks by result.
        restarts: Number of restarts of workers.
        fault: Why a worker cannot serve; empty once a worker has become ready again.
        faults: By version, why it cannot be loaded.
    """

    def __init__(self, settings: Settings, listeners: Mapping[str, socket.socket]) -> None:
        self.count = settings.workers
        self.desired: Desired | None = None
        self._announced: dict[str, Any] = {}
        self.checks = dict.fromkeys(RESULTS, 0)
        self.restarts = 0
        self.fault, self.faults = "", dict[str, str]()
        self._settings = settings
        self._counts = balance.share(self.count)
        self._clients = balance.counts(self._counts)
        descriptors = {LISTENERS[name]: each.fileno() for name, each in listeners.items()}
        self._arguments = process.arguments(settings, self._counts, descriptors)
        self._descriptors = [self._counts, *descriptors.values()]
        self._output = Part("worker", settings)
        self._workers: dict[int, Worker] = {}
        self._backoffs = [RestartBackoff() for _ in range(self.count)]
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all workers; each waits for ``serve``."""
        self._keepers = [asyncio.create_task(self._keep(each)) for each in range(self.count)]
        await self.until(lambda: len(self._workers) + self.restarts >= self.count)

    def serve(self, desired: Desired) -> None:
        """Have the workers start to serve; once more if they could not."""
        self.desired, self.fault, self.faults = desired, "", {}
        self._changed.set()

    @property
    def living(self) -> list[Worker]:
        """Workers whose process runs, in the order of their numbers."""
        return [self._workers[number] for number in sorted(self._workers)]

    @property
    def ready(self) -> int:
        """Number of workers that are ready."""
        return sum(worker.ready for worker in self.living)

    @property
    def gave_up(self) -> bool:
        """True once no worker can be started."""
        return all(each.failed_starts >= MAX_FAILED_STARTS for each in self._backoffs)

    @property
    def last_error(self) -> str:
        """The last error that a worker reported or logged."""
        return self.fault or self._output.last_error()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition; it is looked at after a worker's start, check and end."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def announce(self, name: str, content: Any = None) -> None:
        """Send a message to every worker, and later to those that are started."""
        self._announced[name] = content
        for worker in self.living:
            worker.channel.send(name, content)

    def share_status(self) -> None:
        """Send each worker the figures of all, for the page."""
        known = [worker for worker in self.living if worker.page]
        status = [{"worker": worker.number, **worker.page["recent"]} for worker in known]
        for worker in self.living:
            if worker.revision:
                worker.channel.offer("status", status)

    async def apply(self, desired: Desired) -> None:
        """Have all workers serve other versions, or none of them.

        A worker serves them only after every worker has loaded and checked them. A worker that
        exits meanwhile gets them at its next start.

        Raises:
            ServerOverloaded: No worker is up.
            ArtifactError: A worker cannot serve them.
        """
        async with self._changing:
            serving = [worker for worker in self.living if worker.revision]
            if not serving:
                raise ServerOverloaded("no worker is up", "one", "send it again later")
            timeout_s = process.CHANGE_TIMEOUT_S
            prepared = [worker.prepare(desired, timeout_s) for worker in serving]
            faults = await asyncio.gather(*prepared, return_exceptions=True)
            for worker, fault in zip(serving, faults, strict=True):
                if isinstance(fault, TimeoutError):
                    silent = f"worker {worker.number}, silent for {timeout_s:g} s"
                    raise ArtifactError(silent, SERVABLE)
                if isinstance(fault, dict) and fault:
                    raise ArtifactError("; ".join(fault.values()), SERVABLE)
            if {} not in faults:
                raise ArtifactError("every worker ended while it loaded the versions", SERVABLE)
            self.desired = desired
            committed = [worker.commit(desired) for worker in serving]
            await asyncio.gather(*committed, return_exceptions=True)

    async def drain(self, timeout_s: float) -> None:
        """Have all workers answer the requests that have arrived and exit; wait for that."""
        for keeper in self._keepers:
            keeper.cancel()
        self.announce("drain")
        await asyncio.gather(*(worker.ended(timeout_s) for worker in self.living))

    async def end(self) -> None:
        """Kill the workers that are left."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for worker in self.living:
            await worker.reap()
        self._output.close()
        os.close(self._counts)

    async def _keep(self, number: int) -> None:
        """Run a worker, and restart it whenever it has ended."""
        backoff = self._backoffs[number]
        while True:
            reason = await self._run(number, backoff)
            delay_s = backoff.ended()
            self.restarts += 1
            self._changed.set()
            logger.error("worker %d %s; starting another in %g s", number, reason, delay_s)
            await asyncio.sleep(delay_s)

    async def _run(self, number: int, backoff: RestartBackoff) -> str:
        """Run one worker until it has ended; return why."""
        try:
            output = self._output.writer
            worker = await Worker.start(number, self._arguments, self._descriptors, output)
        except OSError as error:
            return f"could not be started: {error}"
        self._workers[number] = worker
        self._changed.set()
        reason = ""
        try:
            await self._bring_up(worker)
            backoff.ready()
            while not await worker.ended(self._settings.health_check_interval_s):
                await self._check(worker)
        except WorkerEndedError as error:
            reason = str(error)
        except TimeoutError:
            reason = "did not start in time and was killed"
        except Exception:
            logger.exception("worker %d", number)
            reason = "was killed: the supervisor failed"
        worker.ready = False
        outcome = await worker.reap()
        self._clients[number] = balance.ABSENT
        del self._workers[number]
        return reason or outcome

    async def _bring_up(self, worker: Worker) -> None:
        """Have a new worker serve the desired versions, and check it."""
        for name, content in self._announced.items():
            worker.channel.send(name, content)
        await self.until(lambda: self.desired)
        while not worker.revision:
            desired = self.desired
            assert desired is not None  # noqa: S101 - it was waited for
            faults = await worker.prepare(desired, self._settings.start_timeout_s)
            if faults and desired is self.desired:
                self.faults, self.fault = faults, "; ".join(faults.values())
                self._changed.set()
                raise WorkerEndedError(f"cannot serve: {self.fault}")
            async with self._changing:
                if self.desired is desired:
                    await worker.commit(desired)
        await self._check(worker)
        self.fault = ""

    async def _check(self, worker: Worker) -> None:
        """Make one health check; raise WorkerEndedError if the worker ends or fails it."""
        desired, revision = self.desired, worker.revision
        try:
            answers = await worker.check()
            # During a change of versions it is not known which of them have answered.
            if desired and desired is self.desired and revision == desired.number:
                desired.check(answers, "cuda" if self._settings.require_gpu else None)
        except ParityError as error:
            result, reason = "wrong", f"answered wrongly and was killed: {error}"
            self.fault = f"worker {worker.number} answered wrongly: {error}"
        except TimeoutError:
            result, reason = "unanswered", "did not answer a health check and was killed"
        else:
            result, reason = "passed", ""
            worker.checked_at = time.monotonic()
        self.checks[result] += 1
        worker.ready = result == "passed"
        self._changed.set()
        if reason:
            raise WorkerEndedError(reason)

"""The workers: started, checked, restarted with growing delays, drained; a channel to each."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diagonalflip.errors import ParityError, ServerOverloaded
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor.backoff import RestartBackoff
from diagonalflip.server.supervisor.logs import Part
from diagonalflip.server.supervisor.process import CHANGE_TIMEOUT_S, Worker, WorkerEndedError
from diagonalflip.server.supervisor.worker_command import start_worker
from diagonalflip.server.worker.channel import Channel

if TYPE_CHECKING:  # it would import NumPy, before the workers are started
    from diagonalflip.server.models.desired import Desired

RESULTS = ("passed", "wrong", "unanswered")
"""Of health checks."""

LISTENERS = {"port": "http", "public_port": "public"}

MAX_FAILED_STARTS = 6
"""In a row, of every worker; then the service gives up."""

logger = logging.getLogger(__name__)


class GaveUpError(Exception):
    """No worker can start."""


class Workers:
    """Keeps as many workers as there should be.

    Args:
        settings: What to serve, and where.
        listeners: All sockets, by the names of their ports; every worker accepts clients from
            those of ``LISTENERS``.

    Attributes:
        desired: What they serve; nothing until ``serve``.
        access: Tokens and certificate of the public listener, for the channel; None without.
        checks: How many health checks, by result.
        killed: How many workers failed one.
        restarts: How many workers were started again.
        fault: What is wrong with a worker's predictions; empty when they were right last.
        changed: Set whenever a worker gets ready, or does not.
    """

    def __init__(self, settings: Settings, listeners: Mapping[str, socket.socket]) -> None:
        self.desired: Desired | None = None
        self.access: dict[str, Any] | None = None
        self.checks: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self.killed = self.restarts = 0
        self.fault = ""
        self.changed = asyncio.Event()
        self.count = settings.workers
        self._settings = settings
        self._listeners = {
            LISTENERS[name]: each for name, each in listeners.items() if name in LISTENERS
        }
        self._device = "cuda" if settings.require_gpu else None
        self._output = Part("worker", settings)
        self._workers: dict[int, Worker] = {}
        self._backoffs = [RestartBackoff() for _ in range(self.count)]
        self._changing = asyncio.Lock()
        self._begun = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all; each waits for ``serve``."""
        self._keepers = [asyncio.create_task(self._keep(each)) for each in range(self.count)]
        await asyncio.sleep(0)

    def serve(self, desired: Desired, access: dict[str, Any] | None) -> None:
        """Have them serve for the first time."""
        self.desired, self.access = desired, access
        self._begun.set()

    @property
    def living(self) -> list[Worker]:
        """Those whose process has not ended."""
        return [self._workers[number] for number in sorted(self._workers)]

    @property
    def ready(self) -> int:
        """How many are ready."""
        return sum(worker.ready for worker in self._workers.values())

    @property
    def pids(self) -> set[int]:
        """Their processes."""
        return {worker.process.pid for worker in self._workers.values()}

    @property
    def gave_up(self) -> bool:
        """Return whether no worker can start."""
        return not self.ready and all(
            each.failed_starts >= MAX_FAILED_STARTS for each in self._backoffs
        )

    @property
    def last_error(self) -> str:
        """The last line in which a worker told of an error."""
        return self.fault or self._output.last_error()

    def broadcast(self, name: str, content: Any = None) -> None:
        """Send a message to every worker."""
        for worker in self.living:
            worker.channel.send(name, content)

    def share_status(self) -> None:
        """Tell each worker the figures of all, for the page."""
        pages = [worker.page for worker in self.living if worker.page]
        status = [{"worker": page["worker"], **page["recent"]} for page in pages]
        for worker in self.living:
            if worker.revision:
                worker.channel.offer("status", status)

    async def apply(self, desired: Desired) -> str:
        """Have all workers serve other versions: all of them, or none.

        A worker shows them only after every worker has loaded and checked them. A worker that
        ends meanwhile gets them at its next start.

        Returns:
            Why a worker cannot; nothing once all do.

        Raises:
            ServerOverloaded: No worker is up.
        """
        async with self._changing:
            serving = [worker for worker in self.living if worker.revision]
            if not serving:
                raise ServerOverloaded("no worker is up", "one", "send it again later")
            prepared = [worker.prepare(desired, CHANGE_TIMEOUT_S) for worker in serving]
            faults = await asyncio.gather(*prepared, return_exceptions=True)
            for worker, fault in zip(serving, faults, strict=True):
                if isinstance(fault, TimeoutError):
                    return f"worker {worker.number}, silent for {CHANGE_TIMEOUT_S:g} s"
                if isinstance(fault, str) and fault:
                    return fault
            if "" not in faults:
                return "every worker ended while it loaded the versions"
            self.desired = desired
            committed = [worker.commit(desired) for worker in serving]
            outcomes = await asyncio.gather(*committed, return_exceptions=True)
            for worker, outcome in zip(serving, outcomes, strict=True):
                if isinstance(outcome, TimeoutError):
                    worker.kill()  # it would go on with what it had
        return ""

    async def drain(self, timeout_s: float) -> None:
        """Have all workers answer what has come in and end; wait for that."""
        for keeper in self._keepers:
            keeper.cancel()
        self.broadcast("drain")
        deadline = time.monotonic() + timeout_s
        for worker in self.living:
            await worker.ended(max(0.0, deadline - time.monotonic()))

    async def end(self) -> None:
        """End all that are left, at once."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for worker in self.living:
            await worker.reap()
        self._output.close()

    async def _keep(self, number: int) -> None:
        """Run one worker after the other, for ever."""
        backoff = self._backoffs[number]
        while True:
            reason = await self._run(number, backoff)
            delay_s = backoff.ended()
            self.restarts += 1
            self.changed.set()
            logger.error("worker %d %s; starting another in %g s", number, reason, delay_s)
            await asyncio.sleep(delay_s)

    async def _run(self, number: int, backoff: RestartBackoff) -> str:
        """Run one worker until it has ended; return why."""
        try:
            worker = self._workers[number] = await self._spawn(number)
        except OSError as error:
            return f"could not be started: {error}"
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
        else:
            reason = ""
        worker.ready = False
        outcome = await worker.reap()
        del self._workers[number]
        return reason if reason not in ("", "ended") else outcome

    async def _spawn(self, number: int) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            channel = await Channel.open(ours)
            try:
                process = start_worker(
                    self._settings, number, theirs, self._listeners, self._output.writer
                )
            except OSError:
                channel.close()
                raise
        return Worker(number, process, channel)

    async def _bring_up(self, worker: Worker) -> None:
        """Have a new worker serve what is desired, and check that."""
        await self._begun.wait()
        if self.access is not None:
            worker.channel.send("access", self.access)
        while True:
            desired = self.desired
            assert desired is not None  # noqa: S101 - it was begun with that
            fault = await worker.prepare(desired, self._settings.start_timeout_s)
            if fault:
                self.fault = fault
                self.changed.set()
                worker.kill()
                raise WorkerEndedError(f"cannot serve: {fault}")
            async with self._changing:
                if self.desired is desired:
                    await worker.commit(desired)
                    break
        await self._check(worker)
        self.fault = ""

    async def _check(self, worker: Worker) -> None:
        """Make one health check; end the worker if it is the worker's fault.

        Raises:
            WorkerEndedError: It was wrong, hung, or has ended.
        """
        desired, revision = self.desired, worker.revision
        try:
            answers = await worker.check()
            # In a change of versions nobody knows which of them have answered.
            if desired and desired is self.desired and revision == desired.number:
                desired.check(answers, self._device)
        except ParityError as error:
            self.fault = f"worker {worker.number} answered wrongly: {error}"
            self._fail(worker, "wrong", f"answered wrongly and was killed: {error}")
        except TimeoutError:
            self._fail(worker, "unanswered", "did not answer a health check and was killed")
        self.checks["passed"] += 1
        worker.checked_at = time.monotonic()
        if not worker.ready:
            worker.ready = True
            self.changed.set()

    def _fail(self, worker: Worker, result: str, reason: str) -> None:
        self.checks[result] += 1
        self.killed += 1
        worker.ready = False
        self.changed.set()
        worker.kill()
        raise WorkerEndedError(reason)

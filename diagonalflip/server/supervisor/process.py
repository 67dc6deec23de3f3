"""One worker's process, as the supervisor sees it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import host
from diagonalflip.server.worker.channel import Channel

if TYPE_CHECKING:  # it imports NumPy, for which starting the workers should not wait
    from diagonalflip.server.models.desired import Desired

PACKAGE_PARENT = Path(__file__).resolve().parents[3]
"""Working directory of the workers, so that they import the same package."""

SAFE_PATH = ["-P"] if Path(sysconfig.get_path("purelib")).resolve() == PACKAGE_PARENT else []
"""If the package is installed, keeps the working directory off the import path: site-packages
may have modules with names of the standard library's."""

PROGRAM = [sys.executable, *SAFE_PATH, "-m", "diagonalflip.server.worker"]

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 27)}
"""Makes glibc keep the memory of large responses. Otherwise it returns it to the kernel and maps
it again for each response: 500 page faults for 2 MiB, more time than the predictions take."""

HANG_TIMEOUT_S = 1.0
"""A worker that owes an answer and uses no processor time in two such intervals hangs."""

BUSY_TIMEOUT_S = 60.0
"""Longest wait for a busy worker's answer; even a full queue takes less."""

CHANGE_TIMEOUT_S = 30.0
"""Longest time for a worker to load and check a version."""


REAP_POLL_S = 0.01


class WorkerEndedError(Exception):
    """Raised when a worker's process has ended, or must be killed for the reason given."""


class Worker:
    """One worker's process, and the supervisor's end of its channel.

    Attributes:
        number: From 0.
        ready: Whether it passed its last health check.
        checked_at: When it passed one last, in ``time.monotonic``'s seconds; None if never.
        revision: ``Desired.number`` of what it serves; 0 before it serves.
        page: Its last measurements.
    """

    def __init__(self, number: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.number, self.process, self.channel = number, process, channel
        self.ready = False
        self.checked_at: float | None = None
        self.revision = 0
        self.page: dict[str, Any] = {}
        self._answers: dict[tuple[str, int], asyncio.Future[Any]] = {}
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls, number: int, arguments: Sequence[str], descriptors: Sequence[int], output: int
    ) -> Self:
        """Start a worker; raise OSError if that fails.

        It inherits ``descriptors``, which its arguments name, and logs to ``output``.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            channel = await Channel.open(ours)
            own = [f"--number={number}", f"--channel={theirs.fileno()}"]
            try:
                process = subprocess.Popen(  # noqa: ASYNC220 - it takes milliseconds
                    [*PROGRAM, *own, *arguments],
                    cwd=PACKAGE_PARENT,
                    env=ALLOCATOR | host.child_environment() | {"OMP_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno(), *descriptors],
                    # The supervisor handles Ctrl-C. No session of its own: Linux shares out
                    # processor time by session (sched(7), autogroups).
                    process_group=0,
                )
            except OSError:
                channel.close()
                raise
        return cls(number, process, channel)

    async def ask(self, name: str, answer: str, content: Any = None, number: int = 0) -> Any:
        """Send a message; return the content of its answer.

        Raises:
            WorkerEndedError: The worker ended before it answered.
        """
        self._answers[answer, number] = future = asyncio.get_running_loop().create_future()
        self.channel.send(name, content, number=number)
        await asyncio.wait({future, self._listening}, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise WorkerEndedError
        return future.result()

    async def prepare(self, desired: Desired, timeout_s: float) -> dict[str, str]:
        """Have it load versions; return by version why it cannot.

        Raises:
            WorkerEndedError: It ended.
            TimeoutError: It did not answer in time.
        """
        async with asyncio.timeout(timeout_s):
            return dict(await self.ask("prepare", "prepared", desired.content, desired.number))

    async def commit(self, desired: Desired) -> None:
        """Have it serve the prepared versions; raise as ``prepare`` does."""
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                await self.ask("commit", "committed", None, desired.number)
        except TimeoutError:
            self.process.kill()  # or it would go on with the old versions
            raise
        self.revision = desired.number

    async def check(self) -> dict[str, Any]:
        """Return its answers to a health check, by version.

        Raises:
            WorkerEndedError: It ended.
            TimeoutError: It hangs, or is busy for too long.
        """
        asked = asyncio.ensure_future(self.ask("check", "checked"))
        worked_s = [_work_s(self.process.pid)]
        try:
            for _ in range(int(BUSY_TIMEOUT_S / HANG_TIMEOUT_S)):
                await asyncio.wait({asked}, timeout=HANG_TIMEOUT_S)
                if asked.done():
                    answers: dict[str, Any] = await asked
                    return answers
                worked_s.append(_work_s(self.process.pid))
                # One interval without work could be a pause of the whole machine.
                if worked_s[-1] in worked_s[:-2]:
                    break
        finally:
            asked.cancel()  # or its error would be lost if this task is cancelled
        raise TimeoutError

    async def ended(self, timeout_s: float) -> bool:
        """Wait for its end, for at most so many seconds; return whether it has ended."""
        await asyncio.wait({self._listening}, timeout=timeout_s)
        return self._listening.done()

    async def reap(self) -> str:
        """Kill it unless it has closed its channel; wait for its end, and return the status."""
        if not await self.ended(0):
            self.process.kill()
        self.channel.close()
        while self.process.poll() is None:  # noqa: ASYNC110 - there may be no room for a thread
            await asyncio.sleep(REAP_POLL_S)
        return f"ended with status {self.process.returncode}"

    async def _listen(self) -> None:
        """Receive its messages until it closes the channel."""
        while message := await self.channel.receive():
            key = message["message"], message["number"]
            if message["message"] == "metrics":
                self.page = message["content"]
            elif key in self._answers:
                self._answers.pop(key).set_result(message["content"])


def arguments(settings: Settings, counts: int, listeners: Mapping[str, int]) -> list[str]:
    """Return the arguments that all workers get.

    ``counts`` is the descriptor of ``balance.share``, and ``listeners`` has those of the sockets
    from which workers accept clients, by name.
    """
    given = [f"--workers={settings.workers}", f"--counts={counts}"]
    given += [f"--listener={name}={descriptor}" for name, descriptor in listeners.items()]
    given += [f"--idle-timeout-s={settings.idle_timeout_s}"]
    given += [f"--allowed-hosts={settings.allowed_hosts}"]
    if settings.tokens_file is not None:
        given += [f"--token-rate={settings.token_rate}"]
    if settings.access_log:
        given += [f"--access-log={settings.log_dir}"]
    if settings.log_format == "json":
        given += ["--json-logs"]
    return given


def _work_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    import psutil  # noqa: PLC0415 - after the workers are started

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)

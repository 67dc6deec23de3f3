"""A server as a process: started, found ready, measured, stopped; ours in particular."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks.driver import Address
from benchmarks.workloads import Workload
from diagonalflip.server.models import store
from diagonalflip.server.settings import Settings, variable
from diagonalflip.server.supervisor.ports import free_ports
from diagonalflip.server.supervisor.process import ALLOCATOR

ROOT = Path(__file__).resolve().parent.parent
PATH = "/predictions/diagonal_flip"
TORCHSERVE_ANSWER_BYTES = 625_000
"""The longest answer on TorchServe's port; it rejects what needs a longer one."""

STOP_TIMEOUT_S = 30
DIRECT = {"no_proxy": "*"}
"""For ``requests``: a proxy of this host knows nothing of its loopback."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass
class Running:
    """A server that was started, and answers some time later.

    Attributes:
        process: The first of its processes.
        port: Where it listens on loopback.
        fixed: Whether its path is the answer's length.
        token: That it wants, if any.
        certificate: That it has, if it speaks TLS.
    """

    process: psutil.Popen
    port: int
    fixed: bool = False
    token: str = ""
    certificate: Path | None = None

    @property
    def url(self) -> str:
        """URL of the port."""
        return f"http://127.0.0.1:{self.port}"

    def address(self, workload: Workload) -> Address:
        """Return the address to send ``workload`` to."""
        path = f"/{workload.answer_bytes}" if self.fixed else PATH
        return Address(self.port, path, self.token, self.certificate)

    def serves(self) -> bool:
        """Return whether it says itself that all of it is ready."""
        return True

    def cpu_s(self) -> float:
        """Return the processor seconds that the whole process tree has used."""
        used = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                used += sum(process.cpu_times()[:2])
        return used

    def _tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def pss_mib(self) -> float:
        """Return the MiB of the whole process tree; memory that processes share counts once."""
        total = 0
        for process in self._tree():
            with contextlib.suppress(OSError):  # it may have ended
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                total += int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0])
        return total / 1024


@dataclass
class Ours(Running):
    """This product.

    Attributes:
        ports: By setting.
    """

    ports: dict[str, int] = field(default_factory=dict)

    @property
    def admin_url(self) -> str:
        """URL of the admin port."""
        return f"http://127.0.0.1:{self.ports['ADMIN_PORT']}"

    def state(self) -> dict[str, Any]:
        """Return what it says of its readiness; nothing while it does not answer."""
        url = f"{self.admin_url}/v2/health/ready"
        try:
            return dict(requests.get(url, timeout=2, proxies=DIRECT).json())
        except requests.RequestException:
            return {}

    def serves(self) -> bool:
        """Return whether it is ready, with all workers, and with TorchServe where that is on."""
        state = self.state()
        if not state.get("ready") or state["degraded"]:
            return False
        all_workers = state["workers_ready"] == state["workers"]
        return all_workers and (state["torchserve"] is None or state["torchserve"]["ready"])

    def workers(self) -> list[psutil.Process]:
        """Return its workers, by number."""
        found = {}
        for child in self.process.children():
            with contextlib.suppress(psutil.Error):  # it may have ended
                words = child.cmdline()
                if words[1:3] == ["-m", "diagonalflip.server.worker"]:
                    found[words[3]] = child
        return [found[number] for number in sorted(found)]

    def java(self) -> psutil.Process:
        """Return TorchServe's process; StopIteration if it does not run."""
        return next(each for each in self.process.children() if each.name() == "java")


@contextlib.contextmanager
def our_server(scratch: Path, **settings: str) -> Iterator[Ours]:
    """Run the whole product with TorchServe, all of it ready."""
    with ours(scratch, "PORT", TORCHSERVE="1", **settings) as server:
        wait_until(server.serves, server)
        yield server


@contextlib.contextmanager
def ours(scratch: Path, port: str, token: str = "", **settings: str) -> Iterator[Ours]:
    """Run the product, as ``make serve`` does, asked on the port of that name."""
    ports = {name.upper(): free_ports() for name in Settings.ports()}
    usual = {name: str(number) for name, number in ports.items()}
    usual |= {"MODEL_STORE": str(model_store()), "LOG_DIR": str(scratch / "logs")}
    environment = {"PYTHONPATH": str(ROOT)} | variables(usual | settings)
    with process([sys.executable, "-m", "diagonalflip.server"], scratch, environment) as first:
        certificate = Path(settings["TLS_CERT"]) if "TLS_CERT" in settings else None
        yield Ours(first, ports[port], token=token, certificate=certificate, ports=ports)


def variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for settings by the names that make takes, and for other variables."""
    known = {each.name.upper() for each in fields(Settings)}
    return {variable(name) if name in known else name: value for name, value in settings.items()}


@contextlib.contextmanager
def process(
    command: list[str], scratch: Path, settings: dict[str, str] | None = None
) -> Iterator[psutil.Popen]:
    """Run a process with ``output.log`` in ``scratch``, and at its end stop all of its group."""
    scratch.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": "1"} | ALLOCATOR | (settings or {})
    with (scratch / "output.log").open("ab") as output:
        first = psutil.Popen(
            command,
            cwd=scratch,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to be swept at the end
            preexec_fn=_die_with_parent,  # safe: this process has one thread
        )
    try:
        yield first
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGTERM)
        with contextlib.suppress(psutil.TimeoutExpired):
            first.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.wait()


def wait_until(answers: Callable[[], bool], server: Running, timeout_s: float = 120) -> None:
    """Wait until ``answers`` says that a right answer came.

    Raises:
        RuntimeError: The server ended, or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while not answers():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the server ended, or gave no right answer in time")
        time.sleep(0.02)


def seconds_until(
    condition: Callable[[], Any], timeout_s: float, told: Callable[[], object]
) -> float:
    """Return the seconds until ``condition`` held.

    Raises:
        TimeoutError: It did not; with what ``told`` returns.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"not within {timeout_s:g} s\n{told()}")
        time.sleep(0.01)
    return time.monotonic() - started


def model_store() -> Path:
    """Return the folder that ``make export`` filled."""
    return Path(os.environ.get("FLIP_MODEL_STORE") or ROOT / "model_store").resolve()


def first_export() -> Path:
    """Return the folder of the version that is served by default, and computed by everybody."""
    return store.exports(model_store())[0]


def _die_with_parent() -> None:
    """End the server with this process, even if this is killed. Runs in the child."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

"""Starts and stops each server that is compared; while one runs, no other does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import psutil

from benchmarks.driver import Address
from benchmarks.workloads import WORKLOADS, Rule, Workload
from supervisor import store, tokens
from supervisor.front import FrontDoor
from supervisor.models import Models
from supervisor.ports import free_ports, resolve
from supervisor.settings import LOOPBACK, Settings
from supervisor.torchserve import ALLOCATOR, TorchServe, running

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).with_name("peers")
ENVIRONMENTS = ROOT / ".bench"
PATH = "/predictions/diagonal_flip"
STOP_TIMEOUT_S = 30
PR_SET_PDEATHSIG = 1  # linux/prctl.h
NGINX = Template((PEERS / "nginx.conf").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Running:
    """A server that was started, and answers some time later.

    Attributes:
        process: The first of its processes.
        port: Where it listens on loopback.
        fixed: Whether its path is the answer's length.
        token: That it wants, if any.
    """

    process: psutil.Process
    port: int
    fixed: bool = False
    token: str = ""

    def address(self, workload: Workload) -> Address:
        """Address to send ``workload`` to."""
        path = f"/{workload.answer_bytes}" if self.fixed else PATH
        return Address(self.port, path, self.token)

    def alive(self) -> bool:
        """Return whether the first process still runs."""
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE

    def cpu_s(self) -> float:
        """Processor seconds that the whole process tree has used."""
        used = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                used += sum(process.cpu_times()[:2])
        return used

    def _tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def pss_mib(self) -> float:
        """MiB of the whole process tree; memory that processes share counts once."""
        total = 0
        for process in self._tree():
            with contextlib.suppress(OSError):  # it may have ended
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                total += int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0])
        return total / 1024


Start = Callable[[Path], contextlib.AbstractContextManager[Running]]


@dataclass(frozen=True)
class Server:
    """A server to compare.

    Attributes:
        title: As in the report.
        start: Starts it; is given a folder for all that it writes.
        rule: How its answers are compared.
        ours: Whether it is this product.
    """

    title: str
    start: Start
    rule: Rule = Rule.TOLERANCE
    ours: bool = False


@contextlib.contextmanager
def our_server(scratch: Path) -> Iterator[TorchServe]:
    """This product on free ports, with its logs below ``scratch``; it serves some seconds later."""
    ports: dict[str, Any] = dict.fromkeys(Settings.ports(), 0)
    settings = resolve(Settings(model_store=model_store(), log_dir=scratch / "logs", **ports))
    with tempfile.TemporaryDirectory() as name:
        sockets = Path(name)
        with FrontDoor([(LOOPBACK, settings.port)], settings.workers, sockets) as front:
            models = Models(settings.model_store, sockets, front)
            with running(settings, models, sockets) as server:
                yield server


@contextlib.contextmanager
def _ours(scratch: Path, port: str, token: str = "", **settings: str) -> Iterator[Running]:
    """The whole product, as ``make serve`` runs it, asked on the port of that name."""
    environment = {name.upper(): str(free_ports()) for name in Settings.ports()}
    environment |= {"MODEL_STORE": str(model_store()), "LOG_DIR": str(scratch / "logs")}
    environment |= {"PYTHONPATH": str(ROOT)} | settings
    with _process([sys.executable, "-m", "supervisor"], scratch, environment) as process:
        yield Running(process, int(environment[port]), token=token)


def _front(scratch: Path) -> contextlib.AbstractContextManager[Running]:
    return _ours(scratch, "PORT")


def _torchserve(scratch: Path) -> contextlib.AbstractContextManager[Running]:
    return _ours(scratch, "TORCHSERVE_PORT")


def _edge(scratch: Path) -> contextlib.AbstractContextManager[Running]:
    scratch.mkdir(parents=True, exist_ok=True)
    token = tokens.add(scratch / "tokens", "bench")
    rate = str(1 << 30)  # here one client is all the load
    return _ours(scratch, "EDGE_PORT", token, TOKENS_FILE=str(scratch / "tokens"), TOKEN_RATE=rate)


def _peer(environment: str, *command: str) -> Start:
    """Another server, of one of our environments; ``PORT`` in its command is the port."""

    @contextlib.contextmanager
    def start(scratch: Path) -> Iterator[Running]:
        port = free_ports()
        words = [str(port) if word == "PORT" else word for word in command]
        settings = {"PYTHONPATH": str(PEERS)}
        with _process([str(_python(environment)), "-m", *words], scratch, settings) as process:
            yield Running(process, port)

    return start


def _uvicorn(app: str) -> Start:
    """Two workers, as fast as uvicorn goes."""
    fast = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    return _peer("servers", "uvicorn", app, "--port", "PORT", "--workers", "2", *fast)


@contextlib.contextmanager
def _fixed(scratch: Path) -> Iterator[Running]:
    port = free_ports()
    if shutil.which("nginx") is None:
        command = [sys.executable, str(PEERS / "fixed_app.py"), str(port)]
    else:
        answers = scratch / "answers"
        answers.mkdir(parents=True, exist_ok=True)
        for workload in WORKLOADS.values():
            (answers / str(workload.answer_bytes)).write_bytes(bytes(workload.answer_bytes))
        (scratch / "nginx.conf").write_text(NGINX.substitute(port=port), encoding="utf-8")
        command = ["nginx", "-p", str(scratch), "-c", "nginx.conf", "-e", "stderr"]
        if os.geteuid() == 0:
            command += ["-g", "user root;"]  # or its workers could not read the scratch folder
    with _process(command, scratch) as process:
        yield Running(process, port, fixed=True)


SERVERS = {
    "torchserve": Server("ours, TorchServe's port", _torchserve, ours=True),
    "front": Server("ours, front door", _front, ours=True),
    "edge": Server("ours, through the edge", _edge, ours=True),
    "fastapi": Server("FastAPI on uvicorn, 2 workers, no batching", _uvicorn("fastapi_app:app")),
    "asgi": Server("bare ASGI on uvicorn, 2 workers, our batching", _uvicorn("asgi_app:app")),
    "granian": Server(
        "RSGI on granian, 2 workers, no batching",
        _peer(
            *("servers", "granian", "rsgi_app:app", "--interface", "rsgi", "--port", "PORT"),
            *("--workers", "2", "--loop", "uvloop", "--no-log", "--no-ws", "--http", "1"),
        ),
    ),
    "mosec": Server(
        "mosec, 2 workers, dynamic batch 64, 1 ms",
        _peer(
            *("servers", "mosec_app", "--address", "127.0.0.1", "--port", "PORT"),
            *("--log-level", "warning"),
        ),
    ),
    "litserve": Server(
        "LitServe, dynamic batch 64, 1 ms", _peer("litserve", "litserve_app", "PORT")
    ),
    "fixed": Server(
        "nginx, fixed answer of the same size"
        if shutil.which("nginx")
        else "bare asyncio (no nginx here), fixed answer of the same size",
        _fixed,
        Rule.LENGTH,
    ),
}


@contextlib.contextmanager
def _process(
    command: list[str], scratch: Path, settings: dict[str, str] | None = None
) -> Iterator[psutil.Process]:
    scratch.mkdir(parents=True, exist_ok=True)
    environment = {"FLIP_ONNX": str(first_export() / "diagonal_flip.onnx"), "OMP_NUM_THREADS": "1"}
    environment |= ALLOCATOR | (settings or {})
    with (scratch / "output.log").open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to be swept at the end
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(answers: Callable[[], bool], server: Running, timeout_s: float = 120) -> None:
    """Blocks until ``answers`` says that a right answer came.

    Raises:
        RuntimeError: The server ended, or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while not answers():
        if not server.alive() or time.monotonic() > deadline:
            raise RuntimeError("the server ended, or gave no right answer in time")
        time.sleep(0.02)


def log_tail(folder: Path) -> str:
    """The last of what a server wrote into ``folder``."""
    logs = [path.read_text(errors="replace").strip() for path in sorted(folder.rglob("*.log"))]
    return "\n".join(text[-1000:] for text in logs if text) or "no logs"


def model_store() -> Path:
    """The folder that ``make export`` filled."""
    return Path(os.environ.get("MODEL_STORE") or ROOT / "model_store").resolve()


def first_export() -> Path:
    """The folder of the version that is served by default, and computed by everybody."""
    return store.exports(model_store())[0]


def _python(environment: str) -> Path:
    python = ENVIRONMENTS / environment / "bin/python"
    if not python.exists():
        raise RuntimeError(f"no environment for {environment}: run `make bench`")
    return python


def _die_with_parent() -> None:
    """End the server with this process, even if this is killed. Runs in the child."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

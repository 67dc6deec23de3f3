"""Starts and stops each server that is compared; while one runs, no other does."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template

from benchmarks import running
from benchmarks.running import Running
from benchmarks.workloads import WORKLOADS, Workload
from diagonalflip.server.supervisor.ports import free_ports

PEERS = Path(__file__).with_name("peers")
NGINX = Template((PEERS / "nginx.conf").read_text(encoding="utf-8"))
FAST = "--port PORT --workers 2 --loop uvloop --http httptools --no-access-log"
FASTAPI = f"uvicorn fastapi_app:app {FAST} --log-level warning"
ASGI = f"uvicorn asgi_app:app {FAST} --log-level warning"
TLS = "--ssl-certfile CERTIFICATE --ssl-keyfile KEY"
RSGI = "granian rsgi_app:app --interface rsgi --port PORT --workers 2 --loop uvloop --http 1"
MOSEC = "mosec_app --address 127.0.0.1 --port PORT --log-level warning"

Start = Callable[[Path], contextlib.AbstractContextManager[Running]]


@dataclass(frozen=True)
class Server:
    """A server to compare."""

    title: str  # as in the report
    start: Start  # starts it; is given a folder for all that it writes
    computes: bool = True  # whether it predicts; else the length of its answers is compared
    ours: bool = False  # whether it is this product
    most_bytes: int = sys.maxsize  # of an answer

    def answers(self, workload: Workload) -> bool:
        """Return whether it can be asked for that."""
        return workload.answer_bytes <= self.most_bytes and (self.ours or not workload.ours_only)


@contextlib.contextmanager
def _run(folder: Path, command: str, environment: str) -> Iterator[Running]:
    python = running.ROOT / ".bench" / environment / "bin/python"
    if not python.exists():
        raise RuntimeError(f"no environment for {environment}: run `make bench`")
    port = free_ports()
    certificate, key = running.certify(folder) if "CERTIFICATE" in command else (None, None)
    named = {"PORT": str(port), "CERTIFICATE": str(certificate), "KEY": str(key)}
    words = [named.get(word, word) for word in command.split()]
    model = running.first_export() / "diagonal_flip.onnx"
    variables = {"PYTHONPATH": str(PEERS), "BENCH_ONNX": str(model)}
    with running.process([str(python), "-m", *words], folder, variables) as first:
        yield Running(port, certificate=certificate, process=first, folder=folder)


def _peer(title: str, command: str, environment: str = "servers") -> Server:
    """Return another server, of one of our environments.

    ``PORT`` in its command is the port; ``CERTIFICATE`` and ``KEY`` are files, for TLS.
    """
    return Server(title, partial(_run, command=command, environment=environment))


@contextlib.contextmanager
def _fixed(folder: Path) -> Iterator[Running]:
    if shutil.which("nginx") is None:
        raise RuntimeError("nginx was not found. Install it, or leave out fixed with --servers")
    port = free_ports()
    answers = folder / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    for workload in WORKLOADS.values():
        (answers / str(workload.answer_bytes)).write_bytes(bytes(workload.answer_bytes))
    (folder / "nginx.conf").write_text(NGINX.substitute(port=port), encoding="utf-8")
    command = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    if os.geteuid() == 0:
        command += ["-g", "user root;"]  # or its workers could not read the folder
    with running.process(command, folder) as first:
        yield Running(port, "/{}", process=first, folder=folder)


_public = partial(running.ours, port="PUBLIC_PORT", TOKEN_RATE=str(1 << 30))
"""Here one client is all the load."""

SERVERS = {
    "torchserve": Server(
        "ours, TorchServe's port",
        partial(running.ours, port="TORCHSERVE_PORT", TORCHSERVE="1"),
        ours=True,
        most_bytes=running.TORCHSERVE_ANSWER_BYTES,
    ),
    "front": Server("ours, HTTP listener", running.ours, ours=True),
    "edge": Server("ours, through the public listener", _public, ours=True),
    "fastapi": _peer("FastAPI on uvicorn, 2 workers, no batching", FASTAPI),
    "asgi": _peer("bare ASGI on uvicorn, 2 workers, our batching", ASGI),
    "edge-tls": Server(
        "ours, through the public listener, TLS", partial(_public, TLS="1"), ours=True
    ),
    "fastapi-tls": _peer("FastAPI on uvicorn, 2 workers, no batching, TLS", f"{FASTAPI} {TLS}"),
    "asgi-tls": _peer("bare ASGI on uvicorn, 2 workers, our batching, TLS", f"{ASGI} {TLS}"),
    "granian": _peer("RSGI on granian, 2 workers, no batching", f"{RSGI} --no-log --no-ws"),
    "mosec": _peer("mosec, 2 workers, dynamic batch 64, 1 ms", MOSEC),
    "litserve": _peer("LitServe, dynamic batch 64, 1 ms", "litserve_app PORT", "litserve"),
    "fixed": Server("nginx, fixed answer of the same size", _fixed, computes=False),
}

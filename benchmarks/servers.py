"""Starts and stops each server that is compared; while one runs, no other does."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template

from benchmarks.running import (
    ROOT,
    TORCHSERVE_ANSWER_BYTES,
    Running,
    first_export,
    ours,
    process,
)
from benchmarks.workloads import WORKLOADS, Workload
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.ports import free_ports

PEERS = Path(__file__).with_name("peers")
ENVIRONMENTS = ROOT / ".bench"
NGINX = Template((PEERS / "nginx.conf").read_text(encoding="utf-8"))
CERTIFY = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
    *("-nodes", "-days", "2", "-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1"),
)
TLS = ("--ssl-certfile", "CERTIFICATE", "--ssl-keyfile", "KEY")
"""What a peer on uvicorn is started with to speak TLS."""

Start = Callable[[Path], contextlib.AbstractContextManager[Running]]


@dataclass(frozen=True)
class Server:
    """A server to compare.

    Attributes:
        title: As in the report.
        start: Starts it; is given a folder for all that it writes.
        computes: Whether it predicts; else the length of its answers is compared.
        ours: Whether it is this product.
        most_bytes: Of an answer.
    """

    title: str
    start: Start
    computes: bool = True
    ours: bool = False
    most_bytes: int = sys.maxsize

    def answers(self, workload: Workload) -> bool:
        """Return whether it can be asked for that."""
        return workload.answer_bytes <= self.most_bytes and (self.ours or not workload.ours_only)


def _edge(scratch: Path, *, tls: bool = False) -> contextlib.AbstractContextManager[Running]:
    scratch.mkdir(parents=True, exist_ok=True)
    token = tokens.add(scratch / "tokens", "bench")
    settings = {"TOKENS_FILE": str(scratch / "tokens"), "TORCHSERVE": "0"}
    settings["TOKEN_RATE"] = str(1 << 30)  # here one client is all the load
    if tls:
        certificate, key = certify(scratch)
        settings |= {"TLS_CERT": str(certificate), "TLS_KEY": str(key)}
    return ours(scratch, "PUBLIC_PORT", token, **settings)


def certify(scratch: Path) -> tuple[Path, Path]:
    """Write a certificate for loopback that signs itself, and its key.

    Raises:
        RuntimeError: There is no openssl.
    """
    if shutil.which("openssl") is None:
        raise RuntimeError(
            "openssl was not found. Servers with TLS need it to make a certificate. Install it, "
            "or leave them out with --servers"
        )
    scratch.mkdir(parents=True, exist_ok=True)
    certificate, key = scratch / "certificate.pem", scratch / "key.pem"
    files = ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*CERTIFY, *files], check=True, capture_output=True)
    return certificate, key


def _peer(environment: str, *command: str) -> Start:
    """Another server, of one of our environments.

    ``PORT`` in its command is the port; ``CERTIFICATE`` and ``KEY`` are files, for TLS.
    """

    @contextlib.contextmanager
    def start(scratch: Path) -> Iterator[Running]:
        port = free_ports()
        certificate, key = certify(scratch) if "CERTIFICATE" in command else (None, None)
        named = {"PORT": str(port), "CERTIFICATE": str(certificate), "KEY": str(key)}
        words = [named.get(word, word) for word in command]
        model = first_export() / "diagonal_flip.onnx"
        settings = {"PYTHONPATH": str(PEERS), "BENCH_ONNX": str(model)}
        with process([str(_python(environment)), "-m", *words], scratch, settings) as first:
            yield Running(first, port, certificate=certificate)

    return start


def _uvicorn(app: str, *options: str) -> Start:
    """Two workers, as fast as uvicorn goes."""
    fast = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    return _peer("servers", "uvicorn", app, "--port", "PORT", "--workers", "2", *fast, *options)


@contextlib.contextmanager
def _fixed(scratch: Path) -> Iterator[Running]:
    if shutil.which("nginx") is None:
        raise RuntimeError("nginx was not found. Install it, or leave out fixed with --servers")
    port = free_ports()
    answers = scratch / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    for workload in WORKLOADS.values():
        (answers / str(workload.answer_bytes)).write_bytes(bytes(workload.answer_bytes))
    (scratch / "nginx.conf").write_text(NGINX.substitute(port=port), encoding="utf-8")
    command = ["nginx", "-p", str(scratch), "-c", "nginx.conf", "-e", "stderr"]
    if os.geteuid() == 0:
        command += ["-g", "user root;"]  # or its workers could not read the scratch folder
    with process(command, scratch) as first:
        yield Running(first, port, fixed=True)


SERVERS = {
    "torchserve": Server(
        "ours, TorchServe's port",
        partial(ours, port="TORCHSERVE_PORT", TORCHSERVE="1"),
        ours=True,
        most_bytes=TORCHSERVE_ANSWER_BYTES,
    ),
    "front": Server("ours, HTTP listener", partial(ours, port="PORT", TORCHSERVE="0"), ours=True),
    "edge": Server("ours, through the public listener", _edge, ours=True),
    "fastapi": Server("FastAPI on uvicorn, 2 workers, no batching", _uvicorn("fastapi_app:app")),
    "asgi": Server("bare ASGI on uvicorn, 2 workers, our batching", _uvicorn("asgi_app:app")),
    "edge-tls": Server(
        "ours, through the public listener, TLS", partial(_edge, tls=True), ours=True
    ),
    "fastapi-tls": Server(
        "FastAPI on uvicorn, 2 workers, no batching, TLS", _uvicorn("fastapi_app:app", *TLS)
    ),
    "asgi-tls": Server(
        "bare ASGI on uvicorn, 2 workers, our batching, TLS", _uvicorn("asgi_app:app", *TLS)
    ),
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
    "fixed": Server("nginx, fixed answer of the same size", _fixed, computes=False),
}


def log_tail(folder: Path) -> str:
    """Return the last of what a server wrote into ``folder``."""
    logs = [path.read_text(errors="replace").strip() for path in sorted(folder.rglob("*.log"))]
    return "\n".join(text[-1000:] for text in logs if text) or "no logs"


def _python(environment: str) -> Path:
    python = ENVIRONMENTS / environment / "bin/python"
    if not python.exists():
        raise RuntimeError(f"no environment for {environment}: run `make bench`")
    return python

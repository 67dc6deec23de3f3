"""Ready means: every worker, and TorchServe's port, have answered all 16 images correctly."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from pathlib import Path

from diagonalflip.errors import StartError
from supervisor.proof import ALL_IMAGES, HEADERS, compare
from supervisor.settings import LOOPBACK
from supervisor.store import Artifacts
from supervisor.torchserve import TorchServe

POLL_S = 0.1
LAST_LINES = 5


def wait(
    server: TorchServe, artifacts: Artifacts, pause: Callable[[float], None] = time.sleep
) -> None:
    """Blocks until each worker by itself, and TorchServe, answered all 16 images correctly.

    Args:
        server: Just started.
        artifacts: What it serves.
        pause: Sleeps between attempts; may raise to end this.

    Raises:
        CertificateError: An answer is wrong.
        StartError: Java ended, a worker was wrong, or the time is over; with the last error of
            the logs.
    """
    settings = server.settings
    path = f"/predictions/{artifacts.model}"
    deadline = time.monotonic() + settings.start_timeout_s
    while time.monotonic() < deadline:
        if (
            server.process.poll() is not None
            or server.prover.proofs["wrong"]
            or server.prover.refused
        ):
            break
        answer = (
            _ask(settings.torchserve_port, path)
            if server.prover.proven == settings.workers
            else None
        )
        if answer is not None:
            compare(answer, artifacts)
            return
        pause(POLL_S)
    status = server.process.poll()
    got = f"{server.prover.proven} of {settings.workers} workers proven"
    if status is not None:
        got = f"TorchServe's exit, status {status}"
    raise StartError(
        f"{got}; {server.prover.refused or server.prover.fault or last_error(settings.log_dir)}",
        f"a correct prediction within {settings.start_timeout_s} s",
        f"see the logs in {settings.log_dir}",
    )


def _ask(port: int, path: str) -> bytes | None:
    """TorchServe's answer; by ``http.client``, which knows no proxies."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", path, ALL_IMAGES, HEADERS)
        response = connection.getresponse()
        return response.read() if response.status == http.client.OK else None
    return None


def last_error(logs: Path) -> str:
    """The last line that names an error, of the worker if it has one; else what was last said."""
    parts = {
        name: (logs / name).read_text(errors="replace").splitlines()
        for name in ("worker.log", "server.log", "java.log")
        if (logs / name).exists()
    }
    for name, lines in parts.items():
        for line in reversed(lines):
            if "Error" in line or "Exception" in line:
                return f"{name}: {line.partition(' - ')[2] or line}"
    for name, lines in parts.items():
        if said := [line.partition(" - ")[2] or line for line in lines if line.strip()]:
            return f"{name} ends with: {' / '.join(said[-LAST_LINES:])}"
    return f"neither Java nor a worker wrote anything to {logs}"

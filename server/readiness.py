"""Ready means: every worker, and TorchServe's port, have answered all 16 images correctly."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import requests

from diagonalflip.errors import StartError
from server.artifacts import Artifacts
from server.audit import ALL_IMAGES, HEADERS, compare
from server.torchserve import TorchServe

POLL_S = 0.1


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
        StartError: Java ended, or the time is over; with the last error of the logs.
    """
    settings = server.settings
    url = f"{settings.url}/predictions/{artifacts.model}"
    deadline = time.monotonic() + settings.start_timeout_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None or _refused_itself(settings.log_dir):
            break
        answer = _ask(url) if server.audit.proven == settings.workers else None
        if answer is not None:
            compare(answer, artifacts)
            return
        pause(POLL_S)
    status = server.process.poll()
    got = f"{server.audit.proven} of {settings.workers} workers proven"
    if status is not None:
        got = f"TorchServe's exit, status {status}"
    raise StartError(
        f"{got}; {_last_error(settings.log_dir)}",
        f"a correct prediction within {settings.start_timeout_s} s",
        f"see the logs in {settings.log_dir}",
    )


def _refused_itself(logs: Path) -> bool:
    """Whether a worker found its own archive wrong; TorchServe would start it again and again."""
    worker = logs / "worker.log"
    return worker.exists() and b"diagonalflip.errors." in worker.read_bytes()


def _ask(url: str) -> bytes | None:
    try:
        response = requests.post(url, data=ALL_IMAGES, headers=HEADERS, timeout=5)
    except requests.RequestException:
        return None
    return response.content if response.status_code == requests.codes.ok else None


def _last_error(logs: Path) -> str:
    """The last line that names an error or exception, of the worker if it has one."""
    for name in ("worker.log", "server.log", "java.log"):
        path = logs / name
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        for line in reversed(lines):
            if "Error" in line or "Exception" in line:
                return f"{name}: {line.partition(' - ')[2] or line}"
    return "no error in the logs"

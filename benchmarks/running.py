"""A server as a process: started, found ready, measured, stopped; ours in particular."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks.driver import Address
from diagonalflip.server.models import store
from diagonalflip.server.settings import Settings, variable
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.host import die_with_parent
from diagonalflip.server.supervisor.ports import free_ports
from diagonalflip.server.supervisor.process import ALLOCATOR

ROOT = Path(__file__).resolve().parent.parent
TORCHSERVE_ANSWER_BYTES = 625_000
"""The longest answer on TorchServe's port; it rejects what needs a longer one."""

STOP_TIMEOUT_S = 30
DIRECT = {"no_proxy": "*"}  # for ``requests``: a proxy of this host knows nothing of its loopback

CERTIFY = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
    *("-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
)


@dataclass(kw_only=True)
class Running(Address):
    """A server that was started, and answers some time later."""

    process: psutil.Popen  # the first of its processes
    folder: Path  # for all that it writes

    def serves(self) -> bool:
        """Return whether it says itself that all of it is ready."""
        return True

    def wait(self, condition: Callable[[], Any], timeout_s: float = 120) -> float:
        """Return the seconds until ``condition`` held.

        Raises:
            TimeoutError: It did not, or the server ended; with the last of its logs.
        """

        def held() -> bool:
            if condition():
                return True
            if self.process.poll() is not None:
                raise TimeoutError(f"the server ended\n{log_tail(self.folder)}")
            return False

        return seconds_until(held, timeout_s, lambda: log_tail(self.folder))

    def cpu_s(self) -> float:
        """Return the processor seconds that the whole process tree has used."""
        return self._sum(lambda process: sum(process.cpu_times()[:2]))

    def pss_mib(self) -> float:
        """Return the MiB of the whole process tree; memory that processes share counts once."""
        return self._sum(lambda process: process.memory_full_info().pss) / (1 << 20)

    def _sum(self, figure: Callable[[psutil.Process], float]) -> float:
        total = 0.0
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it may have ended
                total += figure(process)
        return total


@dataclass(kw_only=True)
class Ours(Running):
    """This product."""

    ports: dict[str, int]  # by setting

    def at(self, port: str) -> Address:
        """Return its other port of that name, which needs no token."""
        return Address(self.ports[port])

    def told(self, path: str) -> str:
        """Return what the admin port says; nothing while it does not answer."""
        try:
            url = self.at("ADMIN_PORT").url + path
            return requests.get(url, timeout=2, proxies=DIRECT).text
        except requests.RequestException:
            return ""

    def state(self) -> dict[str, Any]:
        """Return what it says of its readiness; nothing while it does not answer."""
        return dict(json.loads(self.told("/v2/health/ready") or "{}"))

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
def ours(folder: Path, port: str = "PORT", **settings: str) -> Iterator[Ours]:
    """Run the product, as ``make serve`` does, asked on the port of that name.

    Its public listener is on if that is asked, with a certificate if ``TLS`` is in the settings.
    TorchServe is off unless set.
    """
    ports = {name.upper(): free_ports() for name in Settings.ports()}
    usual = {name: str(number) for name, number in ports.items()}
    usual |= {"MODEL_STORE": str(model_store()), "LOG_DIR": str(folder / "logs")}
    usual["TORCHSERVE"] = "0"
    address: dict[str, Any] = {"port": ports[port], "ports": ports}
    if port == "PUBLIC_PORT":
        address["token"] = tokens.add(folder / "tokens", "bench")
        usual["TOKENS_FILE"] = str(folder / "tokens")
    if settings.pop("TLS", ""):
        address["certificate"], key = certify(folder)
        usual |= {"TLS_CERT": str(address["certificate"]), "TLS_KEY": str(key)}
    environment = {"PYTHONPATH": str(ROOT)} | variables(usual | settings)
    with process([sys.executable, "-m", "diagonalflip.server"], folder, environment) as first:
        yield Ours(process=first, folder=folder, **address)


@contextlib.contextmanager
def ready(folder: Path, port: str = "PORT", **settings: str) -> Iterator[Ours]:
    """Run the product, all of it ready."""
    with ours(folder, port, **settings) as server:
        server.wait(server.serves)
        yield server


def variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for settings by the names that make takes, and for other variables."""
    known = {each.name.upper() for each in fields(Settings)}
    return {variable(name) if name in known else name: value for name, value in settings.items()}


def certify(folder: Path, days: int = 2) -> tuple[Path, Path]:
    """Write a certificate for loopback that signs itself, and its key.

    Raises:
        RuntimeError: There is no openssl.
    """
    if shutil.which("openssl") is None:
        raise RuntimeError(
            "openssl was not found. Servers with TLS need it to make a certificate. Install it, "
            "or leave them out with --servers"
        )
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    more = ["-days", str(days), "-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*CERTIFY, *more], check=True, capture_output=True)
    return certificate, key


@contextlib.contextmanager
def process(
    command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> Iterator[psutil.Popen]:
    """Run a process with ``output.log`` in ``folder``, and at its end stop all of its group."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.log").open("ab") as output:
        first = psutil.Popen(
            command,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | ALLOCATOR | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to be swept at the end
            preexec_fn=die_with_parent,  # safe: this process has one thread
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
        time.sleep(0.02)
    return time.monotonic() - started


def log_tail(folder: Path) -> str:
    """Return the last of what a server wrote into ``folder``."""
    logs = [path.read_text(errors="replace").strip() for path in sorted(folder.rglob("*.log"))]
    return "\n".join(text[-1000:] for text in logs if text) or "no logs"


def model_store() -> Path:
    """Return the folder that ``make export`` filled."""
    return Path(os.environ.get("FLIP_MODEL_STORE") or ROOT / "model_store").resolve()


def first_export() -> Path:
    """Return the folder of the version that is served by default, and computed by everybody."""
    return store.exports(model_store())[0]

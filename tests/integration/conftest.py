"""The real server on free ports, and ONNX Runtime on the exported ONNX to judge its answers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import requests

from benchmarks.running import log_tail, variables
from benchmarks.workloads import load_reference
from diagonalflip.client._answers import agree
from diagonalflip.server.settings import Settings, variable
from diagonalflip.wire import pack

ROOT = Path(__file__).resolve().parents[2]
PATH = "/predictions/diagonal_flip"
TORCHSERVE_BYTES = 625_000
"""Longest response on TorchServe's port: it decodes those of a batch in quadratic time."""

FREE_PORTS = {variable(name): "0" for name in Settings.ports()}

Oracle = Callable[[npt.ArrayLike], npt.NDArray[np.float32]]


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]  # ``python -m diagonalflip.server``
    logs: Path  # folder of its logs
    printed: list[str] = field(default_factory=list)  # lines that were read of what it prints
    url: str = ""  # where it predicts: the HTTP listener, or TorchServe if ``is_torchserve``
    public: str = ""  # URL of the public listener, if that is on
    operations: str = ""  # URL of the admin port
    torchserve_url: str = ""  # where TorchServe predicts, if that is on
    grpc_port: int = 0  # of TorchServe's gRPC inference, on 127.0.0.1
    is_torchserve: bool = False

    def delivers(self, response_bytes: int) -> bool:
        """Return whether a response may be so long: TorchServe's are bounded."""
        return not self.is_torchserve or response_bytes <= TORCHSERVE_BYTES

    @property
    def base(self) -> str:
        """The URL without the model's path."""
        return self.url.removesuffix(PATH)

    @property
    def workers(self) -> list[psutil.Process]:
        return self._children("diagonalflip.server.worker")

    @property
    def java(self) -> psutil.Process:
        [java] = self._children("org.pytorch.serve.ModelServer")
        return java

    def _children(self, word: str) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it may end meanwhile
                found += [child] * (word in child.cmdline())
        return found

    def readiness(self) -> dict[str, Any]:
        """Return the document of the admin port."""
        told: dict[str, Any] = requests.get(f"{self.operations}/v2/health/ready", timeout=5).json()
        return told

    def metric(self, name: str) -> float:
        """Return the sum of a metric, by its name with or without its first labels."""
        page = requests.get(f"{self.operations}/metrics", timeout=5).text
        line = rf"^diagonalflip_{re.escape(name)}(?:[{{,}}]\S*)? (\S+)$"
        values = re.findall(line, page, re.MULTILINE)
        assert values, name
        return sum(map(float, values))

    def read_until(self, pattern: str) -> str:
        """Return its next line that a pattern is found in, when it is printed."""
        for line in self.process.stdout or ():
            self.printed.append(line)
            if re.search(pattern, line):
                return line
        pytest.fail(f"ended without {pattern!r}:\n{''.join(self.printed)}\n{log_tail(self.logs)}")

    def wait_for_torchserve(self) -> Server:
        """Return the same server with TorchServe's ports, once that is ready or ready again."""
        self.read_until("==> TorchServe is ready")
        told = self.readiness()["torchserve"]
        url = f"http://127.0.0.1:{told['torchserve_port']}{PATH}"
        return replace(self, torchserve_url=url, grpc_port=told["grpc_port"])

    @property
    def at_torchserve(self) -> Server:
        return replace(self, url=self.torchserve_url, is_torchserve=True)

    def post(self, body: bytes, kind: str | None, accept: str | None = None) -> requests.Response:
        """POSTs to the model, on a connection of its own; None leaves a header out."""
        headers = {"Content-Type": kind, "Accept": accept}
        return requests.post(self.url, data=body, headers=headers, timeout=120)

    @cached_property
    def batch_invariant(self) -> bool:
        return bool(requests.get(self.url, timeout=30).json()["batch_invariant"])

    def assert_same(self, got: bytes, wanted: bytes) -> None:
        """Compares two answers for the same images, both float32: bits where they are promised."""
        rows = [np.frombuffer(body, "<f4").reshape(-1, 4) for body in (got, wanted)]
        assert agree(*rows)
        assert got == wanted or not self.batch_invariant

    def stop(self, with_signal: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(30)


def server_environment(artifacts: Path, logs: Path, settings: dict[str, str]) -> dict[str, str]:
    """Environment of ``python -m diagonalflip.server``, for settings by the names that make takes.

    Free ports, and no TorchServe, unless ``settings`` say otherwise.
    """
    folders = {"MODEL_STORE": str(artifacts), "LOG_DIR": str(logs)}
    return os.environ | FREE_PORTS | variables({"TORCHSERVE": "0"} | folders | settings)


def start(
    artifacts: Path, logs: Path, settings: dict[str, str], *through: str, to: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start a server, which writes to a descriptor, or to a pipe of ours."""
    command = [*through, sys.executable, "-m", "diagonalflip.server"]
    env, error = server_environment(artifacts, logs, settings), subprocess.STDOUT
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=to, stderr=error, text=True)


@contextmanager
def run_server(
    artifacts: Path, logs: Path, *, through: Sequence[str] = (), **settings: str
) -> Iterator[Server]:
    """``python -m diagonalflip.server``, from its start to its end whatever happens between.

    ``through`` is a command that runs it, in the same process. Settings have the names that make
    takes, or are other variables; ``TORCHSERVE="1"`` also waits for TorchServe.
    """
    process = start(artifacts, logs, settings, *through)
    server = Server(process, logs)
    try:
        server.url = server.read_until("^http://").strip() + PATH
        server.public = server.read_until("").strip()
        told = server.read_until("^Health and metrics: ")
        [server.operations] = re.findall(r"http://\S+(?=\.)", told)
        yield server.wait_for_torchserve() if settings.get("TORCHSERVE") == "1" else server
    finally:
        process.terminate()
        process.communicate(timeout=30)


def run_command(*words: object, stdin: bytes = b"") -> bytes:
    """Return the output of the command ``diagonalflip``, which must succeed without complaint."""
    finished = subprocess.run(
        [sys.executable, "-m", "diagonalflip.cli", *map(str, words)],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, b""), finished.stdout.decode()
    return finished.stdout


def changed_worker(folder: Path, code: str) -> list[str]:
    """Make another checkout, whose workers run some code before they start.

    Returns:
        A command that runs the server there: ``through``.
    """
    for path in ROOT.glob("[a-z]*"):
        (folder / path.name).symlink_to(path)
    (folder / "diagonalflip").unlink()
    shutil.copytree(ROOT / "diagonalflip", folder / "diagonalflip")
    main = folder / "diagonalflip/server/worker/__main__.py"
    main.rename(main.with_name("unchanged.py"))
    main.write_text(f"{code}\nfrom diagonalflip.server.worker.unchanged import main\nmain()\n")
    return ["env", "-C", str(folder)]


@pytest.fixture(scope="session")
def running(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with two workers for all tests that leave it as it was."""
    logs = tmp_path_factory.mktemp("logs")
    with run_server(artifacts, logs, TORCHSERVE="1", WORKERS="2") as server:
        yield server


@pytest.fixture(scope="module")
def service(
    artifacts: Path, exported_2_0: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server of both versions for the tests of a module."""
    store = tmp_path_factory.mktemp("store")
    (store / "1.0").symlink_to(artifacts)
    (store / "2.0").symlink_to(exported_2_0)
    with run_server(store, tmp_path_factory.mktemp("logs"), WORKERS="2") as server:
        yield server


@pytest.fixture
def server(running: Server, request: pytest.FixtureRequest) -> Server:
    """The running server; marked ``both_ports`` also by TorchServe's."""
    if getattr(request, "param", "front") == "torchserve":
        return running.at_torchserve
    return running


@contextmanager
def new_folder() -> Iterator[Path]:
    """Make a folder with a short path: as TMPDIR it has room for sockets."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    with new_folder() as path:
        yield path


@pytest.fixture(scope="session")
def is_changeable() -> bool:
    """Return whether this user may make namespaces, and so another host for some processes."""
    command = ["unshare", "--mount", "--net", "--uts", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, check=False).returncode == 0


@pytest.fixture(scope="session")
def oracle(artifacts: Path) -> Oracle:
    """ONNX Runtime on the exported ONNX: image numbers ``int[n]`` to ``float32[n, 4]``."""
    reference = load_reference(artifacts / "diagonal_flip.onnx")

    def predict(numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
        images = pack(numbers)
        return reference(bytes(images.packed))[: images.count]

    return predict


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs tests marked ``both_ports`` at the HTTP listener and on TorchServe's port."""
    if "server" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_ports"):
        metafunc.parametrize("server", ["front", "torchserve"], indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],  # noqa: ARG001 - the hook's signature
) -> Iterator[None]:
    """Attaches the server's logs to a failed test."""
    report = yield
    running = getattr(item, "funcargs", {}).get("server")
    if report.failed and running is not None:  # type: ignore[attr-defined]
        report.sections.append(("server logs", log_tail(running.logs)))  # type: ignore[attr-defined]
    return report

"""The real server on free ports, and ONNX Runtime on the exported ONNX to judge its answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import requests

from diagonalflip._answers import agree
from diagonalflip.wire import to_pixels
from supervisor.ports import free_ports
from supervisor.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PATH = "/predictions/diagonal_flip"
FREE_PORTS = {name.upper(): "0" for name in Settings.ports()}

Oracle = Callable[[npt.ArrayLike], npt.NDArray[np.float32]]


@dataclass
class Server:
    """A running server.

    Attributes:
        process: ``python -m supervisor``.
        url: Where it predicts: the front door.
        torchserve_url: Where TorchServe's frontend does.
        logs: Folder of its logs.
        grpc_port: Port of TorchServe's gRPC inference, on 127.0.0.1.
    """

    process: subprocess.Popen[str]
    url: str
    torchserve_url: str
    logs: Path
    grpc_port: int

    def post(
        self, body: bytes, content_type: str | None, accept: str | None = None
    ) -> requests.Response:
        """POSTs to the model, on a connection of its own; None leaves a header out."""
        headers = {"Content-Type": content_type, "Accept": accept}
        return requests.post(self.url, data=body, headers=headers, timeout=120)

    @cached_property
    def batch_invariant(self) -> bool:
        """Return whether the server promises the same bits in every batch."""
        return bool(requests.get(self.url, timeout=30).json()["batch_invariant"])

    def assert_same(self, got: bytes, wanted: bytes) -> None:
        """Compares two answers for the same images, both float32: bits where they are promised."""
        rows = [np.frombuffer(body, "<f4").reshape(-1, 4) for body in (got, wanted)]
        assert agree(*rows)
        assert got == wanted or not self.batch_invariant

    def stop(self, with_signal: signal.Signals = signal.SIGINT) -> int:
        """Signals the server and returns its exit status."""
        self.process.send_signal(with_signal)
        return self.process.wait(30)


def server_environment(artifacts: Path, logs: Path, settings: dict[str, str]) -> dict[str, str]:
    """Environment of ``python -m supervisor``: free ports unless ``settings`` say otherwise."""
    folders = {"MODEL_STORE": str(artifacts), "LOG_DIR": str(logs)}
    return os.environ | FREE_PORTS | folders | settings


@contextmanager
def run_server(
    artifacts: Path, logs: Path, *, through: Sequence[str] = (), **settings: str
) -> Iterator[Server]:
    """``python -m supervisor``, from its start to its end whatever happens between.

    Args:
        artifacts: The model store.
        logs: Folder of its logs.
        through: A command that runs the server, in the same process.
        settings: Environment variables.
    """
    ports = {name: str(free_ports()) for name in ("GRPC_PORT", "TORCHSERVE_PORT")}
    settings = ports | settings
    process = subprocess.Popen(
        [*through, sys.executable, "-m", "supervisor"],
        cwd=ROOT,
        env=server_environment(artifacts, logs, settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if line.startswith("http://"):
                break
        else:
            pytest.fail(f"the server did not start:\n{''.join(printed)}\n{read_logs(logs)}")
        torchserve_url = f"http://127.0.0.1:{settings['TORCHSERVE_PORT']}{PATH}"
        url = line.strip() + PATH
        yield Server(process, url, torchserve_url, logs, int(settings["GRPC_PORT"]))
    finally:
        process.terminate()
        process.communicate(timeout=30)


def read_logs(logs: Path) -> str:
    """The ends of all logs, to go with a failure."""
    return "\n".join(
        f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
        for path in sorted(logs.glob("*.log"))
    )


@pytest.fixture(scope="session")
def running(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with two workers for all tests that leave it as it was."""
    with run_server(artifacts, tmp_path_factory.mktemp("logs"), WORKERS="2") as server:
        yield server


@pytest.fixture
def server(running: Server, request: pytest.FixtureRequest) -> Server:
    """The running server; marked ``both_ports`` also by TorchServe's."""
    if getattr(request, "param", "front") == "torchserve":
        return replace(running, url=running.torchserve_url)
    return running


@pytest.fixture(scope="session")
def oracle(artifacts: Path) -> Oracle:
    """ONNX Runtime on the exported ONNX: image numbers ``int[n]`` to ``float32[n, 4]``."""
    session = onnxruntime.InferenceSession(
        str(artifacts / "diagonal_flip.onnx"), providers=["CPUExecutionProvider"]
    )

    def predict(numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
        pixels = to_pixels(numbers).reshape(-1, 4).astype(np.float32)
        return np.asarray(session.run(["prediction"], {"pixels": pixels})[0])

    return predict


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs tests marked ``both_ports`` at the front door and on TorchServe's port."""
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
        report.sections.append(("server logs", read_logs(running.logs)))  # type: ignore[attr-defined]
    return report

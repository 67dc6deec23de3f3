"""Proofs of processes that answer rightly, wrongly, late or not at all."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor import proof
from supervisor.proof import Prover
from supervisor.store import Artifacts

REFERENCE = [[n / 16, -n / 16, 0.0, 1.0] for n in range(16)]
ARTIFACTS = Artifacts(Path("x.mar"), "diagonal_flip", "1.0", REFERENCE, "ab12")
MODELS: Any = SimpleNamespace(loaded=[ARTIFACTS])

WORKER = """
import socket, struct, sys, time
path, behaviour = sys.argv[1:]
values = [[n / 16, -n / 16, 0.0, 1.0] for n in range(16)]
status = 200
if behaviour == "wrong":
    values[7][2] = 1e-4
if behaviour == "not a number":
    values[7][2] = float("nan")
body = b"".join(struct.pack("<4f", *row) for row in values)
if behaviour == "short":
    body = body[:-4]
if behaviour == "refuses":
    status = 500
if behaviour == "overloaded":
    status = 503
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(5)
print("open", flush=True)
while True:
    connection, _ = listener.accept()
    request = b""
    while not request.endswith(bytes.fromhex("0123456789abcdef")):
        request += connection.recv(4096)
    if behaviour == "busy":
        end = time.process_time() + 3
        while time.process_time() < end:
            pass
    if behaviour == "hangs":
        time.sleep(60)
    head = f"HTTP/1.1 {status} x\\r\\ncontent-length: {len(body)}\\r\\nflip-device: cpu\\r\\n"
    head += "flip-model-digest: " + ("0" if behaviour == "other" else "ab12") + "\\r\\n\\r\\n"
    connection.sendall(head.encode() + body)
    connection.close()
    print("answered", flush=True)
"""


@contextmanager
def worker(folder: Path, behaviour: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", WORKER, str(folder / "proof-0.sock"), behaviour]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield process
        process.kill()


@contextmanager
def proving(folder: Path, device: str | None = None) -> Iterator[Prover]:
    prover = Prover(folder, 1, MODELS, 0.05, device)
    prover.start()
    yield prover
    prover.stop()


def wait_until_counted(prover: Prover, event: str) -> None:
    while not prover.proofs[event]:
        time.sleep(0.01)  # the test's own time limit ends this


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket's path."""
    return tmp_path_factory.mktemp("w")


def test_right_answers_prove_a_worker(folder: Path) -> None:
    with worker(folder, "right") as process, proving(folder) as prover:
        while prover.proofs["passed"] < 3:
            time.sleep(0.01)
        assert prover.proven == 1
        assert prover.workers[0].pid == process.pid
        assert process.poll() is None


def test_a_supervisor_with_many_clients_proves(folder: Path) -> None:
    """Its descriptors go beyond 1,023, where select ends."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with worker(folder, "right"), contextlib.ExitStack() as opened:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limit[1]), limit[1]))
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limit)
        clients = [os.dup(0) for _ in range(1100)]
        for client in clients:
            opened.callback(os.close, client)
        assert clients[-1] > 1023
        with proving(folder) as prover:
            while prover.proofs["passed"] < 3:
                time.sleep(0.01)
            assert prover.proven == 1


@pytest.mark.parametrize("behaviour", ["wrong", "not a number", "short", "refuses", "other"])
def test_a_worker_that_is_wrong_is_killed(folder: Path, behaviour: str) -> None:
    with worker(folder, behaviour) as process, proving(folder) as prover:
        assert process.wait(30) == -signal.SIGKILL
        assert prover.proofs["wrong"] == prover.killed == 1
        assert prover.proven == 0


def test_where_a_gpu_is_required_an_answer_of_the_cpu_is_wrong(folder: Path) -> None:
    with worker(folder, "right") as process, proving(folder, "cuda") as prover:
        assert process.wait(30) == -signal.SIGKILL
        assert prover.proven == 0
        assert "The answer was computed on cpu" in prover.fault


def test_overload_proves_nothing_and_kills_nobody(folder: Path) -> None:
    with worker(folder, "overloaded") as process, proving(folder) as prover:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == [b"answered\n"] * 3
        assert process.poll() is None
        assert prover.proofs == dict.fromkeys(proof.RESULTS, 0)


@pytest.mark.parametrize("behaviour", ["hangs", "stopped"])
def test_a_worker_that_hangs_is_killed(folder: Path, behaviour: str) -> None:
    with worker(folder, behaviour) as process, proving(folder) as prover:
        if behaviour == "stopped":
            wait_until_counted(prover, "passed")
            os.kill(process.pid, signal.SIGSTOP)
        assert process.wait(30) == -signal.SIGKILL
        wait_until_counted(prover, "unanswered")
        assert prover.proofs["wrong"] == 0


def test_a_worker_that_works_may_take_its_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "PATIENCE_S", 0.5)
    with worker(folder, "busy") as process, proving(folder) as prover:
        wait_until_counted(prover, "passed")
        assert process.poll() is None


def test_a_worker_that_is_not_there_is_not_proven(folder: Path) -> None:
    with worker(folder, "right") as process, proving(folder) as prover:
        wait_until_counted(prover, "passed")
        process.kill()
        while prover.proven:
            time.sleep(0.01)
        assert prover.killed == 0

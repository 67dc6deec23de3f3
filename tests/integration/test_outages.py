"""What breaks beside the workers that are left: clients are served, and the rest comes back."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import requests

from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.torchserve_command import find_torchserve
from diagonalflip.wire import OCTETS
from tests.integration.conftest import PATH, Oracle, Server, changed_worker, run_server
from tests.integration.test_predictions import assert_predicts, packed_request
from tests.integration.test_public_listener import CERTIFICATE

pytestmark = pytest.mark.slow

CLIENTS = 2
ANSWER_S = 2.0


@contextmanager
def asking(server: Server, oracle: Oracle, lost: int = 0) -> Iterator[None]:
    """Ask on new connections all the time; every response is right and comes within ``ANSWER_S``.

    Args:
        server: Asked.
        oracle: Knows what is right.
        lost: How many requests may be lost: those that are at a worker that is killed.
    """
    done, expected = Event(), oracle([11, 6])

    def ask() -> tuple[int, int]:
        answered = failed = 0
        while not done.is_set():
            try:
                response = requests.post(
                    server.url, b"\xb6", headers={"Content-Type": OCTETS}, timeout=ANSWER_S
                )
            except requests.ConnectionError:
                failed += 1
                continue
            assert response.status_code == requests.codes.ok, response.text
            rows = np.frombuffer(response.content, "<f4").reshape(-1, 4)
            assert np.abs(rows - expected).max() <= 1e-6
            answered += 1
        return answered, failed

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(ask) for _ in range(CLIENTS)]
        try:
            yield
        finally:
            done.set()
        counts = [client.result() for client in clients]
    assert all(answered for answered, _ in counts)
    assert sum(failed for _, failed in counts) <= lost, counts


def kill_a_worker(server: Server, number: int = 0) -> None:
    """Kill a worker, and wait until the supervisor knows."""
    [worker] = [each for each in server.workers if f"--number={number}" in each.cmdline()]
    worker.kill()
    server.read_until(f"worker {number} .*starting another")


def wait_for_all_workers(server: Server) -> None:
    """The test's own time limit ends this."""
    while (told := server.readiness())["workers_ready"] < told["workers"]:
        assert told["ready"]


BROKEN = """
import os, sys
if "--number=1" in sys.argv and os.path.exists({marker!r}):
    sys.exit(1)
"""


def test_a_worker_that_cannot_start_again_keeps_nobody_waiting(
    artifacts: Path, oracle: Oracle, folder: Path, tmp_path: Path
) -> None:
    marker = folder / "marker"
    through = changed_worker(tmp_path, BROKEN.format(marker=str(marker)))
    settings = {"WORKERS": "2", "DEGRADED_AFTER_S": "1"}
    with (
        run_server(artifacts, folder, through=through, **settings) as server,
        asking(server, oracle, lost=CLIENTS),
    ):
        marker.touch()
        kill_a_worker(server, 1)
        while not (told := server.readiness())["degraded"]:
            assert told["ready"]
        assert (told["ready"], told["workers_ready"], told["workers"]) == (True, 1, 2)
        assert server.metric("degraded") == 1
        server.read_until("worker 1 ended with status 1; starting another in")
        marker.unlink()
        wait_for_all_workers(server)
        while server.metric("degraded"):
            pass


def test_all_temporary_files_may_be_deleted(artifacts: Path, oracle: Oracle, folder: Path) -> None:
    temporary = folder / "tmp"
    temporary.mkdir()
    settings = {"TMPDIR": str(temporary), "TORCHSERVE": "1", "WORKERS": "2"}
    settings["HEALTH_CHECK_INTERVAL_S"] = "1"
    with (
        run_server(artifacts, folder / "logs", **settings) as server,
        asking(server, oracle, lost=CLIENTS),
    ):
        of_torchserve = server.java.children()
        assert len(of_torchserve) == 2
        find = ["find", str(temporary), "-mindepth", "1", "-user", str(os.getuid()), "-delete"]
        subprocess.run(find, check=True)
        assert not list(temporary.iterdir())
        for worker in of_torchserve:
            worker.kill()  # and no other finds a place for its socket any more
        kill_a_worker(server)
        wait_for_all_workers(server)
        assert_predicts_again(server, oracle)


def test_no_room_for_temporary_files_ends_nothing(
    artifacts: Path, oracle: Oracle, folder: Path
) -> None:
    through = ["sh", "-ec", 'ulimit -S -f 64; exec "$@"', "sh"]
    settings = {"TMPDIR": str(folder), "TORCHSERVE": "", "WORKERS": "2"}
    with (
        run_server(artifacts, folder, through=through, **settings) as server,
        asking(server, oracle, lost=CLIENTS),
    ):
        for _ in range(2):
            line = server.read_until("TorchServe: .*File too large.*; starting it again")
            assert f"{folder}: " in line
            assert "Set TMPDIR" in line
        kill_a_worker(server)
        wait_for_all_workers(server)
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert_predicts_again(server, oracle)


LIMITS = {
    "full": "mount -t tmpfs -o size=64k none {folder}",
    "nearly full": "mount -t tmpfs -o size=256k none {folder}",
    "read-only": "mount -t tmpfs -o ro none {folder}",
    "short files": "ulimit -f 100",
}
"""Of temporary folders: one has no room, or too little, or none at all has it."""


@pytest.mark.parametrize("limit", LIMITS)
def test_it_starts_without_a_temporary_folder_that_has_room(
    artifacts: Path, oracle: Oracle, folder: Path, is_changeable: bool, limit: str
) -> None:
    """Our own server needs none, TLS included; TorchServe takes another, or says what it lacks."""
    if not is_changeable:
        pytest.skip("needs root")
    token = tokens.add(folder / "tokens", "someone")
    subprocess.run(CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)
    temporary = folder / "tmp"
    temporary.mkdir()
    script = f'{LIMITS[limit].format(folder=temporary)}; exec "$@"'
    settings = {"TMPDIR": str(temporary), "TORCHSERVE": "", "WORKERS": "2"}
    settings["TOKENS_FILE"] = str(folder / "tokens")
    settings |= {"TLS_CERT": str(folder / "cert.pem"), "TLS_KEY": str(folder / "key.pem")}
    through = ["unshare", "--mount", "sh", "-ec", script, "sh"]
    with run_server(artifacts, folder / "logs", through=through, **settings) as server:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": OCTETS}
        url, trusted = f"{server.public}{PATH}", str(folder / "cert.pem")
        assert requests.post(url, b"\xb6", headers=headers, verify=trusted, timeout=30).ok
        if limit == "short files":
            assert "Set TMPDIR" in server.read_until("TorchServe: ")
        else:
            server.wait_for_torchserve()
        kill_a_worker(server)
        wait_for_all_workers(server)
        assert_predicts(server.post(*packed_request(range(16))), oracle(range(16)))
        assert server.stop(signal.SIGTERM) == 0
        assert server.process.stdout is not None
        assert "Traceback" not in "".join(server.printed) + server.process.stdout.read()


def test_java_may_die_and_not_come_back(artifacts: Path, oracle: Oracle, folder: Path) -> None:
    installed = find_torchserve(Settings(torchserve="1"))
    assert installed is not None
    program = folder / "bin/java"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {installed.java} "$@"\n')
    program.chmod(0o755)
    settings = {"JAVA_HOME": str(folder), "TORCHSERVE": "1"}
    with run_server(artifacts, folder, **settings) as server, asking(server, oracle):
        server.java.kill()
        assert_predicts_again(server, oracle)
        program.rename(folder / "java")
        server.java.kill()
        for _ in range(3):
            server.read_until("TorchServe: .*; starting it again")
        told = server.readiness()
        assert (told["ready"], told["degraded"]) == (True, False)
        assert told["torchserve"]["ready"] is False
        assert (server.metric("torchserve"), server.metric("torchserve_ready")) == (1, 0)
        (folder / "java").rename(program)
        assert_predicts_again(server, oracle)
        assert server.metric("torchserve_ready") == 1
        assert server.metric('restarts_total{part="worker"') == 0


def assert_predicts_again(server: Server, oracle: Oracle) -> None:
    """Wait until TorchServe is ready, and ask it."""
    again = server.wait_for_torchserve().at_torchserve
    assert_predicts(again.post(*packed_request(range(16))), oracle(range(16)))


def test_a_collector_that_never_answers_delays_no_stop(artifacts: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "",
            "HEALTH_CHECK_INTERVAL_S": "1",
        }
        with run_server(artifacts, tmp_path, **settings) as server:
            for _ in range(16):
                assert server.post(b"\xb6", OCTETS).status_code == requests.codes.ok
            with silent.accept()[0]:  # it is being sent spans
                for _ in range(16):
                    assert server.post(b"\xb6", OCTETS).elapsed.total_seconds() < ANSWER_S
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(10) == 0
            assert server.process.stdout is not None
            assert "killed" not in server.process.stdout.read()

"""Start, stop and start again; and what the operator reads when something is wrong."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from diagonalflip.server.settings import PACKAGED
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.ports import free_ports
from diagonalflip.wire import OCTETS
from tests.conftest import execute
from tests.integration.conftest import FREE_PORTS, ROOT, Server, run_server, server_environment


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing(artifacts: Path, tmp_path: Path, number: signal.Signals) -> None:
    with run_server(artifacts, tmp_path, TORCHSERVE="1", WORKERS="2") as server:
        processes = psutil.Process(server.process.pid).children(recursive=True)
        assert len(processes) == 2 + 3, "workers, Java, and its workers"
        assert server.stop(number) == 0
        assert not psutil.wait_procs(processes, timeout=10)[1], "left running"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_asks_again_and_again_gets_a_clean_stop(
    artifacts: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with run_server(artifacts, tmp_path, WORKERS="1") as server:
        for _ in range(5000):
            server.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                assert server.process.wait(0.004) == 0
                break
        assert server.process.returncode == 0


@pytest.mark.slow
def test_no_orphans_when_the_server_is_killed(artifacts: Path, tmp_path: Path) -> None:
    with run_server(artifacts, tmp_path / "logs", TORCHSERVE="1") as server:
        processes = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        assert not psutil.wait_procs(processes, timeout=30)[1]


def test_workers_come_back_without_its_working_directory(artifacts: Path, tmp_path: Path) -> None:
    """As after a deployment in its place; logs are there unless a setting says otherwise."""
    here = tmp_path / "here"
    here.mkdir()
    through = ["env", "-C", str(here), f"PYTHONPATH={ROOT}"]
    settings = {"ACCESS_LOG": "1", "WORKERS": "1"}
    with run_server(artifacts, Path("logs"), through=through, **settings) as server:
        shutil.rmtree(here)
        server.workers[0].kill()
        server.read_until("starting another")
        assert_serves(server)


NOHUP = """
import fcntl, os, pty, signal, sys, termios
ours, theirs = pty.openpty()
os.setsid()
fcntl.ioctl(theirs, termios.TIOCSCTTY)
os.set_inheritable(ours, True)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


DAEMON = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("program", [DAEMON, NOHUP], ids=["daemon", "nohup"])
def test_a_hangup_ends_no_daemon_and_nothing_of_nohups(tmp_path: Path, program: str) -> None:
    """Where others have their daemons read files anew; these are followed anyway."""
    through = [sys.executable, "-c", program]
    with run_server(PACKAGED, tmp_path, through=through, WORKERS="1", TORCHSERVE="0") as server:
        server.process.send_signal(signal.SIGHUP)
        server.workers[0].kill()
        server.read_until("worker 0 ended with status -9; starting another")
        assert_serves(server)
        assert not server.readiness()["draining"]
        assert server.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("torchserve", ["0", ""])
def test_it_serves_without_torchserve(artifacts: Path, tmp_path: Path, torchserve: str) -> None:
    """Off, or on where it is installed, which it is not without Java."""
    settings = {"TORCHSERVE": torchserve, "JAVA_HOME": "/nowhere"}
    with run_server(artifacts, tmp_path, **settings) as server:
        assert server.readiness()["torchserve"] is None
        assert server.metric("torchserve") == server.metric("torchserve_ready") == 0
        told = [line for line in server.printed if "TorchServe is off" in line]
        assert len(told) == (not torchserve)


def test_a_port_of_torchserve_that_is_taken_is_named(artifacts: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with run_server(artifacts, tmp_path, TORCHSERVE="", GRPC_PORT=port) as server:
            told = server.read_until("TorchServe: .*starting it again")
            assert f"FLIP_GRPC_PORT={port} in the environment: Address already in use" in told
            assert_serves(server)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_is_a_clean_end_of_make(versions: Path, tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        settings = FREE_PORTS | {"FLIP_LOG_DIR": str(tmp_path / "logs")}
        os.environ.update(settings)
        os.execvp("make", ["make", "serve", f"MODEL_STORE={versions}"])  # noqa: S606
    output = b""
    while b"curl http://" not in output:
        part = os.read(terminal, 4096)
        assert part, output.decode()
        output += part
    os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_log_on_a_disk_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    """As one of a network: here a pipe that nobody opens for reading."""
    os.mkfifo(tmp_path / "worker.log")
    settings = {"WORKERS": "1", "TORCHSERVE": "0", "START_TIMEOUT_S": "10"}
    with run_server(PACKAGED, tmp_path, **settings) as server:
        output = os.open(f"/proc/{server.workers[0].pid}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(output, b"\n")
        os.close(output)
        server.workers[0].kill()
        server.read_until("worker 0 .*starting another")
        assert_serves(server)
        assert server.stop(signal.SIGTERM) == 0


STARTS_IT = """
import subprocess, sys
command = [sys.executable, "-m", "diagonalflip.server"]
server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
while "Ready" not in server.stdout.readline():
    pass
input()
server.terminate()
sys.exit(server.wait())
"""


def test_whoever_starts_it_may_read_from_the_terminal(tmp_path: Path) -> None:
    """As a script, or an interactive Python."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        environment = server_environment(PACKAGED, tmp_path, {"WORKERS": "1", "TORCHSERVE": "0"})
        environment.pop("MAKELEVEL", None)  # of these tests
        os.execve(sys.executable, [sys.executable, "-c", STARTS_IT], environment)  # noqa: S606
    os.write(terminal, b"typed\n")
    _, status = os.waitpid(pid, 0)
    output = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, output


def start_and_fail(
    artifacts: Path, logs: Path, status: int = 2, /, *, through: Sequence[str] = (), **settings: str
) -> str:
    """Runs a server that cannot start, and returns the one line that it says why."""
    environment = server_environment(artifacts, logs, settings)
    result = execute(*through, sys.executable, "-m", "diagonalflip.server", **environment)
    assert result.returncode == status, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_a_relative_folder_of_logs_needs_one_to_start_in(artifacts: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    leave = 'cd "$0" && rmdir "$0" && PYTHONSAFEPATH=1 exec "$@"'
    through = ["sh", "-c", leave, str(here)]
    told = start_and_fail(artifacts, Path("logs"), through=through, PYTHONPATH=str(ROOT))
    assert "FLIP_LOG_DIR=logs, and the working directory is gone" in told


@pytest.mark.parametrize(
    ("settings", "status", "told"),
    [
        # no busy port; and nobody is asked for tokens and TLS first
        ({"HOST": "no.such.host.invalid"}, 4, "in the environment does not resolve"),
        ({"PORT": "http"}, 2, "FLIP_PORT=http in the environment"),
        ({"FLIP_WORKER": "2"}, 2, "FLIP_WORKER in the environment is no setting"),
        ({"TORCHSERVE": "1", "JAVA_HOME": "/nowhere"}, 2, "no /nowhere/bin/java"),
        ({"MODEL_STORE": "/nowhere"}, 2, "Run `make export`."),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    artifacts: Path, tmp_path: Path, settings: dict[str, str], status: int, told: str
) -> None:
    assert told in start_and_fail(artifacts, tmp_path, status, **settings)


def test_the_last_line_of_json_says_why_it_does_not_start(artifacts: Path, tmp_path: Path) -> None:
    settings = {"LOG_FORMAT": "json", "MODEL_STORE": "/nowhere"}
    environment = server_environment(artifacts, tmp_path, settings)
    ended = execute(sys.executable, "-m", "diagonalflip.server", **environment)
    last = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode, ended.stderr, last["level"]) == (2, "", "CRITICAL")
    assert last["message"].startswith("ArtifactError: /nowhere")


def test_variables_of_others_do_not_keep_it_from_starting(artifacts: Path, tmp_path: Path) -> None:
    """Of conda's compilers, a platform, Kubernetes' Services, and for programs that compute."""
    others = ["HOST=x86_64-conda-linux-gnu", "METRICS_PORT=tcp://10.0.0.7:9090", "PORT=tcp://x:1"]
    others += ["FLIP_GRPC_PORT=tcp://10.0.0.7:7070", "FLIP_GRPC_SERVICE_HOST=10.0.0.7"]
    others += ["OPENBLAS_NUM_THREADS=64"]
    with run_server(artifacts, tmp_path, through=["env", *others], WORKERS="1") as server:
        assert_serves(server)
        assert server.workers[0].environ()["OPENBLAS_NUM_THREADS"] == "1"
        [line] = [each for each in server.printed if "Ignored in the environment" in each]
    assert line.split(": ", 1)[1].split(", ") == [*sorted(others[3:5]), "PORT=tcp://x:1\n"]


def test_the_port_of_a_platform_is_listened_on(artifacts: Path, tmp_path: Path) -> None:
    tokens.add(tmp_path / "tokens", "someone")
    for settings in ({}, {"TOKENS_FILE": str(tmp_path / "tokens")}):
        port = free_ports()
        through = ["env", "-u", "FLIP_PORT", "-u", "FLIP_PUBLIC_PORT", f"PORT={port}"]
        through += ["FLIP_PORT=0"] if settings else []
        with run_server(artifacts, tmp_path, through=through, WORKERS="1", **settings) as server:
            url = server.public if settings else server.base
            assert url == f"http://127.0.0.1:{port}"
            assert requests.get(f"{url}/v2/health/live", timeout=5).status_code == 200


def assert_serves(server: Server) -> None:
    assert server.post(b"\xb6", OCTETS).status_code == requests.codes.ok


def test_an_idle_connection_is_closed_as_the_setting_says(artifacts: Path, tmp_path: Path) -> None:
    with run_server(artifacts, tmp_path, IDLE_TIMEOUT_S="1", TORCHSERVE="0") as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as idle:
            assert idle.recv(1) == b""

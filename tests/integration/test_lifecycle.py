"""Start, stop and start again; and what the operator reads when something is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.ports import free_ports
from diagonalflip.wire import OCTETS
from tests.integration.conftest import (
    FREE_PORTS,
    ROOT,
    Oracle,
    Server,
    run_server,
    server_environment,
)
from tests.integration.test_predictions import assert_predicts, packed_request


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_exits_0_and_a_restart_answers_the_same(
    artifacts: Path, oracle: Oracle, tmp_path: Path, with_signal: signal.Signals
) -> None:
    answers = []
    for torchserve in ("0", "1"):
        with run_server(artifacts, tmp_path, TORCHSERVE=torchserve, WORKERS="2") as server:
            processes = psutil.Process(server.process.pid).children(recursive=True)
            response = server.post(*packed_request(range(16)))
            assert_predicts(response, oracle(range(16)))
            answers.append(response.content)
            assert server.stop(with_signal) == 0
            assert len(processes) == 2 + 3 * int(torchserve), "workers, Java, and its workers"
            assert not psutil.wait_procs(processes, timeout=10)[1], "left running"
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_no_orphans_when_the_server_is_killed(artifacts: Path, tmp_path: Path) -> None:
    with run_server(artifacts, tmp_path / "logs", TORCHSERVE="1") as server:
        processes = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        assert not psutil.wait_procs(processes, timeout=30)[1]


@pytest.mark.slow
def test_killed_workers_come_back(artifacts: Path, oracle: Oracle, tmp_path: Path) -> None:
    with run_server(artifacts, tmp_path / "logs", TORCHSERVE="1") as server:
        of_torchserve = server.java.children()
        assert len(of_torchserve) == 2
        for process in (*server.workers, *of_torchserve):
            process.kill()
            process.wait(10)
        for each in (server, server.at_torchserve):  # both have requests wait
            response = each.post(*packed_request(range(16)))
            while each.is_torchserve and response.status_code == 500:  # sent to the dead one
                response = each.post(*packed_request(range(16)))
            assert_predicts(response, oracle(range(16)))


@pytest.mark.parametrize("torchserve", ["0", ""])
def test_it_serves_without_torchserve(artifacts: Path, tmp_path: Path, torchserve: str) -> None:
    """Off, or on where it is installed, which it is not without Java."""
    settings = {"TORCHSERVE": torchserve, "JAVA_HOME": "/nowhere"}
    with run_server(artifacts, tmp_path, **settings) as server:
        assert server.readiness()["torchserve"] is None
        assert server.metric("torchserve") == server.metric("torchserve_ready") == 0
        told = [line for line in server.printed if "TorchServe is off" in line]
        assert len(told) == (not torchserve)


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


def start_and_fail(
    artifacts: Path, logs: Path, status: int = 2, /, *, through: Sequence[str] = (), **settings: str
) -> str:
    """Runs a server that cannot start, and returns the one line that it says why."""
    result = subprocess.run(
        [*through, sys.executable, "-m", "diagonalflip.server"],
        cwd=ROOT,
        env=server_environment(artifacts, logs, settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == status, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_a_busy_port_is_named(artifacts: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        line = start_and_fail(artifacts, tmp_path, 4, PORT=port)
    assert f"FLIP_PORT={port} in the environment" in line


def test_an_address_that_does_not_resolve_is_no_busy_port(artifacts: Path, tmp_path: Path) -> None:
    """And nobody is asked for tokens and TLS first."""
    line = start_and_fail(artifacts, tmp_path, 4, HOST="x86_64-conda-linux-gnu")
    told = "FLIP_HOST=x86_64-conda-linux-gnu in the environment does not resolve"
    assert line.startswith(f"StartError: {told}")


def test_variables_of_others_do_not_keep_it_from_starting(artifacts: Path, tmp_path: Path) -> None:
    """Of conda's compilers, of a platform, and of Kubernetes' Services."""
    others = ["HOST=x86_64-conda-linux-gnu", "METRICS_PORT=tcp://10.0.0.7:9090", "PORT=tcp://x:1"]
    others += ["FLIP_GRPC_PORT=tcp://10.0.0.7:7070", "FLIP_GRPC_SERVICE_HOST=10.0.0.7"]
    with run_server(artifacts, tmp_path, through=["env", *others], WORKERS="1") as server:
        assert_serves(server)
        [line] = [each for each in server.printed if "Ignored in the environment" in each]
    assert line.split(": ", 1)[1].split(", ") == [
        *sorted(others[3:]),
        "PORT=tcp://x:1\n",
    ]


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


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"PORT": "http"}, "FLIP_PORT=http in the environment"),
        ({"FLIP_WORKER": "2"}, "FLIP_WORKER in the environment is no setting"),
        ({"TORCHSERVE": "2"}, "FLIP_TORCHSERVE=2 in the environment"),
        ({"TORCHSERVE": "1", "JAVA_HOME": "/nowhere"}, "no /nowhere/bin/java"),
    ],
)
def test_an_unusable_setting_is_named(
    artifacts: Path, tmp_path: Path, settings: dict[str, str], told: str
) -> None:
    assert told in start_and_fail(artifacts, tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("diagonal_flip.mar", "flipped bit"),
        ("diagonal_flip.mar", "truncated"),
        ("diagonal_flip.pt", "missing"),
        ("diagonal_flip.pt", "flipped bit"),
        ("reference.json", "truncated"),
        ("reference.json", "missing"),
        ("manifest.json", "missing"),
        ("manifest.json", "truncated"),
    ],
)
def test_a_damaged_artifact_is_named(
    artifacts: Path, tmp_path: Path, name: str, damage: str
) -> None:
    store = tmp_path / "store"
    shutil.copytree(artifacts, store)
    path = store / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[0] ^= 0x80
        path.write_bytes(content)
    line = start_and_fail(store, tmp_path / "logs")
    assert name in line
    is_gone = (name, damage) == ("manifest.json", "missing")
    assert ("Run `make export`." if is_gone else "Move its folder out of the model store") in line


@pytest.mark.slow
def test_an_archive_with_a_wrong_certificate_never_becomes_ready(
    artifacts: Path, tmp_path: Path
) -> None:
    """One weight off by a bit that matters: digests agree, the worker's own check does not."""
    store = tmp_path / "store"
    source = tmp_path / "weights.json"
    weights = (ROOT / "export/weights-1.0.json").read_text()
    source.write_text(weights.replace("0.3, -0.1, 0.2]", "0.3, -0.1, 0.2001]", 1))
    subprocess.run(
        [sys.executable, "-m", "export", "--output", str(store), "--weights", str(source)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    put_reference_of(artifacts, store)
    line = start_and_fail(store, tmp_path / "logs", 4)
    assert "ParityError" in line


def put_reference_of(other: Path, store: Path) -> None:
    """Replace the predictions of an export and its archive, and list the new digests."""
    shutil.copy(other / "reference.json", store)
    target = store / "diagonal_flip.mar"
    with zipfile.ZipFile(target) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["reference.json"] = (other / "reference.json").read_bytes()
    with zipfile.ZipFile(target, "w") as rewritten:
        for name, content in members.items():
            rewritten.writestr(name, content)
    manifest = json.loads((store / "manifest.json").read_text())
    for name in ("diagonal_flip.mar", "reference.json"):
        digest = hashlib.sha256((store / name).read_bytes()).hexdigest()
        manifest["artifacts"][name]["sha256"] = digest
    reference = json.loads(members["reference.json"])["predictions"]
    manifest["parity_report"]["reference"] = reference
    (store / "manifest.json").write_text(json.dumps(manifest))


def test_an_idle_connection_is_closed_when_the_setting_says(
    artifacts: Path, tmp_path: Path
) -> None:
    with run_server(artifacts, tmp_path, IDLE_TIMEOUT_S="1", TORCHSERVE="0") as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as idle:
            assert idle.recv(1) == b""

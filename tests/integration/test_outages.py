"""What breaks beside the workers that are left: clients are served, and the rest comes back."""

from __future__ import annotations

import resource
import signal
import socket
from pathlib import Path

import pytest
import requests

from diagonalflip.server.supervisor import tokens
from diagonalflip.wire import OCTETS
from tests.integration.conftest import PATH, Oracle, Server, run_server
from tests.integration.test_predictions import assert_predicts, packed_request
from tests.integration.test_public_listener import public

pytestmark = pytest.mark.slow

ANSWER_S = 2.0


def lose_a_worker(server: Server) -> None:
    """Kill a worker, and wait until another has taken its place; that has no time limit here."""
    server.workers[0].kill()
    server.read_until("worker . .*starting another")
    while (told := server.readiness())["workers_ready"] < told["workers"]:
        assert told["ready"]


def test_no_temporary_room_ends_nothing(artifacts: Path, oracle: Oracle, folder: Path) -> None:
    through = ["sh", "-ec", 'ulimit -S -f 64; exec "$@"', "sh"]
    settings = {"TMPDIR": str(folder), "TORCHSERVE": "", "WORKERS": "2"}
    with run_server(artifacts, folder, through=through, **settings) as server:
        for _ in range(2):
            line = server.read_until("TorchServe: .*File too large.*; starting it again")
            assert f"{folder}: " in line
            assert "Set TMPDIR" in line
        lose_a_worker(server)
        assert_predicts(server.post(*packed_request(range(16))), oracle(range(16)))
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        again = server.wait_for_torchserve().at_torchserve
        assert_predicts(again.post(*packed_request(range(16))), oracle(range(16)))


LIMITS = {
    "full": "mount -t tmpfs -o size=64k none {folder}",
    "nearly full": "mount -t tmpfs -o size=256k none {folder}",
    "read-only": "mount -t tmpfs -o ro none {folder}",
}
"""Of temporary folders: one has no room, or too little."""


@pytest.mark.parametrize("limit", LIMITS)
def test_it_starts_without_a_temporary_folder_that_has_room(
    artifacts: Path, oracle: Oracle, folder: Path, is_changeable: bool, limit: str
) -> None:
    """Our own server needs none, TLS included; TorchServe takes another."""
    if not is_changeable:
        pytest.skip("needs root")
    token = tokens.add(folder / "tokens", "someone")
    temporary = folder / "tmp"
    temporary.mkdir()
    script = f'{LIMITS[limit].format(folder=temporary)}; exec "$@"'
    settings = {"TMPDIR": str(temporary), "TORCHSERVE": "", "WORKERS": "2"} | public(folder)
    through = ["unshare", "--mount", "sh", "-ec", script, "sh"]
    with run_server(artifacts, folder / "logs", through=through, **settings) as server:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": OCTETS}
        url, trusted = f"{server.public}{PATH}", str(folder / "certificate.pem")
        assert requests.post(url, b"\xb6", headers=headers, verify=trusted, timeout=30).ok
        server.wait_for_torchserve()
        lose_a_worker(server)
        assert_predicts(server.post(*packed_request(range(16))), oracle(range(16)))
        assert server.stop(signal.SIGTERM) == 0
        assert server.process.stdout is not None
        assert "Traceback" not in "".join(server.printed) + server.process.stdout.read()


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

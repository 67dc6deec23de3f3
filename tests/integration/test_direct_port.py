"""The workers' own port beside TorchServe's: same worker, metrics, and life after a crash."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

from diagonalflip import Client
from diagonalflip.wire import pack
from tests.integration.conftest import Oracle, Server, free_port, run_server

PACKED = "application/octet-stream"


def test_both_ports_give_the_same_answers(running: Server) -> None:
    body = bytes(pack(np.random.default_rng(5).integers(0, 16, 300_000)).packed)
    direct = replace(running, url=running.direct_url)
    running.assert_same(direct.post(body, PACKED).content, running.post(body, PACKED).content)


def test_what_it_answers_is_among_the_metrics(artifacts: Path, tmp_path: Path) -> None:
    port = free_port()
    with run_server(artifacts, tmp_path, METRICS_PORT=str(port)) as server:
        direct = replace(server, url=server.direct_url)
        for body in (b"\xb6", b"\x90", b""):
            direct.post(body, PACKED)
        expected = {"direct_requests": 3.0, "direct_refusals": 1.0, "direct_batches": 2.0}
        found: dict[str, float] = {}
        # The worker prints counters once a second; the test's own time limit ends this.
        while expected.items() - found.items() or "direct_handler_ms" not in found:
            text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
            lines = [line for line in text.splitlines() if line.startswith("direct_")]
            found = {line.partition("{")[0]: float(line.split()[-1]) for line in lines}
            assert all(found.get(name, 0) <= count for name, count in expected.items())
        assert found["direct_handler_ms"] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_it_survives_a_killed_worker(
    artifacts: Path, oracle: Oracle, tmp_path: Path, workers: int
) -> None:
    numbers = np.random.default_rng(6).integers(0, 16, 100_000)
    with (
        run_server(artifacts, tmp_path, WORKERS=str(workers)) as server,
        Client(server.direct_url.partition("/predictions")[0], deadline_s=60) as client,
    ):
        before = client.predict(numbers)
        children = psutil.Process(server.process.pid).children(recursive=True)
        worker = next(p for p in children if "model_service_worker.py" in " ".join(p.cmdline()))
        worker.send_signal(signal.SIGKILL)
        assert np.array_equal(client.predict(numbers), before)
        assert np.abs(before - oracle(numbers)).max() <= 1e-6


def test_a_taken_port_is_said_before_anything_starts(running: Server, artifacts: Path) -> None:
    taken = running.direct_url.rpartition(":")[2].partition("/")[0]
    told = rf"SettingError: got DIRECT_PORT={taken}"
    starting = run_server(artifacts, running.logs / "other", DIRECT_PORT=taken)
    with pytest.raises(pytest.fail.Exception, match=told), starting:
        pass

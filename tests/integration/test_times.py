"""Times in logs: one form, whoever writes them and wherever the host is."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from benchmarks.running import log_tail
from tests.integration.conftest import run_server, start

pytestmark = pytest.mark.slow

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")
ELSEWHERE = {"TZ": "Asia/Kolkata", "TORCHSERVE": "1", "WORKERS": "1"}


def assert_now(text: str) -> None:
    """Compare a time with the clock, and its form with RFC 3339's."""
    assert TIME.fullmatch(text), text
    assert abs(datetime.now(UTC) - datetime.fromisoformat(text)) < timedelta(minutes=5)


def test_files_of_all_parts(artifacts: Path, tmp_path: Path) -> None:
    with run_server(artifacts, tmp_path, ACCESS_LOG="1", **ELSEWHERE) as server:
        requests.get(server.url, timeout=30)
        server.workers[0].kill()  # so that others log
        server.read_until("starting another")
        requests.get(server.url, timeout=30)
        server.java.kill()
        server.read_until("TorchServe is ready")
    names = {path.name for path in tmp_path.glob("*.log") if path.stat().st_size}
    assert {"access-0.log", "torchserve-worker.log"} <= names, log_tail(tmp_path)
    for name in names:
        line = (tmp_path / name).read_text().splitlines()[0]
        assert_now(json.loads(line)["time"] if name.startswith("access") else line.split()[0])


def test_lines_of_all_parts_as_json(artifacts: Path, tmp_path: Path) -> None:
    parts = set()
    process = start(artifacts, tmp_path, ELSEWHERE | {"LOG_FORMAT": "json"})
    try:
        for line in process.stdout or ():
            told = json.loads(line)
            assert_now(told["time"])
            parts.add(told["part"])
            if "TorchServe is ready" in told["message"]:
                break
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert "supervisor" in parts
    assert len(parts) > 2, "TorchServe's lines are among them"

"""What the supervisor makes of its parts: readiness, one page of metrics."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diagonalflip.message import Operation, Request, Response, Times
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import supervisor
from diagonalflip.server.supervisor.admin import Health
from diagonalflip.server.supervisor.metrics import Page
from diagonalflip.server.supervisor.ports import free_ports, listen
from diagonalflip.server.supervisor.supervisor import Supervisor
from diagonalflip.server.supervisor.torchserve import EndedError, TorchServe
from diagonalflip.server.supervisor.workers import RESULTS
from diagonalflip.server.worker.metrics import HTTP, Metrics
from diagonalflip.wire import pack
from tests.conftest import ROOT, asynchronous

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


def answered(**response: Any) -> Request:
    """A request that came in at 1 s, and has its response."""
    request = Request(Operation.PREDICT, {}, transport=SimpleNamespace(listener=HTTP))
    request.arrived, request.response = 1.0, Response(b"", "", **response)
    request.images, request.form = pack([11, 6]), "packed"
    return request


def team(ready: int = 2, pages: int = 0) -> Any:
    """Two workers, of which some are ready, and some have sent their measurements."""
    measured = []
    for number in range(pages):
        metrics = Metrics(number)
        metrics.add([answered(headers=TRACED)], 1.5, 2.0)
        metrics.fold()
        measured.append(SimpleNamespace(number=number, page=metrics.state(), checked_at=0.0))
    checks = dict.fromkeys(RESULTS, 0) | {"unanswered": 1}
    return SimpleNamespace(
        ready=ready, count=2, restarts=3, checks=checks, living=measured,
        share_status=lambda: None, apply=None,
    )  # fmt: skip


def health(workers: Any, torchserve: Any = None, **state: Any) -> Health:
    models: Any = None
    return Health(workers, torchserve, models, **state)


@pytest.mark.parametrize(
    ("ready", "state", "expected"),
    [
        (2, {}, False),  # not yet every worker
        (1, {"started": True}, True),
        (0, {"started": True}, False),
        (2, {"started": True, "draining": True}, False),
        (2, {"started": True, "reachable": False}, False),
        (1, {"started": True, "degraded": True}, True),
    ],
)
def test_readiness_is_earned_and_lost(ready: int, state: dict[str, bool], expected: bool) -> None:
    assert health(team(ready), **state).ready is expected


def test_metrics_of_every_part_are_on_one_page() -> None:
    torchserve = SimpleNamespace(ready=False, restarts=4)
    state = health(team(pages=2), torchserve, degraded=True)
    access: Any = SimpleNamespace(expires_at=1.5e9)
    state.access = access
    page = Page(state).render("text/plain")[0].decode()
    counted = (
        'diagonalflip_request_duration_seconds_count{code="200",listener="http",operation="predict"'
    )
    expected = {
        "diagonalflip_ready 0.0",
        "diagonalflip_degraded 1.0",
        "diagonalflip_workers 2.0",
        "diagonalflip_workers_ready 2.0",
        "diagonalflip_workers_killed_total 1.0",
        "diagonalflip_torchserve 1.0",
        "diagonalflip_certificate_expiry_timestamp_seconds 1.5e+09",
        "diagonalflip_torchserve_ready 0.0",
        'diagonalflip_health_checks_total{result="wrong"} 0.0',
        'diagonalflip_restarts_total{part="worker"} 3.0',
        'diagonalflip_restarts_total{part="torchserve"} 4.0',
        *(counted + f',worker="{number}"}} 1.0' for number in range(2)),
    }
    assert expected <= set(page.splitlines())
    names = re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)
    assert len(names) == len(set(names)), "each family once"
    accept = "application/openmetrics-text; version=new, text/plain"
    page = Page(health(team())).render(accept)[0].decode()
    assert "request_duration_seconds_count" not in page, "they are gone"
    assert "diagonalflip_torchserve 0.0" in page.splitlines()
    assert not re.search("^diagonalflip_certificate", page, re.MULTILINE), "there is none"


def test_a_trace_stands_for_requests_like_its() -> None:
    page, media_type = Page(health(team(pages=1))).render(
        "application/openmetrics-text; version=1.0.0"
    )
    assert media_type.startswith("application/openmetrics-text")
    assert re.search(rf'le="1\.6384".* # \{{trace_id="{TRACE}"\}} 1\.0'.encode(), page)


@pytest.fixture
def watching(artifacts: Path) -> Supervisor:
    """A supervisor whose workers are ready, and whose port nobody listens on."""
    settings = Settings(
        torchserve="0", model_store=artifacts, port=free_ports(), degraded_after_s=0
    )
    return Supervisor(settings, {}, team())


def test_workers_that_are_missing_for_long_are_told_as_degraded(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(watching, "_settings", Settings(degraded_after_s=10))
    seen = []
    for seconds, ready in ((0, 2), (1, 1), (9, 1), (10, 0), (1, 1), (1, 2), (1, 1)):
        clock[0] += seconds
        watching._workers.ready = ready  # type: ignore[misc]
        asyncio.run(watching._tick())
        seen.append(watching._health.degraded)
    assert seen == [False, False, True, True, True, False, False]


FIRST_PROCESS = """
import os, subprocess
from types import SimpleNamespace
from diagonalflip.server.supervisor.supervisor import Supervisor

def start(script):
    return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE)

os.getpid = lambda: 1
ours, orphan = start("cat; exit 3"), start("exit 4")
workers = SimpleNamespace(living=[SimpleNamespace(process=ours)])
parent = SimpleNamespace(_workers=workers, _torchserve=None)
os.waitid(os.P_PID, orphan.pid, os.WEXITED | os.WNOWAIT)
Supervisor._reap_orphans(parent)
print(os.path.exists(f"/proc/{orphan.pid}"))
ours.stdin.close()
os.waitid(os.P_PID, ours.pid, os.WEXITED | os.WNOWAIT)
Supervisor._reap_orphans(parent)
print(ours.wait())
Supervisor._reap_orphans(parent)
"""


def test_the_first_process_of_a_container_reaps_orphans_and_leaves_its_own() -> None:
    """Java's workers are its own when Java dies; what it has started is waited for elsewhere."""
    command = [sys.executable, "-c", FIRST_PROCESS]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "3"]


@asynchronous
async def test_torchserve_is_ready_as_its_last_predictions_were_right(tmp_path: Path) -> None:
    right = iter([True, False, True, False, False, False])
    seen = []

    class Predicting(TorchServe):
        async def _start(self, *_: object) -> None:
            pass

        async def _predicts(self) -> bool:
            return next(right)

        async def _pause(self, _: float) -> None:
            seen.append(self.ready)

    models: Any = SimpleNamespace(loaded=[], default=SimpleNamespace(version="1.0"))
    installed: Any = None
    torchserve = Predicting(Settings(log_dir=tmp_path), installed, models)
    with pytest.raises(EndedError, match="3 checks failed"):
        await torchserve._run(tmp_path, [])
    assert seen == [True, False, True, False, False]


@asynchronous
async def test_ports_that_do_not_answer_cost_readiness(watching: Supervisor) -> None:
    answers = iter([b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])

    def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers))
        writer.close()

    seen = []

    async def check(times: int) -> None:
        for _ in range(times):
            await watching._check_ports()
            seen.append(watching._health.reachable)

    await check(supervisor.MAX_PORT_FAILURES - 1)
    address = ("127.0.0.1", watching._settings.port)
    async with await asyncio.start_server(serve, sock=listen(address)):
        await check(2)
    assert seen == [True] * (supervisor.MAX_PORT_FAILURES - 1) + [False, True]


@asynchronous
async def test_nobody_connects_once_it_stops_and_who_came_is_accepted(watching: Supervisor) -> None:
    """They hold the same socket: closing ours ends nothing."""
    workers: Any = watching._workers
    with listen(("127.0.0.1", 0)) as shared:
        watching._listeners["port"] = shared.dup()

        async def drain(_: float) -> None:
            with socket.socket() as late:
                late.setblocking(False)
                late.connect_ex(shared.getsockname())
                with pytest.raises(BlockingIOError):
                    shared.accept()

        workers.announce, workers.drain = lambda _: None, drain
        serving = asyncio.create_task(watching._every(60, watching._tick))
        await watching._drain(serving)
        assert serving.cancelled()
    assert not watching._health.ready


def test_the_live_figures_are_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 102.0, 106.0, 106.0])  # a fold reads it twice
    monkeypatch.setattr("diagonalflip.server.worker.metrics.perf_counter", lambda: next(clock))
    metrics = Metrics()
    times = Times(0.0, 0.0, 0.0, 0.0)
    metrics.add([answered(times=times)] * 10, 1.0, 1.5)
    metrics.fold()
    assert (metrics.recent["requests"], metrics.recent["images"]) == (5.0, 10.0)
    assert metrics.recent["p50_s"] == metrics.recent["p99_s"] == 0.5
    metrics.add([answered(times=times)] * 4, 1.0, 1.5)
    metrics.fold()
    assert metrics.recent["requests"] == 1.0


@pytest.mark.parametrize(
    "traceparent",
    [
        "x",
        "00-4bf92f-00f067-01",
        "-",
        "0" * 128,
        f"00-{0:032}-{1:016}-01",
        f"ff-{1:032}-{1:016}-01",
    ],
)
def test_a_trace_that_is_none_stands_for_nothing(traceparent: str) -> None:
    metrics = Metrics()
    metrics.add([answered(headers={"traceparent": traceparent})], 1.5, 2.0)
    metrics.fold()
    told = metrics.state()["families"]["request_duration_seconds"]
    assert not any(histogram["exemplars"] for _, histogram in told)

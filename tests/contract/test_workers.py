"""Workers as the supervisor keeps them: right, wrong, hung and dead ones, and their versions."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diagonalflip.errors import ArtifactError, ServerOverloaded
from diagonalflip.server import health
from diagonalflip.server.http import balance
from diagonalflip.server.http.balance import Balance
from diagonalflip.server.http.routes import ALL_IMAGES
from diagonalflip.server.models.versions import Models
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import backoff, process
from diagonalflip.server.supervisor.ports import listen
from diagonalflip.server.supervisor.process import Worker
from diagonalflip.server.supervisor.workers import MAX_FAILED_STARTS, Workers
from tests.conftest import asynchronous

PATH = "/predictions/diagonal_flip"

FAKE = r"""
import base64, hashlib, json, os, signal, socket, struct, sys, time
events, behaviours, number, channel = (each.partition("=")[2] for each in sys.argv[1:5])
behaviour = behaviours.split(",")[int(number)]
lines = socket.socket(fileno=int(channel)).makefile("rwb")
prepared = committed = checked = 0

def answer(version):
    flips = json.loads(base64.b64decode(version["reference"]))["predictions"]
    digest = hashlib.sha256(base64.b64decode(version["torchscript"])).hexdigest()
    if behaviour == "wrong":
        flips[7][2] += 1e-4
    if behaviour == "not a number":
        flips[7][2] = float("nan")
    body = b"".join(struct.pack("<4f", *row) for row in flips)
    return {
        "status": 503 if behaviour == "rejects" else 200,
        "device": "cpu",
        "digest": "0" if behaviour == "other" else digest,
        "predictions": body[behaviour == "short":].hex(),
    }

while behaviour != "dies" and (line := lines.readline()):
    message = json.loads(line)
    name, content = message["message"], message["content"]
    reply = None
    if name == "prepare":
        prepared += 1
        desired = content
        if prepared == 2 and behaviour == "dies at prepare":
            break
        if prepared == 2 and behaviour in ("hangs at prepare", "slow"):
            time.sleep(0.3 if behaviour == "slow" else 1000)
        bad = behaviour == "cannot" or (behaviour == "cannot at prepare" and prepared == 2)
        reply = {"1.0": "SpoiledError: no"} if bad else {}
    elif name == "commit":
        committed += 1
        served = desired["versions"]
        if committed == 2 and behaviour == "dies at commit":
            break
        if committed == 2 and behaviour == "hangs at commit":
            time.sleep(1000)
    elif name == "check":
        checked += 1
        if behaviour == "hangs":
            time.sleep(1000)
        if behaviour == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        end = time.process_time() + {"busy": 2, "busy for ever": 1000}.get(behaviour, 0)
        while time.process_time() < end:
            pass
        reply = {each["version"]: answer(each) for each in served}
        if behaviour == "missing":
            reply.popitem()
    else:
        continue
    with open(events, "a") as file:
        file.write(f"{name} {prepared} {number}\n")
    done = {"prepare": "prepared", "commit": "committed", "check": "checked"}[name]
    reply = {"message": done, "number": message["number"], "content": reply}
    lines.write(json.dumps(reply).encode() + b"\n")
    lines.flush()
"""


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - many conditions
        await asyncio.sleep(0.01)


@dataclass
class Served:
    """Workers of a model store, and where clients reach them."""

    workers: Workers
    models: Models
    port: int
    events: Path

    @property
    def seen(self) -> list[str]:
        """Messages that fakes have answered: name, how often they had prepared, their number."""
        return self.events.read_text().splitlines()

    @property
    def killed(self) -> int:
        """How many workers have failed a health check."""
        return self.workers.checks["wrong"] + self.workers.checks["unanswered"]

    async def first_is_killed(self) -> None:
        await until(lambda: self.workers.living)
        process = self.workers.living[0].process
        await until(lambda: process.returncode is not None)
        assert process.returncode == -signal.SIGKILL

    async def until_ready(self) -> list[Worker]:
        await until(lambda: self.workers.ready == self.workers.count)
        return self.workers.living


Serve = Callable[..., Any]


@pytest.fixture
def serve(versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serve both versions by fakes of some behaviours, or by so many real workers."""

    @asynccontextmanager
    async def serving(*behaviours: str, real: int = 0, **settings: Any) -> AsyncIterator[Served]:
        events = tmp_path / "events"
        if not real:
            fake = [sys.executable, "-c", FAKE, f"={events}", f"={','.join(behaviours)}"]
            monkeypatch.setattr(process, "PROGRAM", fake)
            monkeypatch.setattr(backoff, "LONGEST_S", 0.0)  # patience is lost soon
            monkeypatch.setattr(process, "HANG_TIMEOUT_S", 0.5)
            monkeypatch.setattr(process, "CHANGE_TIMEOUT_S", 3.0)
        given: Any = {"workers": real or len(behaviours), "log_dir": tmp_path}
        given |= {"health_check_interval_s": 0.05} | settings
        with listen(("127.0.0.1", 0)) as listener:
            team = Workers(Settings(**given), {"port": listener})
            models = Models(versions, team.apply)
            await team.start()
            team.serve(models.desired)
            try:
                yield Served(team, models, listener.getsockname()[1], events)
            finally:
                await team.end()

    return serving


@pytest.mark.parametrize(
    ("behaviour", "result", "told"),
    [
        ("wrong", "wrong", "a prediction deviates by 0.0001"),
        ("not a number", "wrong", "a prediction deviates by nan"),
        ("short", "wrong", "255 bytes"),
        ("rejects", "wrong", "status 503"),
        ("other", "wrong", "model 0 answered"),
        ("missing", "wrong", "versions"),
        ("right", "wrong", "computed on cpu"),
        *((silent, "unanswered", "") for silent in ("hangs", "stops", "busy for ever")),
    ],
)
@asynchronous
async def test_a_worker_that_is_wrong_or_silent_is_killed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, behaviour: str, result: str, told: str
) -> None:
    if behaviour == "busy for ever":
        monkeypatch.setattr(process, "BUSY_TIMEOUT_S", 1.0)
    async with serve(behaviour, require_gpu=int(behaviour == "right")) as served:
        await served.first_is_killed()
        assert served.workers.checks[result] == served.killed > 0
        assert served.workers.ready == 0
        assert told.lower() in served.workers.fault.lower()


@asynchronous
async def test_a_worker_that_works_may_take_its_time(serve: Serve) -> None:
    async with serve("busy") as served:
        await served.until_ready()
        assert served.killed == served.workers.restarts == 0


@pytest.mark.parametrize("behaviour", ["dies", "cannot"])
@asynchronous
async def test_one_is_started_for_ever_and_all_are_given_up(serve: Serve, behaviour: str) -> None:
    async with serve(behaviour, "right") as served:
        await until(lambda: served.workers.restarts > 2 * MAX_FAILED_STARTS)
        assert (served.workers.ready, served.workers.gave_up) == (1, False)
    async with serve(behaviour, behaviour) as served:
        await until(lambda: served.workers.gave_up)
        assert served.workers.restarts >= 2 * MAX_FAILED_STARTS
        assert served.killed == 0, "none came to a health check"
        assert served.workers.fault == ("SpoiledError: no" if behaviour == "cannot" else "")


@asynchronous
async def test_lines_of_workers_have_their_own_level_in_json(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

    def told() -> list[str]:
        return [each for each in caplog.messages if "asks for grpc" in each]

    async with serve(real=1, log_format="json"):
        await until(told)
    [line] = map(json.loads, told())
    assert (line["level"], line["part"]) == ("WARNING", "worker 0")


@asynchronous
async def test_a_worker_that_has_ended_keeps_no_other_from_accepting(serve: Serve) -> None:
    async with serve("right", "right", health_check_interval_s=60) as served:
        first, _ = await served.until_ready()
        clients = balance.counts(served.workers._counts)
        clients[0], clients[1] = 0, 100
        assert Balance(clients, 1).is_ahead
        first.process.kill()
        await until(lambda: served.workers.restarts == 1)
        assert not Balance(clients, 1).is_ahead


@asynchronous
async def test_a_worker_is_started_again_where_no_thread_can_be(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there are as many as there may be."""
    async with serve("right") as served:
        (first,) = await served.until_ready()
        with monkeypatch.context() as full:
            full.delattr(threading.Thread, "start")
            first.process.kill()
            await until(lambda: served.workers.restarts == 1)
        assert first not in await served.until_ready()


@asynchronous
async def test_processes_start_before_the_supervisor_has_read_what_they_serve(serve: Serve) -> None:
    async with serve("right", "right") as served:
        assert len(served.workers.living) == 2


@pytest.mark.parametrize("behaviour", ["dies", "right"])
@asynchronous
async def test_versions_are_not_switched_before_one_serves(serve: Serve, behaviour: str) -> None:
    async with serve(behaviour) as served:
        with pytest.raises(ServerOverloaded):
            await served.models.make_default("2.0")
        assert served.models.document()["default"] == "1.0"


@asynchronous
async def test_a_switch_is_prepared_by_all_before_any_shows_it(serve: Serve) -> None:
    async with serve("right", "slow", "right") as served:
        await served.until_ready()
        await served.models.make_default("2.0")
        assert {each.revision for each in served.workers.living} == {served.workers.desired.number}
        seen = [event for event in served.seen if event.split()[1] == "2"]
        changes = [event.split()[0] for event in seen if not event.startswith("check")]
        assert changes == ["prepare"] * 3 + ["commit"] * 3
        assert (served.workers.ready, served.killed) == (3, 0)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("cannot at prepare", "SpoiledError"), ("hangs at prepare", "Worker 1, silent for 3 s")],
)
@asynchronous
async def test_a_switch_is_made_by_all_or_none(serve: Serve, behaviour: str, error: str) -> None:
    async with serve("right", behaviour, health_check_interval_s=60) as served:
        await served.until_ready()
        before = served.workers.desired
        with pytest.raises(ArtifactError, match=error):
            await served.models.make_default("2.0")
        assert served.workers.desired is before
        assert served.models.document()["default"] == "1.0"
        assert not [event for event in served.seen if event.startswith("commit 2")]


@pytest.mark.parametrize("behaviour", ["dies at prepare", "dies at commit", "hangs at commit"])
@asynchronous
async def test_one_that_ends_in_a_switch_comes_back_with_it(serve: Serve, behaviour: str) -> None:
    # No health check finds it first.
    async with serve("right", behaviour, health_check_interval_s=60) as served:
        lost = (await served.until_ready())[1]
        await served.models.make_default("2.0")
        await until(lambda: served.workers.restarts == 1)
        there = await served.until_ready()
        assert lost not in there
        assert {worker.revision for worker in there} == {served.workers.desired.number}
        assert there[0].process.poll() is None


@asynchronous
async def test_a_switch_that_ends_every_worker_is_not_made(serve: Serve) -> None:
    async with serve("dies at prepare", "dies at prepare") as served:
        await served.until_ready()
        with pytest.raises(ArtifactError, match="Every worker ended"):
            await served.models.make_default("2.0")
        assert served.models.document()["default"] == "1.0"
        await until(lambda: served.workers.restarts == 2)
        await served.until_ready()


@asynchronous
async def test_a_health_check_just_before_a_switch_is_no_reason_to_kill(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Worker.commit
    async with serve("right", "right", health_check_interval_s=60) as served:
        await served.until_ready()

        async def commit(worker: Worker, desired: Any) -> None:
            checking = asyncio.create_task(served.workers._check(worker))
            while not worker._answers:  # noqa: ASYNC110 - until it is asked
                await asyncio.sleep(0)
            await asyncio.gather(honest(worker, desired), checking)

        monkeypatch.setattr(Worker, "commit", commit)
        await served.models.unload("2.0")
        await served.models.load("2.0")
        assert (served.killed, served.workers.ready) == (0, 2)


async def ask(served: Served, path: str = PATH) -> tuple[int, bytes]:
    """Ask on a connection of its own, and wait for less time than the start of a worker takes."""
    method, body = ("POST", ALL_IMAGES) if path == PATH else ("GET", b"")
    async with asyncio.timeout(2):
        return await health.ask(served.port, method, path, body=body)


async def answering(served: Served, version: str) -> None:
    """Check the predictions of many new connections."""
    for _ in range(20):
        status, answer = await ask(served)
        assert status == 200
        health.compare(answer, served.models.default)
    assert served.models.default.version == version


def connections(worker: Worker) -> int:
    """How many there were when the worker measured last."""
    counts = worker.page["families"]["connections"] if worker.page else []
    return sum(count for _, count in counts)


@asynchronous
async def test_workers_serve_from_one_socket_and_outlive_each_other(serve: Serve) -> None:
    async with serve(real=2, health_check_interval_s=60) as served, AsyncExitStack() as opened:
        first, second = await served.until_ready()
        await answering(served, "1.0")
        await served.models.make_default("2.0")
        spoiled = copy.deepcopy(served.models.desired)
        spoiled.content["versions"][0] |= {"version": "3.0", "onnx": ""}
        with pytest.raises(ArtifactError, match="ArtifactError"):
            await served.workers.apply(spoiled)
        await answering(served, "2.0")

        clients, has = 0, 0
        while not 0 < has < clients:  # each has some, unless one gets no processor for long
            clients += 64
            for _ in range(64):
                _, writer = await asyncio.open_connection("127.0.0.1", served.port)
                opened.callback(writer.close)
            await until(lambda: connections(first) + connections(second) == clients)  # noqa: B023
            has = connections(first)
        while len(json.loads((await ask(served, "/status"))[1])["workers"]) < 2:
            served.workers.share_status()
            await asyncio.sleep(0.1)

        first.process.send_signal(signal.SIGSTOP)
        await answering(served, "2.0")
        first.process.kill()
        await answering(served, "2.0")
        await until(lambda: served.workers.restarts == 1)
        assert first not in await served.until_ready()
        assert (served.killed, second.process.poll()) == (0, None)


@asynchronous
async def test_a_worker_has_its_own_process_group_and_ends_with_its_channel(serve: Serve) -> None:
    async with serve(real=1, health_check_interval_s=60) as served:
        (worker,) = await served.until_ready()
        pid = worker.process.pid
        # A terminal signals a process group: Ctrl-C is not for workers. Linux shares processors by
        # session (autogroups): they have the supervisor's.
        assert (os.getpgid(pid), os.getsid(pid)) == (pid, os.getsid(0))
        worker.channel.close()
        await until(lambda: worker.process.returncode is not None)
        assert worker.process.returncode == 0
        assert served.killed == 0


@asynchronous
async def test_a_worker_that_is_restarted_before_a_drain_is_not_ready(serve: Serve) -> None:
    async with serve(real=1) as served:
        (worker,) = await served.until_ready()
        served.workers.announce("not_ready")
        worker.process.kill()
        await until(lambda: worker not in served.workers.living)
        await served.until_ready()  # it answers rightly
        status, body = await health.ask(served.port, "GET", "/v2/health/ready")
        assert (status, json.loads(body)["ready"]) == (503, False)
        status, _ = await health.ask(served.port, "GET", "/v2/health/live")
        assert status == 200


@asynchronous
async def test_workers_that_drain_answer_what_has_come_in(serve: Serve) -> None:
    """Also if they get the signal that the supervisor gets."""
    async with serve(real=2, health_check_interval_s=60) as served:
        there = await served.until_ready()
        begun = []
        for _ in range(8):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n"
            writer.write(head.encode())
            begun.append((reader, writer))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            for worker in there:
                worker.process.send_signal(number)
        draining = asyncio.create_task(served.workers.drain(60))
        await asyncio.sleep(0)
        for reader, writer in begun:
            writer.write(b"\0")
            assert (await reader.read()).startswith(b"HTTP/1.1 415 ")  # says no type
            writer.close()
        await draining
        assert [await worker.reap() for worker in there] == ["ended with status 0"] * 2

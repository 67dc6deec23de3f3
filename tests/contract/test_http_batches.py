"""Requests that wait together are one batch, health checks come first, no fault stops the next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest

from diagonalflip.message import Operation, Request
from diagonalflip.server.http import limits
from diagonalflip.server.http.lifecycle import Lifecycle
from diagonalflip.server.http.routes import ALL_IMAGES, Answers, WorkerServer
from diagonalflip.server.worker.metrics import HTTP, Metrics
from tests.conftest import asynchronous
from tests.contract.conftest import PING, Echo, Port, post, read


@pytest.mark.parametrize("are_new", [True, False])
def test_what_arrives_while_a_batch_runs_becomes_the_next_batch(
    port: Port, monkeypatch: pytest.MonkeyPatch, *, are_new: bool
) -> None:
    """New clients too: many are accepted in a turn of the loop, which takes long under load.

    No batch is larger than it may be: enough requests are answered while others are still read.
    """
    monkeypatch.setattr(limits, "BATCH_REQUESTS", 128 if are_new else 4)
    with contextlib.ExitStack() as opened:
        first = opened.enter_context(port.connect())
        if are_new:
            port.hold(first, b"first")
        clients = [opened.enter_context(port.connect()) for _ in range(100)]
        if not are_new:
            port.settle()
            port.hold(first, b"first")
        for number, client in enumerate(clients):
            client.sendall(post(b"number %d" % number))
        port.echo.go_on.set()
        assert [read(each).body for each in clients] == [b"number %d" % n for n in range(100)]
        assert read(first).body == b"first"
    assert sum(port.echo.batches) == 101
    assert len(port.echo.batches) <= 50
    assert are_new or max(port.echo.batches) == 4


def queue_alone() -> tuple[Echo, Lifecycle, list[Request], Callable[..., Request]]:
    """Make one that requests are put into, so it routes none; what it sends; and a request."""
    echo, replies = Echo(), list[Request]()

    def made(body: bytes = b"a", *, lost: bool = False, is_full: bool = False) -> Request:
        client = SimpleNamespace(lost=lost, listener=HTTP, reply=replies.append)
        client.buffered = SimpleNamespace(is_full=is_full)
        return Request(Operation.PREDICT, {}, body, echo, transport=client)

    return echo, Lifecycle(lambda _: None, Metrics()), replies, made


@asynchronous
async def test_light_requests_wait_for_one_heavy_request_at_most() -> None:
    echo, lifecycle, _, made = queue_alone()
    heavy = bytes(limits.HEAVY_IMAGES)
    for body in (heavy, heavy, heavy, b"", b""):
        assert lifecycle.put(made(body))
    for _ in range(4):  # a batch in each turn of the loop
        await asyncio.sleep(0)
    assert echo.batches == [3, 1, 1]
    assert [bool(request.body) for request in echo.requests] == [False, False, True, True, True]


@asynchronous
async def test_a_batch_has_no_more_images_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_IMAGES", 4)
    echo, lifecycle, _, made = queue_alone()
    for _ in range(5):  # of two images each
        assert lifecycle.put(made())
    for _ in range(3):
        await asyncio.sleep(0)
    assert echo.batches == [2, 2, 1]


@asynchronous
async def test_who_has_no_room_any_more_when_its_turn_comes_is_rejected_unread() -> None:
    """It may have filled it meanwhile, with answers that it does not read."""
    echo, lifecycle, replies, made = queue_alone()
    for is_full in (False, True):
        assert lifecycle.put(made(is_full=is_full))
    await asyncio.sleep(0)
    assert [request.response and request.response.status for request in replies] == [200, 503]
    assert len(echo.requests) == 1


@asynchronous
async def test_a_full_batch_is_answered_before_reading_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """But not within another batch, whose answers let clients go on: that would nest for ever."""
    monkeypatch.setattr(limits, "BATCH_REQUESTS", 2)
    echo, lifecycle, _, made = queue_alone()
    for _ in range(2):
        request = made()
        request.transport.reply = lambda _: len(echo.batches) == 1 and lifecycle.put(made())  # type: ignore[assignment]
        assert lifecycle.put(request)
    assert echo.batches == [2]
    await asyncio.sleep(0)
    assert echo.batches == [2, 2]


@pytest.mark.parametrize(("lost", "answered"), [((True, False, True), 1), ((True,), 0)])
@asynchronous
async def test_who_has_hung_up_is_not_computed_for(
    caplog: pytest.LogCaptureFixture, lost: Sequence[bool], answered: int
) -> None:
    echo, lifecycle, replies, made = queue_alone()
    for each in lost:
        lifecycle.put(made(lost=each))
    await asyncio.sleep(0)  # the batch runs in the next turn of the loop
    assert (len(replies), echo.batches) == (answered, [1] * answered)
    assert not caplog.records, "a batch of nobody is measured without complaint"


def fail(*_: object) -> Any:
    raise RuntimeError("spoiled")


@pytest.mark.parametrize(
    ("where", "name", "does"),
    [
        ("server.lifecycle", "_route", fail),
        ("echo", "cost", fail),
        ("echo", "answer", fail),
        ("echo", "answer", lambda _: None),
        ("metrics", "add", fail),
        ("server", "head", fail),
        ("", "check", fail),
    ],
)
def test_a_fault_at_any_step_is_logged_and_leaves_the_queue_running(
    port: Port, caplog: pytest.LogCaptureFixture, where: str, name: str, does: Any
) -> None:
    is_told = where in ("server.lifecycle", "echo")
    port.ask(post(b"the first one, whose metrics are there"))
    with port.connect() as client:
        with pytest.MonkeyPatch.context() as broken:
            if where:
                there: Any = port
                for part in where.split("."):
                    there = getattr(there, part)
                broken.setattr(there, name, does)
            else:
                port.do(port.server.check, does)
            client.sendall(post(b"a"))
            if name == "head":
                assert client.recv(1) == b""
            else:
                answer = read(client)
                assert answer.status == (500 if is_told else 200)
                assert not is_told or answer.code == "internal_error"
            port.do(int)  # the answer is observed after it is sent
            if name == "add":  # or before, if no batch has given it
                client.sendall(PING)
                assert read(client).status == 200
        if name != "head":
            client.sendall(post(b"b"))
            assert read(client).body == b"b"
    assert port.ask(post(b"c")).body == b"c"
    assert does is not fail or "RuntimeError: spoiled" in caplog.text
    checked = Queue[Answers]()
    port.do(port.server.check, checked.put)
    assert checked.get(timeout=30)["1.0"]["status"] == 200


def test_a_health_check_waits_for_no_client(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """However full the worker is, and whoever came before."""
    monkeypatch.setattr(limits, "QUEUED_IMAGES", 2)
    with port.connect() as first, port.connect() as second:
        port.hold(first, b"a")
        second.sendall(post(b"b"))
        answers = Queue[Answers]()
        port.server._loop.call_soon_threadsafe(port.server.check, answers.put)
        port.echo.go_on.set()
        assert answers.get(timeout=30)["1.0"]["predictions"] == ALL_IMAGES.hex()
        assert [read(first).body, read(second).body] == [b"a", b"b"]
    assert [bytes(request.body) for request in port.echo.requests] == [b"a", ALL_IMAGES, b"b"]
    assert port.metrics.rejected.total() == 0


def test_a_health_check_gets_no_answer_where_clients_get_none(port: Port) -> None:
    answers = Queue[Answers]()
    port.do(setattr, port.server.lifecycle, "_scheduled", True)
    with port.connect() as client:
        client.sendall(post(b"a"))
        port.do(port.server.check, answers.put)
        port.settle()
        port.tick(2)
        assert answers.empty()
        port.do(setattr, port.server.lifecycle, "_scheduled", False)
        assert port.ask(post(b"b")).body == b"b"
        assert answers.get(timeout=30)["1.0"]["status"] == 200
        assert read(client).body == b"a"


def test_measurements_that_cannot_be_sent_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines and dates go on as well."""
    monkeypatch.setattr(limits, "IDLE_S", 0.5)
    sent = Queue[dict[str, Any]]()

    def publish(state: dict[str, Any]) -> None:
        sent.put(state)
        if sent.qsize() > 1:  # the first time is before it is open
            raise OSError

    with contextlib.closing(Port(publish=publish, server=WorkerServer)) as port:
        with port.connect() as idle:
            assert idle.recv(1) == b""
        dates = {port.ask(post(b"a")).headers["date"]}
        while len(dates) < 2:  # the test's own time limit ends this
            dates.add(port.ask(post(b"a")).headers["date"])
        assert sent.qsize() > 2
    assert sent.get()["families"]["connections"] == [(["http"], 0), (["public"], 0)]

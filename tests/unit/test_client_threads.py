"""Small calls of several threads travel together, and none suffers from the others."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from diagonalflip import AsyncClient, Client, errors
from diagonalflip.client import aio
from diagonalflip.client._chunks import ChunkLimit
from diagonalflip.client._connection import THREAD, Connection
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import FLIPS, PREDICTIONS, Form
from diagonalflip.client._jobs import begin, threads
from diagonalflip.client._join import ThreadJoiner
from diagonalflip.wire import Images, pack, unpack
from tests.faults.fake_server import TABLE, FakeServer, expected_flips
from tests.unit.test_client_operations import server, url

__all__ = ["server", "url"]  # fixtures

WAIT_S = 60


class Queued(Deadline):
    """Knows when its call has begun to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.waits = threading.Event()

    def check(self) -> float:
        self.waits.set()
        return super().check()


class Service:
    """Answers when it may; one request is in flight, all others are joined."""

    def __init__(self, limit: int = 100) -> None:
        self.may, self.began = threading.Event(), threading.Event()
        self.asked = list[tuple[Form, int]]()
        self.failure: Exception | None = None
        self.joiner = ThreadJoiner(self.send, ChunkLimit(limit), most=1)
        self.pool = ThreadPoolExecutor(20)
        self.first = self.pool.submit(self.joiner.ask, pack([0]), PREDICTIONS, Deadline(WAIT_S))
        assert self.began.wait(WAIT_S)

    async def send(self, images: Images, form: Form, _: Deadline) -> Any:
        self.asked.append((form, images.count))
        self.began.set()
        self.may.wait(WAIT_S)
        if self.failure is not None:
            raise self.failure
        return TABLE[unpack(images)] if form is PREDICTIONS else expected_flips(unpack(images))

    def ask(self, *numbers: int, form: Form = PREDICTIONS, seconds: float = WAIT_S) -> Future[Any]:
        """Ask in a thread that waits already when this returns."""
        deadline = Queued(seconds)
        asked = self.pool.submit(self.joiner.ask, pack(numbers), form, deadline)
        assert deadline.waits.wait(WAIT_S)
        return asked

    def counts(self) -> list[int]:
        return [count for _, count in self.asked[1:]]


def test_what_comes_while_a_request_is_in_flight_is_the_next_one() -> None:
    service = Service()
    parts = [[n] * (1 + n % 3) for n in range(9)]
    answers = [service.ask(*part) for part in parts]
    service.may.set()
    assert np.array_equal(service.first.result(), TABLE[[0]])
    for part, answer in zip(parts, answers, strict=True):
        assert np.array_equal(answer.result(), TABLE[part])
        assert answer.result().base is None  # each has its own
    assert service.counts() == [sum(map(len, parts))]
    service.joiner.ask(pack([1]), PREDICTIONS, Deadline(WAIT_S))
    assert service.counts()[1:] == [1]


def test_no_request_has_two_forms_or_more_images_than_the_limit() -> None:
    service = Service(limit=4)
    three, two = service.ask(1, 2, 3), service.ask(4, 5)
    flipped, other = service.ask(6, form=FLIPS), service.ask(7, form=FLIPS)
    service.may.set()
    assert np.array_equal(np.concatenate([three.result(), two.result()]), TABLE[1:6])
    flips = np.concatenate([flipped.result(), other.result()])
    assert np.array_equal(flips, expected_flips([6, 7]))
    assert service.counts() == [3, 2, 2]


def test_a_failure_gives_each_thread_an_exception_of_its_own() -> None:
    service = Service()
    asked = [service.ask(n) for n in range(3)]
    service.failure = errors.RateLimited("11 requests", "10", "wait")
    service.may.set()
    found = [each.exception() for each in (service.first, *asked)]
    assert [type(error) for error in found] == [errors.RateLimited] * 4
    assert len(set(map(id, found))) == 4
    service.failure = None  # and all go on
    answer = service.joiner.ask(pack([5]), PREDICTIONS, Deadline(WAIT_S))
    assert np.array_equal(answer, TABLE[[5]])


def test_a_call_whose_deadline_has_passed_is_not_sent() -> None:
    service = Service()
    short, long = service.ask(1, seconds=0.01), service.ask(2)
    with pytest.raises(errors.DeadlineExceeded):
        short.result()
    service.may.set()
    assert np.array_equal(long.result(), TABLE[[2]])
    assert service.counts() == [1]


def test_a_job_that_is_cancelled_ends_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    began, left, ended = threading.Event(), list[float](), threading.Event()

    def waiting(_: Any, __: Images, ___: Form, deadline: Deadline) -> None:
        began.set()
        deadline.sleep(5)
        left.append(deadline.left_s())
        ended.set()

    async def cancel() -> None:
        async with AsyncClient(images_per_request=2) as client:
            job = asyncio.ensure_future(client.predict([1] * 9))
            assert await asyncio.to_thread(began.wait, 30)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job

    monkeypatch.setattr(aio, "collect", waiting)
    asyncio.run(cancel())
    assert ended.wait(30)
    assert left == [0.0]


def test_a_fork_waits_for_none_of_its_parents_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    monkeypatch.setattr("os.getpid", lambda: 1)
    service.began.clear()
    asked = service.pool.submit(service.joiner.ask, pack([3]), PREDICTIONS, Deadline(WAIT_S))
    assert service.began.wait(WAIT_S)
    service.may.set()
    assert np.array_equal(asked.result(), TABLE[[3]])


@pytest.mark.parametrize("joins", [True, False])
def test_every_thread_gets_its_own_answers(
    server: FakeServer, url: str, joins: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def work(seed: int) -> None:
        for n in range(seed, seed + 20):
            numbers = [n % 16] * (1 + n % 5)
            out = np.empty((len(numbers), 4), np.float32)
            assert np.array_equal(client.predict(numbers), TABLE[numbers])
            assert client.predict(numbers, out=out) is out
            assert np.array_equal(out, TABLE[numbers])
            assert np.array_equal(client.flip(numbers), expected_flips(numbers))

    with Client(url, connections=1, join_calls=joins) as client, ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    assert (len(server.counts) < 12 * 20 * 3) == joins
    assert not caplog.text  # a connection that is thrown away is told


def test_work_that_no_thread_can_be_started_for_is_done_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, pool = list[int](), threads(1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError))
        begin(pool, done.append, 1).result()
        assert done == [1]
    begin(pool, done.append, 2).result()
    pool.shutdown()
    assert done == [1, 2]


def test_a_fork_waits_for_none_that_made_connections(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(url, join_calls=False) as client:
        opening = client._transport._opening
        with opening.setdefault(os.getpid(), threading.Lock()):
            monkeypatch.setattr("os.getpid", lambda: 1)
            assert np.array_equal(client.predict([3]), TABLE[[3]])


def test_a_call_in_a_signals_handler_leaves_the_interrupted_one_its_deadline(url: str) -> None:
    outer = THREAD.deadline = Deadline(WAIT_S)
    with Client(url, deadline_s=30) as client:
        client.predict([3])
    assert THREAD.deadline is outer


def test_a_handshake_has_the_time_that_connecting_has_left() -> None:
    class Slow:
        timeout = 5.0

        def _new_conn(self) -> socket.socket:
            THREAD.deadline.end -= 3
            return socket.socket()

    connection: Any = type("Connecting", (Connection, Slow), {})()
    THREAD.deadline = Deadline(5.0)
    with connection._new_conn() as made:
        assert 0 < made.gettimeout() <= 2

"""Workers share clients evenly, although all accept from one socket."""

from __future__ import annotations

import asyncio
import os
from array import array
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from diagonalflip.server.http import balance
from diagonalflip.server.http.balance import ABSENT, Balance, counts, share
from diagonalflip.server.http.listener import Listener
from diagonalflip.server.http.routes import Served, WorkerServer
from diagonalflip.server.supervisor.ports import listen
from diagonalflip.server.worker.metrics import HTTP, Metrics
from tests.conftest import asynchronous
from tests.contract.conftest import Echo


@pytest.mark.parametrize(
    ("clients", "is_ahead"),
    [
        ([0], False),
        ([7, 7], False),
        ([7, 6], True),
        ([7, 8], False),
        ([9, 8], False),
        ([10, 8], True),
        ([5, ABSENT], False),
        ([5, ABSENT, 4], True),
    ],
)
def test_a_worker_is_ahead_of_one_with_fewer_clients(clients: list[int], is_ahead: bool) -> None:
    assert Balance(array("I", clients)).is_ahead is is_ahead


def forbidden(_: str) -> int:
    raise PermissionError("vm.memfd_noexec=2")


@pytest.mark.parametrize("memory", [getattr(os, "memfd_create", None), forbidden, None])
def test_counts_are_shared_by_descriptor(monkeypatch: pytest.MonkeyPatch, memory: Any) -> None:
    monkeypatch.setattr(os, "memfd_create", memory, raising=False)
    if memory is None:  # as on macOS
        monkeypatch.delattr(os, "memfd_create")
    descriptor = share(2)
    ours, theirs = counts(descriptor), counts(descriptor)
    assert list(theirs) == [ABSENT, ABSENT]
    Balance(ours, 1).note(3)
    assert list(theirs) == [ABSENT, 3]
    os.close(descriptor)


@asynccontextmanager
async def team(size: int) -> AsyncIterator[tuple[list[WorkerServer], tuple[str, int]]]:
    """Servers of one event loop that accept from one socket; and its address.

    All see a client that comes in one turn of the loop, one after the other.
    """
    clients, servers, tasks = array("I", [ABSENT] * size), [], []
    with listen(("127.0.0.1", 0)) as sock:
        for number in range(size):
            served = Served({"1.0": Echo()}, "1.0")
            server = WorkerServer(served, Metrics(), pages={}, balance=Balance(clients, number))
            opened = asyncio.Event()
            listener = Listener(HTTP, sock.dup())
            listener.sock.setblocking(False)
            tasks.append(asyncio.create_task(server.serve([listener], opened.set)))
            await opened.wait()
            servers.append(server)
        try:
            yield servers, sock.getsockname()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def connect(
    servers: list[WorkerServer], address: tuple[str, int], count: int, until: AsyncExitStack
) -> list[int]:
    """Connect clients; return how many each server has, once all are accepted."""
    before = sum(len(server.connections) for server in servers)
    for _ in range(count):
        _, writer = await asyncio.open_connection(*address)
        until.callback(writer.close)
    while sum(len(server.connections) for server in servers) < before + count:  # noqa: ASYNC110
        await asyncio.sleep(0)
    return [len(server.connections) for server in servers]


@asynchronous
async def test_workers_get_as_many_clients_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "HEAD_START_S", 60)  # clients come one after the other
    async with team(3) as (servers, address), AsyncExitStack() as until:
        assert await connect(servers, address, 12, until) == [4, 4, 4]


@asynchronous
async def test_nobody_waits_for_one_that_accepts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with team(2) as (servers, address), AsyncExitStack() as until:
        assert sum(await connect(servers, address, 2, until)) == 2
        there = len(servers[1].connections)
        monkeypatch.setattr(servers[1], "_accept", lambda _: False)
        assert await connect(servers, address, 4, until) == [6 - there, there]
        await servers[1].drain()
        assert not servers[0]._balance.is_ahead

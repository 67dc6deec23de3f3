"""Calls of one turn of the event loop travel together, and none suffers from the others."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import Any

import aiohttp
import numpy as np
import pytest

from diagonalflip import AsyncClient, errors
from diagonalflip.client._chunks import ChunkLimit
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import PREDICTIONS, Form
from diagonalflip.client._join import AsyncJoiner
from diagonalflip.wire import Images, pack, unpack
from tests.conftest import asynchronous
from tests.faults.fake_server import TABLE, FakeServer, expected_flips
from tests.unit.test_client_operations import server, url

__all__ = ["server", "url"]  # fixtures


@asynchronous
async def test_calls_of_one_turn_are_one_request(server: FakeServer, url: str) -> None:
    parts = [[n % 16] * (1 + n % 3) for n in range(100)]
    async with AsyncClient(url) as client:
        answers = await asyncio.gather(*(client.predict(part) for part in parts))
        assert server.counts == [sum(map(len, parts))]
        for part, answer in zip(parts, answers, strict=True):
            assert np.array_equal(answer, TABLE[part])
        answers[0][:] = 7  # each has its own
        assert np.array_equal(answers[1], TABLE[parts[1]])
        await asyncio.gather(client.predict([1]), client.predict([2]))
        await client.predict([3])
        assert server.counts[1:] == [2, 1]


@asynchronous
async def test_not_if_that_is_not_wanted(server: FakeServer, url: str) -> None:
    async with AsyncClient(url, join_calls=False) as client:
        await asyncio.gather(*(client.predict([n]) for n in range(9)))
    assert server.counts == [1] * 9


@asynchronous
async def test_each_form_has_a_request_of_its_own_and_an_invalid_image_none(
    server: FakeServer, url: str
) -> None:
    async with AsyncClient(url) as client:
        calls = [client.predict([1]), client.flip([2]), client.predict([16])]
        calls += [client.predict([3]), client.flip([4])]
        found: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    first, second, invalid, *others = found
    assert sorted(server.counts) == [2, 2]
    assert isinstance(invalid, errors.InvalidImage)
    assert np.array_equal([first, others[0]], TABLE[[[1], [3]]])
    assert np.array_equal([second, others[1]], expected_flips([[2], [4]]).reshape(2, 1, 2, 2))


class Held:
    """Sends nothing until it may; counts what was cancelled."""

    def __init__(self) -> None:
        self.may, self.asked, self.cancelled = asyncio.Event(), list[int](), 0

    async def __call__(self, images: Images, _: Form, __: Deadline) -> Any:
        self.asked.append(images.count)
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return TABLE[unpack(images)]


def asking(joiner: AsyncJoiner, *numbers: int) -> list[asyncio.Task[Any]]:
    async def ask(number: int) -> Any:
        return await joiner.ask(pack([number]), PREDICTIONS)

    return [asyncio.create_task(ask(number)) for number in numbers]


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("cancelled", [0, 1, 2])
@pytest.mark.parametrize("when", [0, 1, 3])
@asynchronous
async def test_a_cancelled_call_takes_no_other_with_it(cancelled: int, when: int) -> None:
    held = Held()
    tasks = asking(AsyncJoiner(held, ChunkLimit(100), 60), 1, 2, 3)
    await turns(when)
    tasks[cancelled].cancel()
    await turns()
    held.may.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found.pop(cancelled), asyncio.CancelledError)
    others = [number for place, number in enumerate([1, 2, 3]) if place != cancelled]
    rows: list[Any] = list(found)
    assert np.array_equal(np.concatenate(rows), TABLE[others])
    assert not held.cancelled


@pytest.mark.parametrize("count", [1, 3])
@asynchronous
async def test_without_calls_there_is_no_request(count: int) -> None:
    held = Held()
    tasks = asking(AsyncJoiner(held, ChunkLimit(100), 60), *range(count))
    await turns()
    assert held.asked == [count]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await turns()
    assert held.cancelled == 1


@asynchronous
async def test_each_call_ends_at_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0  # for the loop's timers, too
    monkeypatch.setattr("time.monotonic", lambda: now)
    held = Held()
    joiner = AsyncJoiner(held, ChunkLimit(100), 0.2)

    async def ask(number: int, at: float) -> Any:
        nonlocal now
        now = at
        return await joiner.ask(pack([number]), PREDICTIONS)

    first, second = (asyncio.create_task(ask(number, number / 10)) for number in (0, 1))
    await turns()
    assert held.asked == [2]
    now = 0.25
    with pytest.raises(errors.DeadlineExceeded, match=r"0\.2 s"):
        await first
    held.may.set()
    assert np.array_equal(await second, TABLE[[1]])


@asynchronous
async def test_nothing_is_kept_of_calls_that_were_answered(url: str) -> None:
    async with AsyncClient(url) as client:
        gc.collect()
        gc.disable()
        try:
            tasks = [asyncio.create_task(client.predict([n])) for n in range(9)]
            await asyncio.wait(tasks)
            kept = [weakref.ref(task.result()) for task in tasks]
            del tasks
            assert not [each for each in kept if each() is not None]
        finally:
            gc.enable()


def test_a_client_may_be_used_in_another_loop_after_one_that_broke_off(url: str) -> None:
    client = AsyncClient(url)

    async def break_off() -> None:
        asyncio.get_running_loop().create_task(client.predict([1]))
        await asyncio.sleep(0)

    async def go_on() -> Any:
        async with client:
            return await asyncio.gather(client.predict([2]), client.predict([3]))

    asyncio.run(break_off())
    assert np.array_equal(np.concatenate(asyncio.run(go_on())), TABLE[[2, 3]])


def test_each_loop_has_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    close, transport = aiohttp.ClientSession.close, AsyncClient()._transport
    seen = list[aiohttp.ClientSession]()

    async def close_slowly(session: aiohttp.ClientSession) -> None:
        await asyncio.sleep(0)
        await close(session)

    async def connect() -> None:
        seen.extend(await asyncio.gather(*(transport._connected() for _ in range(3))))

    async def end() -> None:
        await connect()
        await transport.close()

    monkeypatch.setattr(aiohttp.ClientSession, "close", close_slowly)
    for work in (connect, connect, end):
        asyncio.run(work())
    assert len(set(seen)) == 3
    assert all(session.closed for session in seen)


@asynchronous
async def test_a_client_can_be_closed_at_the_moment_of_a_deadline() -> None:
    transport = AsyncClient()._transport

    async def hold() -> None:
        async with transport.waiting(0.01):
            await asyncio.sleep(30)

    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    time.sleep(0.02)  # noqa: ASYNC251 - the loop is busy while the deadline passes
    for _ in range(2):  # its callback has run, and the task has not
        await asyncio.sleep(0)
    await transport.close()
    with pytest.raises((TimeoutError, errors.ClientError)):
        await holding

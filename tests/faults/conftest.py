"""A fake server for all tests here, and both clients behind one face."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from diagonalflip import AsyncClient, Client

Call = Callable[..., Any]
"""``call(url, operation, *arguments, given={}, **settings)``: ``given`` are named arguments."""


def call_sync(url: str, operation: str, *arguments: Any, given: Any = None, **settings: Any) -> Any:
    with Client(url, **settings) as client:
        answer = getattr(client, operation)(*arguments, **(given or {}))
        return list(answer) if isinstance(answer, Iterator) else answer


def call_async(
    url: str, operation: str, *arguments: Any, given: Any = None, **settings: Any
) -> Any:
    async def call() -> Any:
        async with AsyncClient(url, **settings) as client:
            answer = getattr(client, operation)(*arguments, **(given or {}))
            if isinstance(answer, AsyncIterator):
                return [part async for part in answer]
            return await answer

    return asyncio.run(call())


@pytest.fixture(params=[call_sync, call_async], ids=["Client", "AsyncClient"])
def call(request: pytest.FixtureRequest) -> Call:
    function: Call = request.param
    return function


@pytest.fixture
def unused_url() -> Iterator[str]:
    """URL of a port where nothing listens. It is bound, so that no one else takes it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds

"""A fake server for all tests here, and both clients behind one face."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from diagonalflip import AsyncClient, Client

Call = Callable[..., Any]
"""``call(url, operation, *arguments, **settings)``"""


def call_sync(url: str, operation: str, *arguments: Any, **settings: Any) -> Any:
    with Client(url, **settings) as client:
        return getattr(client, operation)(*arguments)


def call_async(url: str, operation: str, *arguments: Any, **settings: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(url, **settings) as client:
            return await getattr(client, operation)(*arguments)

    return asyncio.run(call())


@pytest.fixture(params=[call_sync, call_async], ids=["Client", "AsyncClient"])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls one operation of either client."""
    function: Call = request.param
    return function


@pytest.fixture
def unused_url() -> Iterator[str]:
    """URL of a port where nothing listens. It is bound, so that no one else takes it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"

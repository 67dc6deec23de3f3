"""The clients against the real server, judged by ONNX Runtime."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip import AsyncClient, Client
from diagonalflip.wire import MAX_IMAGES
from tests.integration.conftest import Oracle, Server
from tests.integration.test_predictions import assert_close


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.base) as client:
        yield client


@pytest.mark.parametrize("count", [1, 2, 3, 65535, 65536, 65537, 1_000_001])
def test_any_number_of_images(client: Client, oracle: Oracle, count: int) -> None:
    numbers = np.random.default_rng(count).integers(0, 16, count)
    assert_close(client.predict(numbers), oracle(numbers))


def test_many_small_requests_of_the_async_client(server: Server, oracle: Oracle) -> None:
    async def all_at_once() -> list[npt.NDArray[np.float32]]:
        async with AsyncClient(server.base) as client:
            await client.wait_until_ready(30)
            big = client.predict(np.arange(200_001) % 16)
            small = (client.predict([number % 16]) for number in range(300))
            return await asyncio.gather(big, *small)

    big, *small = asyncio.run(all_at_once())
    assert_close(big, oracle(np.arange(200_001) % 16))
    assert_close(np.concatenate(small), oracle(np.arange(300) % 16))


def test_ready_and_info(server: Server, client: Client, artifacts: Path) -> None:
    client.wait_until_ready(30)
    info = client.info()
    manifest = json.loads((artifacts / "manifest.json").read_text())
    assert info.model_digest == manifest["artifacts"]["diagonal_flip.pt"]["sha256"]
    assert info.wire_version == "1"
    assert (info.workers, info.max_images) == (2, MAX_IMAGES)
    assert info.largest_deviation <= 1e-6
    assert info.batch_invariant in (True, False)
    with Client(server.base, model_digest=info.model_digest) as same:
        assert same.info() == info

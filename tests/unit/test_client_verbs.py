"""The clients against a fake server: every verb, adaptation, order, files, memory, threads."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagonalflip import AsyncClient, Client, ServerInfo
from diagonalflip._answers import _seconds
from diagonalflip.errors import ClientError, InvalidAnswer
from diagonalflip.wire import pack, to_pixels
from tests.faults.conftest import Call, call
from tests.faults.fake_server import DESCRIPTION, TABLE, FakeServer, expected_flips, listening

__all__ = ["call"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = np.random.default_rng(1).integers(0, 16, 5001)
PACKED = bytes(pack(NUMBERS).packed)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def url(server: FakeServer) -> Iterator[str]:
    with listening(server.serve) as url:
        yield url


@pytest.mark.parametrize("chunk", [1, 2, 3, 999, 5000, 5001, 65536])
def test_every_verb_in_every_chunk_size(url: str, call: Call, chunk: int) -> None:
    numbers = NUMBERS[: 7 if chunk < 4 else 5001]
    packed = pack(numbers)
    for verb, *arguments in (
        ("predict", numbers),
        ("predict", packed),
        ("predict_packed", packed.packed, packed.count),
    ):
        got = call(url, verb, *arguments, images_per_request=chunk)
        assert got.dtype == np.float32
        assert got.flags.writeable
        assert np.array_equal(got, TABLE[numbers])
    flipped = call(url, "flip", to_pixels(numbers), images_per_request=chunk)
    assert flipped.dtype == np.uint8
    assert np.array_equal(flipped, expected_flips(numbers))


def test_info(url: str, call: Call) -> None:
    assert call(url, "info") == ServerInfo(**DESCRIPTION)


@pytest.mark.parametrize("publishes", [True, False], ids=["published", "unpublished"])
@pytest.mark.parametrize("limit", [1, 2, 7, 100, 4999])
def test_the_chunk_adapts_to_the_server(
    call: Call, server: FakeServer, url: str, limit: int, publishes: bool
) -> None:
    server.max_images, server.publishes = limit, publishes
    numbers = NUMBERS[: 65 if limit < 3 else 5001]
    got = call(url, "predict", numbers, connections=1)
    assert np.array_equal(got, TABLE[numbers])
    refused = [count for count in server.counts if count > limit]
    assert len(refused) <= (1 if publishes else 13)
    assert server.counts[-1] <= limit
    assert np.array_equal(call(url, "flip", numbers), expected_flips(numbers))


def test_a_server_that_takes_nothing_is_an_invalid_answer(call: Call) -> None:
    with listening(FakeServer(0).serve) as url, pytest.raises(InvalidAnswer):
        call(url, "predict", NUMBERS)


def test_headers_of_a_request(server: FakeServer, url: str, call: Call) -> None:
    call(url, "predict", [1, 2, 3], token="secret", model_digest="ab")  # noqa: S106
    call(url, "flip", [1, 2])
    first, second = server.headers
    assert {
        "authorization": "Bearer secret",
        "if-match": '"ab"',
        "content-type": "application/octet-stream; padding=4",
        "accept": "application/octet-stream",
        "accept-encoding": "identity",
    }.items() <= first.items()
    assert not {"authorization", "if-match"} & second.keys()
    assert second["content-type"] == "application/octet-stream"
    assert second["accept"] == "application/vnd.diagonalflip.packed"


@pytest.mark.parametrize(
    "settings",
    [
        *({"url": "localhost:8080"}, {"url": "ftp://a"}, {"url": "http://"}),
        *({"deadline_s": 0}, {"connections": 0}, {"images_per_request": 0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_settings_that_cannot_be(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ClientError):
        kind(**settings)


def test_a_closed_client_says_so(url: str) -> None:
    client = Client(url)
    client.close()
    with pytest.raises(ClientError, match="closed"):
        client.predict([1])

    async def call_closed() -> None:
        client = AsyncClient(url)
        await client.close()
        await client.predict([1])

    with pytest.raises(ClientError, match="closed"):
        asyncio.run(call_closed())


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        *(("", 0, 0), ("soon", 0, 0), ("-1", 0, 0), ("0", 0, 0), ("7", 7, 7)),
        *(("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("Wed, 21 Oct 2093 07:28:00 GMT", 1e8, 1e11)),
    ],
)
def test_retry_after(text: str, low: float, high: float) -> None:
    assert low <= _seconds(text) <= high


def test_the_package_is_light() -> None:
    code = (
        "import json, sys, diagonalflip.wire, diagonalflip; before = set(sys.modules);"
        "diagonalflip.Client; print(json.dumps([sorted(before), sorted(sys.modules)]))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    before, after = json.loads(run.stdout)
    assert not {"requests", "aiohttp", "tenacity"} & set(before)
    assert not {"aiohttp", "torch"} & set(after)

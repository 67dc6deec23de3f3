"""The clients on jobs larger than memory: order, bounds, files, and interruptions."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagonalflip import AsyncClient, Client
from diagonalflip.errors import EmptyPayload, InvalidPadding
from diagonalflip.wire import pack
from tests.faults.conftest import Call, call_async, call_sync
from tests.faults.fake_server import TABLE, FakeServer, listening

NUMBERS = np.random.default_rng(1).integers(0, 16, 5001)
PACKED = bytes(pack(NUMBERS).packed)


@pytest.fixture
def url() -> Iterator[str]:
    with listening(FakeServer().serve) as url:
        yield url


@pytest.fixture(params=[call_sync, call_async], ids=["Client", "AsyncClient"])
def call(request: pytest.FixtureRequest) -> Call:
    function: Call = request.param
    return function


def pieces(size: int) -> Iterator[bytes]:
    return (PACKED[start : start + size] for start in range(0, len(PACKED), size))


@pytest.mark.parametrize("size", [1, 7, 5001])
def test_chunks_come_in_order(url: str, size: int) -> None:
    with Client(url, images_per_request=300) as client:
        got = list(client.predict_chunks(pieces(size), count=5001))
    assert len(got) == 17
    assert np.array_equal(np.concatenate(got), TABLE[NUMBERS])


def test_async_chunks_come_in_order(url: str) -> None:
    async def slow_pieces() -> AsyncIterator[bytes]:
        for piece in pieces(100):
            await asyncio.sleep(0)
            yield piece

    async def collect(source: Any) -> Any:
        async with AsyncClient(url, images_per_request=300, connections=3) as client:
            return [part async for part in client.predict_chunks(source, count=5001)]

    for source in (pieces(7), slow_pieces()):
        assert np.array_equal(np.concatenate(asyncio.run(collect(source))), TABLE[NUMBERS])


def test_no_more_than_a_few_chunks_are_read_ahead(url: str) -> None:
    read = 0

    def counting() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield bytes(50)

    with Client(url, images_per_request=100, connections=2) as client:
        answers = client.predict_chunks(counting())
        for taken in range(1, 20):
            assert len(next(answers)) == 100
            assert read <= taken + 2 * 2 + 2
        answers.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("diagonalflip")]


@pytest.mark.parametrize("paths", [True, False], ids=["paths", "files"])
def test_files(url: str, tmp_path: Path, paths: bool) -> None:
    source: Any = tmp_path / "images"
    source.write_bytes(PACKED)
    destination: Any = str(tmp_path / "predictions")
    if not paths:
        source, destination = io.BytesIO(PACKED), io.BytesIO()
    seen: list[int] = []
    with Client(url, images_per_request=1000) as client:
        done = client.predict_file(source, destination, count=5001, progress=seen.append)
    assert (done, seen) == (5001, [1000, 2000, 3000, 4000, 5000, 5001])
    written = Path(destination).read_bytes() if paths else destination.getvalue()
    assert written == TABLE[NUMBERS].astype("<f4").tobytes()
    assert not list(tmp_path.glob(".*"))


def test_files_of_an_even_number(url: str, call: Call, tmp_path: Path) -> None:
    source, destination = tmp_path / "images", tmp_path / "predictions"
    source.write_bytes(b"\xb6\xc0" * 50)
    assert call(url, "predict_file", source, destination, images_per_request=14) == 200
    assert destination.read_bytes() == TABLE[[11, 6, 12, 0] * 50].astype("<f4").tobytes()


@pytest.mark.parametrize("content", [b"", PACKED[:-1]], ids=["empty", "short"])
def test_a_failed_file_leaves_the_old_one(
    url: str, call: Call, tmp_path: Path, content: bytes
) -> None:
    source, destination = tmp_path / "images", tmp_path / "predictions"
    source.write_bytes(content)
    destination.write_bytes(b"old")
    if content:
        with Client(url) as client, pytest.raises(InvalidPadding):
            client.predict_file(source, destination, count=5001)
    else:
        with pytest.raises(EmptyPayload):
            call(url, "predict_file", source, destination)
    assert destination.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "predictions"]


def test_an_interrupted_file_leaves_nothing(url: str, tmp_path: Path) -> None:
    source, destination = tmp_path / "images", tmp_path / "predictions"
    source.write_bytes(PACKED)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with Client(url, images_per_request=100) as client, pytest.raises(KeyboardInterrupt):
        client.predict_file(source, destination, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_devices_and_pipes_are_never_replaced(url: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool, Client(url) as client:
        read = pool.submit(pipe.read_bytes)
        client.predict_file(io.BytesIO(b"\xb6"), pipe)
        assert read.result(10) == TABLE[[11, 6]].astype("<f4").tobytes()
    assert pipe.is_fifo()

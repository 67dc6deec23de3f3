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
from tests.faults.conftest import Call
from tests.faults.fake_server import TABLE
from tests.unit.test_client_verbs import NUMBERS, PACKED, call, server, url

__all__ = ["call", "server", "url"]  # fixtures


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


def test_files_of_an_even_number_and_of_none(url: str, call: Call, tmp_path: Path) -> None:
    source, destination = tmp_path / "images", tmp_path / "predictions"
    source.write_bytes(b"\xb6\xc0" * 50)
    assert call(url, "predict_file", source, destination, images_per_request=14) == 200
    source.write_bytes(b"")
    with pytest.raises(EmptyPayload):
        call(url, "predict_file", source, destination)
    assert destination.read_bytes() == TABLE[[11, 6, 12, 0] * 50].astype("<f4").tobytes()
    assert sorted(tmp_path.iterdir()) == [source, destination]


def interrupt(_: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("content", "options", "error"),
    [
        (b"", {}, EmptyPayload),
        (PACKED[:-1], {"count": 5001}, InvalidPadding),
        (PACKED, {"progress": interrupt}, KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("before", [{}, {"predictions": b"old"}], ids=["new", "old"])
def test_a_file_that_failed_leaves_what_was_there(  # noqa: PLR0913, PLR0917
    url: str, tmp_path: Path, content: bytes, options: Any, error: Any, before: Any
) -> None:
    files = {"images": content} | before
    for name, old in files.items():
        (tmp_path / name).write_bytes(old)
    with Client(url, images_per_request=100) as client, pytest.raises(error):
        client.predict_file(tmp_path / "images", tmp_path / "predictions", **options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_devices_and_pipes_are_never_replaced(url: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool, Client(url) as client:
        read = pool.submit(pipe.read_bytes)
        client.predict_file(io.BytesIO(b"\xb6"), pipe)
        assert read.result(10) == TABLE[[11, 6]].astype("<f4").tobytes()
    assert pipe.is_fifo()

"""The clients on jobs larger than memory: order, bounds, files, and interruptions."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diagonalflip import AsyncClient, Client
from diagonalflip.errors import EmptyPayload, InvalidPadding
from tests.faults.conftest import Call, call_async, unused_url
from tests.faults.fake_server import TABLE
from tests.unit.test_client_operations import NUMBERS, PACKED, call, server, url

__all__ = ["call", "server", "unused_url", "url"]  # fixtures

ODD = {"count": 5001}


def pieces(size: int) -> Iterator[bytes]:
    return (PACKED[start : start + size] for start in range(0, len(PACKED), size))


async def slow_pieces() -> AsyncIterator[bytes]:
    for piece in pieces(100):
        await asyncio.sleep(0)
        yield piece


@pytest.mark.parametrize("size", [1, 7, 5001])
def test_chunks_come_in_order(url: str, call: Call, size: int) -> None:
    source = pieces(size)
    got = call(url, "predict_chunks", source, given=ODD, images_per_request=300, connections=3)
    assert len(got) == 17
    assert np.array_equal(np.concatenate(got), TABLE[NUMBERS])


def test_pieces_may_come_with_time(url: str) -> None:
    got = call_async(url, "predict_chunks", slow_pieces(), given=ODD, images_per_request=300)
    assert np.array_equal(np.concatenate(got), TABLE[NUMBERS])


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
def test_files(url: str, call: Call, tmp_path: Path, paths: bool) -> None:
    source: Any = tmp_path / "images"
    source.write_bytes(PACKED)
    destination: Any = str(tmp_path / "predictions")
    if not paths:
        source, destination = io.BytesIO(PACKED), io.BytesIO()
    seen: list[int] = []
    given = ODD | {"progress": seen.append}
    done = call(url, "predict_file", source, destination, given=given, images_per_request=1000)
    assert (done, seen) == (5001, [1000, 2000, 3000, 4000, 5000, 5001])
    written = Path(destination).read_bytes() if paths else destination.getvalue()
    assert paths or not source.closed
    assert written == TABLE[NUMBERS].astype("<f4").tobytes()
    assert not list(tmp_path.glob(".*"))


def test_a_file_of_an_even_number_needs_no_count(url: str, call: Call) -> None:
    source, destination = io.BytesIO(b"\xb6\xc0" * 50), io.BytesIO()
    assert call(url, "predict_file", source, destination, images_per_request=14) == 200
    assert destination.getvalue() == TABLE[[11, 6, 12, 0] * 50].astype("<f4").tobytes()


def test_a_source_that_has_nothing_yet_is_not_at_its_end(call: Call, unused_url: str) -> None:
    source = SimpleNamespace(read=lambda _: None)
    with pytest.raises(BlockingIOError):
        call(unused_url, "predict_file", source, io.BytesIO())


def test_a_source_that_waits_does_not_stop_the_event_loop(url: str) -> None:
    ready, content = threading.Event(), iter([b"\xb6"])

    def read(_: int) -> bytes:
        assert ready.wait(5)
        return next(content, b"")

    async def predict() -> int:
        asyncio.get_running_loop().call_soon(ready.set)
        async with AsyncClient(url) as client:
            source: Any = SimpleNamespace(read=read)
            return await client.predict_file(source, io.BytesIO())

    assert asyncio.run(predict()) == 2


def test_a_call_that_is_cancelled_while_it_reads_does_not_stop_the_event_loop(url: str) -> None:
    began, ready, waited = threading.Event(), threading.Event(), list[bool]()

    def read(_: int) -> bytes:
        began.set()
        waited.append(ready.wait(5))
        return b""

    async def cancel() -> None:
        async with AsyncClient(url) as client:
            source: Any = SimpleNamespace(read=read)
            job = asyncio.ensure_future(client.predict_file(source, io.BytesIO()))
            assert await asyncio.to_thread(began.wait, 30)
            job.cancel()
            asyncio.get_running_loop().call_later(0.1, ready.set)
            with pytest.raises(asyncio.CancelledError):
                await job

    asyncio.run(cancel())
    assert waited == [True]


def test_a_destination_need_not_say_how_much_it_took(call: Call, url: str) -> None:
    written: list[bytes] = []

    def write(data: memoryview) -> None:
        assert not written
        written.append(bytes(data))

    call(url, "predict_file", io.BytesIO(b"\xb6"), SimpleNamespace(write=write))
    assert written == [TABLE[[11, 6]].astype("<f4").tobytes()]


def interrupt(_: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("content", "options", "error"),
    [
        (b"", {}, EmptyPayload),
        (PACKED[:-1], ODD, InvalidPadding),
        (PACKED, {"progress": interrupt}, KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("before", [{}, {"predictions": b"old"}], ids=["new", "old"])
def test_a_file_that_failed_leaves_what_was_there(  # noqa: PLR0913, PLR0917
    url: str, call: Call, tmp_path: Path, content: bytes, options: Any, error: Any, before: Any
) -> None:
    files = {"images": content} | before
    for name, old in files.items():
        (tmp_path / name).write_bytes(old)
    paths = tmp_path / "images", tmp_path / "predictions"
    with pytest.raises(error):
        call(url, "predict_file", *paths, given=options, images_per_request=100)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def written(url: str, output: Path) -> None:
    """Predict into a file, and compare its content."""
    with Client(url) as client:
        client.predict_file(io.BytesIO(b"\xb6"), output)
    assert output.read_bytes() == TABLE[[11, 6]].astype("<f4").tobytes()
    assert not list(output.parent.glob("*.part"))


def test_what_appears_is_on_disk(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a host that loses power may have the name, and an empty file."""
    synced: list[tuple[int, bool]] = []
    output = tmp_path / "predictions"
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append((os.fstat(file).st_size, output.exists()))
    )
    written(url, output)
    assert synced == [(output.stat().st_size, False)]


def test_a_file_that_is_there_keeps_mode_owner_and_links(url: str, tmp_path: Path) -> None:
    output = tmp_path / "predictions"
    output.write_bytes(b"old")
    output.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(output, 1234, 1235)
    before = output.stat()
    (tmp_path / "link").symlink_to(output)
    written(url, tmp_path / "link")
    after = output.stat()
    for name in ("st_mode", "st_uid", "st_gid"):
        assert getattr(after, name) == getattr(before, name)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("length", [245, 255])
def test_a_name_may_be_as_long_as_the_system_lets_it(url: str, tmp_path: Path, length: int) -> None:
    written(url, tmp_path / ("n" * length))


def rejected(url: str, output: Path) -> None:
    """Try to write, and find that nothing was asked before that failed."""
    source: Any = SimpleNamespace(read=lambda _: pytest.fail("this was read"))
    with Client(url) as client, pytest.raises(OSError, match=r"\[Errno") as caught:
        client.predict_file(source, output)
    assert caught.value.filename == str(output)


def deny(monkeypatch: pytest.MonkeyPatch, folder: str, *modes: str) -> None:
    """Let no file in that folder be opened in these modes."""
    real = Path.open

    def denied(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if self.parent.name == folder and mode in modes:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", denied)


def test_what_cannot_be_written_is_known_before_the_work(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rejected(url, tmp_path / ("n" * 256))
    rejected(url, tmp_path / "no such folder/predictions")
    (tmp_path / "loop").symlink_to("loop")
    rejected(url, tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").touch()
    deny(monkeypatch, "folder", "ab", "wb", "xb")
    rejected(url, tmp_path / "folder/new")
    rejected(url, tmp_path / "folder/old")


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EPERM, None])
def test_a_file_that_cannot_be_replaced_is_written_over(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """As one that is mounted, EBUSY, or one in a folder that cannot be written."""

    def busy(*_: object) -> None:
        raise OSError(number, "cannot be replaced")

    output = tmp_path / "predictions"
    output.write_bytes(b"old" * 100)
    if number is None:
        deny(monkeypatch, tmp_path.name, "xb")
    monkeypatch.setattr(Path, "replace", busy)
    written(url, output)


def test_devices_and_pipes_are_written_and_never_replaced(url: str, tmp_path: Path) -> None:
    """Those without a name of their own too: ``>(command)`` of a shell, and /dev/stdout."""
    pipe, (reading, writing) = tmp_path / "pipe", os.pipe()
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool, Client(url) as client:
        read = pool.submit(pipe.read_bytes)
        for output in (pipe, f"/dev/fd/{writing}"):
            client.predict_file(io.BytesIO(b"\xb6"), output)
        os.close(writing)
        with os.fdopen(reading, "rb") as nameless:
            assert read.result(10) == nameless.read() == TABLE[[11, 6]].astype("<f4").tobytes()
    assert pipe.is_fifo()

"""Every line of every part as JSON, whatever the part writes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diagonalflip.server import rotating
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import logs


@contextmanager
def part(settings: Settings) -> Iterator[tuple[logs.Part, int]]:
    """A part of the service and the descriptor that it writes to; at the end all is logged."""
    known = set(threading.enumerate())
    opened = logs.Part("part", settings)
    try:
        yield opened, opened.writer
    finally:
        opened.close()
        for thread in set(threading.enumerate()) - known:
            thread.join(10)


def wait_for(path: Path, content: str) -> None:
    while not path.exists() or not path.read_text().endswith(content):
        time.sleep(0.01)  # the test's own time limit ends this


def test_lines_that_are_no_json_become_a_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with part(Settings(log_format="json")) as (_, writer):
        os.write(writer, b'{"level": "WARN"}\n\nWARNING: \xff\n{"key": \n')
    format_ = rotating.JsonFormatter().format
    written = [json.loads(format_(record)) for record in caplog.records]
    assert written[0] == {"level": "WARN"}
    assert (written[1]["part"], written[1]["message"]) == ("part", "WARNING: \ufffd")
    assert written[2]["message"] == '{"key":', "it only begins as JSON"


def test_an_error_has_its_traceback_in_json_too() -> None:
    error = ValueError("why")
    record = logging.makeLogRecord({"msg": "it failed", "exc_info": (type(error), error, None)})
    told = json.loads(rotating.JsonFormatter().format(record))
    assert told["message"].splitlines() == ["it failed", "ValueError: why"]


def test_the_last_error_is_kept_for_messages(tmp_path: Path) -> None:
    with part(Settings(log_dir=tmp_path)) as (opened, writer):
        assert opened.last_error() == "no part wrote an error"
        os.write(writer, b"worker 0 INFO: ready\none\n" + b'{"level": "INFO"}\ntwo\n')
        wait_for(tmp_path / "part.log", " two\n")
        assert opened.last_error() == "one / two"
        os.write(writer, b"ValueError: why\n" + b"later\n" * (logs.LAST_LINES - 1))
    assert opened.last_error() == "ValueError: why"


IN_THE_VM = "Error occurred during initialization of VM"
NO_VM = "Unrecognized option: -XX:x / Error: Could not create the Java Virtual Machine."
JAVA = [
    f"{IN_THE_VM} / Could not allocate space: 1 bytes",  # ulimit -v
    f"{IN_THE_VM} / Failed to mark page as executable",  # MemoryDenyWriteExecute=yes
    f"{NO_VM} / Error: A fatal exception has occurred. Program will exit.",
]


@pytest.mark.parametrize("told", JAVA)
def test_java_says_why_it_could_not_start(tmp_path: Path, told: str) -> None:
    """Once, however often it was started."""
    with part(Settings(log_dir=tmp_path)) as (opened, writer):
        os.write(writer, 2 * f"{told}\n".replace(" / ", "\n").encode())
    assert opened.last_error() == told


@pytest.mark.parametrize("blocking", [True, False])  # Node.js has its children's pipes not wait
def test_a_reader_that_stalls_keeps_nobody_waiting_and_lines_without_room_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, blocking: bool
) -> None:
    monkeypatch.setattr(logs, "FINISH_TIMEOUT_S", 0.05)
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    output = logs.Output(writer)
    for _ in range(2 * logs.WAITING_LINES):
        output.write("x" * 1023 + "\n")
    output.finish()
    monkeypatch.setattr(logs, "FINISH_TIMEOUT_S", 30.0)
    written: list[bytes] = []
    with os.fdopen(reader, "rb") as lines:
        reading = threading.Thread(target=lambda: written.extend(lines))
        reading.start()
        output.finish()
        os.close(writer)
        reading.join(30)
    assert len(written) >= logs.WAITING_LINES
    told = [line.split(" ", 1) for line in caplog.messages]
    assert {line for _, line in told} == {"lines dropped: nobody read"}
    assert len(written) + sum(int(count) for count, _ in told) == 2 * logs.WAITING_LINES


def test_a_line_is_written_whole_in_whatever_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(_: int, data: memoryview) -> int:
        written.append(bytes(data[:3]))
        return len(written[-1])

    monkeypatch.setattr(os, "write", write)
    output = logs.Output(-1)
    output.write("one line\n")
    output.finish()
    assert b"".join(written) == b"one line\n"


def test_times_are_told_in_utc_wherever_the_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.makeLogRecord({"created": 0.0, "msecs": 7.0})
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        told = rotating.UtcFormatter().formatTime(record)
    time.tzset()
    assert told == "1970-01-01T00:00:00.007+00:00"


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = logs.Output(writer)
    output.write("nobody\n")
    output.write("reads this\n")
    output.finish()
    assert not output._lines.unfinished_tasks
    os.close(writer)


def test_a_part_has_a_file_that_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotating, "LOG_BYTES", 40)
    with part(Settings(log_dir=tmp_path)) as (_, writer):
        os.write(writer, b"0123456789\nabcdefghij\n")
    assert (tmp_path / "part.log.1").read_text().endswith(" 0123456789\n")
    assert (tmp_path / "part.log").read_text().endswith(" abcdefghij\n")


def by_logrotate(folder: Path) -> None:
    """As its option ``create`` does it, which is Debian's default."""
    (folder / "part.log").rename(folder / "part.log.1")
    (folder / "part.log").touch()


@pytest.mark.parametrize("take", [shutil.rmtree, by_logrotate])
def test_a_log_goes_on_when_its_file_was_taken(
    tmp_path: Path, take: Callable[[Path], None]
) -> None:
    file = tmp_path / "logs/part.log"
    with part(Settings(log_dir=file.parent)) as (_, writer):
        for line in ("one", "two", "three"):
            os.write(writer, f"{line}\n".encode())
            wait_for(file, f" {line}\n")
            take(file.parent)


def test_a_log_is_whole_where_the_numbers_of_files_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network file systems: the open file never seems to be the one of that name."""
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with part(Settings(log_dir=tmp_path)) as (_, writer):
        os.write(writer, b"one\ntwo\nthree\n")
    lines = (tmp_path / "part.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["one", "two", "three"]


def test_a_full_disk_ends_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file still held when it was closed cannot be written either."""
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    (tmp_path / "part.log").symlink_to("/dev/full")
    with part(Settings(log_dir=tmp_path)) as (_, writer):
        os.write(writer, b"one\ntwo\n")
    assert not failed


def test_a_folder_that_is_not_made_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other/worker.log").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/worker.log")
    logs.make_folder(tmp_path / "new/folder")
    assert not caplog.messages
    unusable = [tmp_path / name for name in ("file", "other", "pipe")]
    for folder in (*unusable, Path("/proc/nothing")):
        logs.make_folder(folder)
        assert f"FLIP_LOG_DIR={folder}" in caplog.messages[-1]

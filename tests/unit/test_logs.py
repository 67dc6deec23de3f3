"""Every line of every part as JSON, whatever the part writes."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from supervisor import logs
from supervisor.settings import Settings


def test_lines_that_are_no_json_become_a_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = set(threading.enumerate())
    caplog.set_level(logging.INFO)
    with logs.output_of("java", Settings(log_format="json")) as out:
        out.write(b'{"level": "WARN"}\n\nWARNING: \xff\n')
    for thread in set(threading.enumerate()) - known:
        thread.join(10)
    format_ = logs._JsonFormatter().format
    written = [json.loads(format_(record)) for record in caplog.records]
    assert written[0] == {"level": "WARN"}
    assert (written[1]["part"], written[1]["message"]) == ("java", "WARNING: \ufffd")


def test_a_reader_that_stalls_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PATIENCE_S", 0.05)
    reader, writer = os.pipe()
    output = logs.Output(writer)
    line = "x" * 1023
    for _ in range(2 * logs.WAITING_LINES):
        output.put(line)
    output.flush()
    monkeypatch.setattr(logs, "PATIENCE_S", 30.0)
    with os.fdopen(reader, "rb") as lines:
        read = threading.Thread(target=lambda: [*lines])
        read.start()
        output.flush()
        os.close(writer)
        read.join(30)
    assert not output._lines.unfinished_tasks


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = logs.Output(writer)
    output.put("nobody")
    output.put("reads this")
    output.flush()
    assert not output._lines.unfinished_tasks
    os.close(writer)


def test_a_part_has_a_file_of_its_own_that_is_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 15)
    known = set(threading.enumerate())
    try:
        with logs.output_of("part", Settings(log_dir=tmp_path)) as output:
            output.write(b"0123456789\nabcdefghij\n")
        for thread in set(threading.enumerate()) - known:
            thread.join(10)
        assert (tmp_path / "part.log.1").read_text() == "0123456789\n"
        assert (tmp_path / "part.log").read_text() == "abcdefghij\n"
    finally:
        logs.output_of("part", Settings(log_format="json")).close()  # closes the file


def test_another_format_is_refused() -> None:
    with pytest.raises(SettingError, match="text or json"):
        logs.configure("xml", logs.Output(1))

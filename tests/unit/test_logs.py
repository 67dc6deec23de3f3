"""Every line of every part as JSON, whatever the part writes."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from server import logs
from server.settings import Settings


def test_lines_that_are_no_json_become_a_message(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    known = set(threading.enumerate())
    caplog.set_level(logging.INFO)
    with logs.output_of("java", Settings(log_format="json")) as out:
        out.write(b'{"level": "WARN"}\n\nWARNING: \xff\n')
    for thread in set(threading.enumerate()) - known:
        thread.join(10)
    assert json.loads(capsys.readouterr().out) == {"level": "WARN"}
    assert [(record.name, record.message) for record in caplog.records] == [
        ("java", "WARNING: \ufffd")
    ]


def test_a_part_has_a_file_of_its_own_that_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 10)
    settings = Settings(log_dir=tmp_path)
    with logs.output_of("edge", settings) as output:
        output.write(b"0123456789\n")
    logs.limit(settings)
    assert (tmp_path / "edge.log").read_bytes() == b""
    assert (tmp_path / "edge.log.1").read_bytes() == b"0123456789\n"


def test_another_format_is_refused() -> None:
    with pytest.raises(SettingError, match="text or json"):
        logs.configure("xml")

"""The edge's tokens and rates, second by second."""

from __future__ import annotations

import errno
import json
import logging
import os
from functools import partial
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from supervisor import edge, tokens
from supervisor.edge import EdgeFiles
from supervisor.settings import Settings
from worker import limits
from worker.guard import TOKENS, Guard, read_tokens

PATH = "/predictions/diagonal_flip"
RATE = 3


@pytest.fixture
def token(tmp_path: Path) -> str:
    return tokens.add(tmp_path / TOKENS, "somebody")


@pytest.fixture
def guard(tmp_path: Path, token: str) -> Guard:  # noqa: ARG001 - it is in the file
    guard = Guard(tmp_path, RATE, False)
    guard.paths = {PATH}
    return guard


def status(guard: Guard, told: str, path: str = PATH) -> int:
    """Status of the answer; 200 for a request that may pass."""
    response = guard.refuse("POST", path, {"authorization": told} if told else {})
    return response.status if response is not None else 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_rate_is_by_token_and_second(
    guard: Guard, tmp_path: Path, token: str, scheme: str
) -> None:
    other = tokens.add(tmp_path / TOKENS, "other")
    guard.follow()
    for _ in range(2):
        found = [status(guard, f"{scheme} {token}") for _ in range(RATE + 2)]
        assert found == [200] * RATE + [429] * 2
        assert status(guard, f"{scheme} {other}") == 200
        guard.follow()


@pytest.mark.parametrize("path", ["/", "/docs", "/status", "/metrics", "/v2/models/other", ""])
def test_unknown_paths_are_told_to_those_with_a_token_alone(
    guard: Guard, token: str, path: str
) -> None:
    assert status(guard, "", path) == 401
    assert status(guard, f"Bearer {token}", path) == 404


@pytest.mark.parametrize("path", ["/ping", "/v2/health/live", "/v2/health/ready"])
def test_health_is_for_all_and_counts_for_nobody(guard: Guard, token: str, path: str) -> None:
    for _ in range(RATE + 1):
        assert status(guard, f"Bearer {token}", path) == 200
    assert status(guard, f"Bearer {token}") == 200


def test_refusals_fill_no_log(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        for _ in range(1000):
            status(guard, 'Bearer "\n', "/a\nb")
        guard.follow()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 * (limits.REFUSALS_LOGGED + 1)
    assert (
        lines[limits.REFUSALS_LOGGED] == f"{1000 - limits.REFUSALS_LOGGED} refusals were not logged"
    )
    assert json.loads(lines[0].removeprefix("refused: "))["path"] == "/a\nb"
    assert all("\n" not in line for line in lines)


def test_files_are_read_when_they_change_and_not_otherwise(
    guard: Guard, tmp_path: Path, token: str
) -> None:
    file = tmp_path / TOKENS
    file.with_suffix(".new").write_text(file.read_text().replace(" somebody", " revoked"))
    file.with_suffix(".new").replace(file)
    assert status(guard, f"Bearer {token}") == 200
    guard.follow()
    assert status(guard, f"Bearer {token}") == 403
    os.utime(file)
    file.write_text("rubbish")
    with pytest.raises(SettingError, match="Line 1"):
        guard.follow()
    guard.follow()
    assert status(guard, f"Bearer {token}") == 403


def test_with_tls_it_never_falls_back_to_plain_http(tmp_path: Path, token: str) -> None:  # noqa: ARG001
    """A cleaner of temporary folders may take the certificate away."""
    with pytest.raises(SettingError, match="TLS_CERT"):
        Guard(tmp_path, RATE, True)


def test_the_supervisor_makes_lost_copies_anew_and_outlives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, folder = tmp_path / "source", tmp_path / "sockets"
    folder.mkdir()
    tokens.add(source, "somebody")
    files = EdgeFiles(Settings(tokens_file=source), source, folder)
    (folder / TOKENS).unlink()
    files.follow()
    assert (folder / TOKENS).exists()
    source.write_text(source.read_text().replace(" somebody", " revoked"))
    with monkeypatch.context() as full:
        full.setattr(os, "open", partial(_refuse, OSError(errno.ENOSPC, "No space left on device")))
        for _ in range(3):
            files.follow()
    assert " revoked" not in (folder / TOKENS).read_text()
    assert [record.levelname for record in caplog.records] == ["ERROR"], "told once"
    files.follow()
    assert " revoked" in (folder / TOKENS).read_text(), "when there is room again"


def test_a_file_that_is_still_being_written_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = tmp_path / "source", tmp_path / "sockets"
    folder.mkdir()
    tokens.add(source, "somebody")
    files = EdgeFiles(Settings(tokens_file=source), source, folder)
    written = source.read_text().replace(" somebody", " revoked")
    source.write_text("")

    def read(path: Path) -> dict[str, str]:
        try:
            return read_tokens(path)
        finally:
            source.write_text(written)

    with monkeypatch.context() as writing:
        writing.setattr(edge, "read_tokens", read)
        files.follow()
    assert " somebody" in (folder / TOKENS).read_text(), "it goes on with what it had"
    files.follow()
    assert " revoked" in (folder / TOKENS).read_text()


def _refuse(error: OSError, *_: object) -> None:
    raise error

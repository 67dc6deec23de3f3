"""The public listener's tokens and rates, second by second."""

from __future__ import annotations

import errno
import json
import logging
import os
import ssl
import tempfile
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from diagonalflip.message import Request
from diagonalflip.server.http import limits
from diagonalflip.server.http.authentication import HEALTH, Authenticator, read_tokens, tls
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.access import AccessFiles
from tests.unit.test_access import certify

PATH = "/predictions/diagonal_flip"
RATE = 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def token(file: Path) -> str:
    return tokens.add(file, "somebody")


@pytest.fixture
def authenticator(file: Path, token: str) -> Authenticator:  # noqa: ARG001 - it is in the file
    authenticator = Authenticator(RATE)
    authenticator.renew(read_tokens(file), None)
    return authenticator


def status(authenticator: Authenticator, told: str, path: str = PATH) -> int:
    """Status of the answer; 200 for a request that may pass."""
    request = Request(None, {"authorization": told} if told else {}, method="POST", path=path)
    assert authenticator.admits(request) is (request.response is None)
    return request.response.status if request.response is not None else 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_a_rate_is_by_token_and_second(
    authenticator: Authenticator, file: Path, token: str, scheme: str
) -> None:
    other = tokens.add(file, "other")
    authenticator.renew(read_tokens(file), None)
    for _ in range(2):
        for path in sorted(HEALTH):  # counts for nobody
            assert status(authenticator, f"Bearer {token}", path) == 200
        found = [status(authenticator, f"{scheme} {token}") for _ in range(RATE + 2)]
        assert found == [200] * RATE + [429] * 2
        assert status(authenticator, f"{scheme} {other}") == 200
        authenticator.tick()


@pytest.mark.parametrize(
    "told", ["", "Bearer", "Bearer ", "Bearer x", "Basic eDp5", "Bearer {token}x", "{token}"]
)
def test_an_unknown_token_is_401(authenticator: Authenticator, token: str, told: str) -> None:
    assert status(authenticator, told.format(token=token)) == 401


def test_rejections_are_logged_without_the_token_and_fill_no_log(
    authenticator: Authenticator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        for _ in range(1000):
            status(authenticator, "Bearer abcdefgh", "/a\nb")
        authenticator.tick()
    most = limits.REJECTIONS_LOGGED
    assert len(caplog.messages) == 2 * (most + 1)
    assert caplog.messages[most] == f"{1000 - most} rejections were not logged"
    told = json.loads(caplog.messages[0].removeprefix("rejected: "))
    expected = {"status": 401, "path": "/a\nb", "method": "POST", "token": ""}
    assert told == expected | {"time": told["time"]}
    assert all("\n" not in line for line in caplog.messages)


def forbidden(_: str) -> int:
    raise PermissionError("vm.memfd_noexec=2")


@pytest.mark.parametrize("memory", ["taken", "missing", "forbidden"])
def test_a_certificate_is_exchanged_with_its_key_and_lies_on_no_disk(
    file: Path, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    if memory == "taken":
        monkeypatch.delattr(tempfile, "NamedTemporaryFile")
    elif memory == "missing":  # not Linux
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os, "memfd_create", forbidden)
    chain, key = file.with_name("cert.pem"), file.with_name("key.pem")
    settings = Settings(tls_cert=chain, tls_key=key)
    with pytest.raises(SettingError, match="TLS_KEY"):  # and never plain HTTP in its place
        AccessFiles(settings, file)
    certify(chain, key)
    files = AccessFiles(settings, file)
    authenticator.renew(files.content["tokens"], files.content["pem"])
    first = authenticator.context
    assert first is not None
    assert first.minimum_version is ssl.TLSVersion.TLSv1_3
    certify(chain, file.with_name("other.pem"))
    assert not files.changed(), "the key is not this certificate's"
    certify(chain, key)
    assert files.changed()
    authenticator.renew(files.content["tokens"], files.content["pem"])
    assert authenticator.context is not first


def test_no_room_for_a_file_is_no_fault_of_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr("diagonalflip.server.http.authentication._file_of", reject)
    with pytest.raises(SettingError, match="none can be written: File too large"):
        tls("pem")

"""The public listener's files are followed, however they are replaced."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from diagonalflip.errors import SettingError
from diagonalflip.server.http.authentication import read_tokens
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.access import AccessFiles


def certify(chain: Path, key: Path, days: int = 30, begins: int = -9) -> None:
    """Write a certificate, which begins and expires so many days from now, and its key."""
    private, name = generate_private_key(SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=days))
        .sign(private, SHA256())
    )
    chain.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of tokens, with one in it."""
    tokens.add(tmp_path / "tokens", "somebody")
    return tmp_path / "tokens"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Chain and key, which are not there yet."""
    return tmp_path / "chain.pem", tmp_path / "key.pem"


def opened(file: Path, pair: tuple[Path, Path] | tuple[None, None] = (None, None)) -> AccessFiles:
    return AccessFiles(Settings(tls_cert=pair[0], tls_key=pair[1]), file)


def names(files: AccessFiles) -> list[str]:
    return list(files.content["tokens"].values())


def by_renaming(file: Path, new: Path) -> None:
    """As an editor, ``sed -i`` and certbot do it."""
    os.utime(new, ns=(0, 0))  # a copy may be older than what it replaces
    new.replace(file)


def by_a_link(file: Path, new: Path) -> None:
    """As the kubelet exchanges a secret: by the link ``..data`` that all files lead through."""
    link = file.parent / "link"
    link.symlink_to(new.parent)
    link.replace(file.parent.parent / "..data")


def in_place(file: Path, new: Path) -> None:
    """As ``cp -p`` and backups write it: with the time and the size of before."""
    status = file.stat()
    file.write_text(new.read_text())
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("replace", [by_renaming, by_a_link, in_place])
def test_a_replaced_file_is_followed(tmp_path: Path, replace: Callable[[Path, Path], None]) -> None:
    for name in ("aaaa", "bbbb"):
        tokens.add(tmp_path / name / "tokens", name)
    (tmp_path / "..data").symlink_to("aaaa")
    files = opened(tmp_path / "..data/tokens")
    assert names(files) == ["aaaa"]
    replace(tmp_path / "..data/tokens", tmp_path / "bbbb/tokens")
    assert files.changed()
    assert names(files) == ["bbbb"]
    assert not files.changed()


def test_a_change_while_reading_is_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> dict[str, str]:
        found = read_tokens(path)
        tokens.add(path, "b")
        return found

    monkeypatch.setattr("diagonalflip.server.supervisor.access.read_tokens", read)
    files = opened(file)
    assert names(files) == ["somebody"]
    for count in (1, 2):
        assert files.changed()
        assert names(files) == ["somebody", *["b"] * count]


def test_a_pipe_is_read_once(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As ``FLIP_TOKENS_FILE=<(command)`` gives it: its content is gone with the first reader."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_bytes, args=(file.read_bytes(),), daemon=True)
    writer.start()
    files = opened(pipe)
    writer.join()
    os.utime(pipe, ns=(0, 0))  # older kernels note when a pipe was written
    assert not files.changed()
    assert (names(files), caplog.messages) == (["somebody"], [])


def test_what_is_useless_is_told_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = opened(file)
    before = files.content
    for spoil in (lambda: os.utime(file), lambda: file.write_text("rubbish"), file.unlink):
        spoil()
        for _ in range(3):
            assert not files.changed()
        assert files.content == before, "it goes on with what it had"
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2


def test_a_useless_certificate_keeps_no_token_valid(file: Path, pair: tuple[Path, Path]) -> None:
    certify(*pair)
    files = opened(file, pair)
    before = files.content["pem"]
    pair[0].unlink()
    file.write_text(file.read_text().replace("somebody", "revoked"))
    assert files.changed()
    assert (names(files), files.content["pem"]) == (["revoked"], before)


def test_a_pipe_in_place_of_a_file_delays_nobody(file: Path, pair: tuple[Path, Path]) -> None:
    """Nobody writes to it. A certificate that is renewed meanwhile is followed."""
    certify(*pair)
    files = opened(file, pair)
    file.unlink()
    os.mkfifo(file)
    assert not files.changed()
    certify(*pair)
    assert files.changed()
    assert names(files) == ["somebody"]
    assert pair[0].read_text() in files.content["pem"]


def test_a_folder_that_may_not_be_entered_any_more_is_told(
    file: Path,
    pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    certify(*pair)
    files = opened(file, pair)
    for name in ("stat", "open"):
        monkeypatch.setattr(Path, name, denied)
    assert not files.changed()
    told = [f"may not read {path}" in caplog.text for path in (file, pair[0])]
    assert (names(files), told) == (["somebody"], [True, True])


@pytest.mark.parametrize("name", ["tokens", "key.pem"])
def test_a_file_that_may_not_be_read_says_who_needs_it_and_how(
    file: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    certify(*pair)
    allowed = Path.open

    def open_(path: Path, *given: str, **named: str) -> object:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(path, *given, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(SettingError) as caught:
        opened(file, pair)
    assert f"User {os.geteuid()}" in str(caught.value)
    assert f"chmod 0640 {file.with_name(name)}" in str(caught.value)


@pytest.mark.parametrize(
    ("days", "told"),
    [(-1, "ERROR.*has expired at"), (13, "WARNING.*in 12 days"), (90, "INFO.*in 89")],
)
def test_it_tells_when_the_certificate_is_valid_at_the_start_and_when_it_is_renewed(
    file: Path, pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture, days: int, told: str
) -> None:
    """The chain expires with the first of its certificates. Comments may be in any encoding."""
    caplog.set_level("INFO")

    def lines() -> list[str]:
        return [line for line in caplog.text.splitlines() if "expire" in line]

    chain, key = pair
    certify(chain, key, days)
    first = chain.read_bytes()
    certify(chain, key, 400)
    chain.write_bytes("\ufeff# für Zürich\n".encode() + chain.read_bytes() + first)
    key.write_bytes(b"# f\xfcr Z\xfcrich\n" + key.read_bytes())
    files = opened(file, pair)
    [line] = lines()
    assert re.match(told, line)
    assert files.expires_at == pytest.approx(time.time() + days * 86_400, abs=60)
    tokens.add(file, "other")
    assert files.changed()
    assert len(lines()) == 1, "the certificate is the same"
    certify(chain, key, 365)
    assert files.changed()
    assert lines()[1].endswith("in 364 days")
    assert "not yet" not in caplog.text
    certify(chain, key, begins=2)
    assert files.changed()
    assert "not yet" in caplog.text

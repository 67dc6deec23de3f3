"""Over TLS: the right certificate, the wrong one, and a server that says nothing after it."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import certifi
import numpy as np
import pytest

from benchmarks.running import certify
from diagonalflip import Client
from diagonalflip.client._endpoint import TRUST
from diagonalflip.errors import ClientError, DeadlineExceeded
from tests.conftest import ROOT
from tests.faults.conftest import Call, within
from tests.faults.fake_server import TABLE, FakeServer, listening

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certify(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def verify(pair: tuple[Path, Path]) -> str:
    return str(pair[0])


@pytest.fixture(scope="module")
def context(pair: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pair)
    return context


@pytest.fixture
def url(context: ssl.SSLContext) -> Iterator[str]:
    with listening(FakeServer().serve, context) as url:
        yield url


def test_a_known_certificate(url: str, call: Call, verify: str) -> None:
    numbers = np.arange(5000) % 16
    got = call(url, "predict", numbers, verify=verify, images_per_request=100)
    assert np.array_equal(got, TABLE[numbers])


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_both_clients_trust_what_the_environment_names(
    url: str, call: Call, verify: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for each in TRUST:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, verify)
    assert np.array_equal(call(url, "predict", [11]), TABLE[[11]])
    with pytest.raises(ClientError, match="verify"):
        call(url, "predict", [11], verify=certifi.where())
    monkeypatch.setenv(name, "nothing.pem")
    with pytest.raises(ClientError, match=f"{name}=.*nothing.pem"):
        call(url, "predict", [11])


def test_certificates_are_read_once(
    url: str, verify: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(verify, "gone.pem")
    with Client(url, verify="gone.pem") as client:
        Path("gone.pem").unlink()
        assert np.array_equal(client.predict([11]), TABLE[[11]])


def test_the_certificate_of_a_proxy_is_checked(
    url: str, call: Call, verify: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("all_proxy", url.replace("https", "HTTPS"))
    assert np.array_equal(call("http://flip.invalid", "predict", [1], verify=verify), TABLE[[1]])
    with pytest.raises(ClientError, match="CERTIFICATE_VERIFY_FAILED"):
        call("http://flip.invalid", "predict", [1])


def test_an_unknown_certificate_ends_at_once(url: str, call: Call, verify: str) -> None:
    """A common name is no name of a server."""
    for named, settings in ((url, {}), (url.replace("127.0.0.1", "localhost"), {"verify": verify})):
        with pytest.raises(ClientError, match="verify") as caught:
            call(named, "predict", [1], **settings)
        assert type(caught.value) is ClientError


def test_the_deadline_holds(context: ssl.SSLContext, call: Call, verify: str) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass

    with listening(silent, context) as url, within(3), pytest.raises(DeadlineExceeded):
        call(url, "predict", [1], verify=verify, deadline_s=0.5)


def test_a_key_with_a_password_is_an_error_and_no_question(pair: tuple[Path, Path]) -> None:
    """A terminal would be asked for it, and whoever runs a job in one would wait."""
    lock = "openssl pkey -in key.pem -aes256 -passout pass:a -out locked.pem"
    subprocess.run(lock.split(), cwd=pair[0].parent, check=True, capture_output=True)
    made = "from diagonalflip import Client; "
    made += "Client('https://a', cert=('certificate.pem', 'locked.pem'))"
    child, terminal = pty.fork()
    if not child:
        os.chdir(pair[0].parent)
        variables = {"PYTHONPATH": str(ROOT), "PYTHON_COLORS": "0"}
        os.execve(sys.executable, [sys.executable, "-c", made], variables)  # noqa: S606 - no shell is needed
    said = b""
    with suppress(OSError):  # of a terminal that nobody has open any more
        while b"pass phrase" not in said and (piece := os.read(terminal, 1 << 16)):
            said += piece
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(terminal)
    assert b"ClientError: " in said, said

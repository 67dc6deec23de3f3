"""TLS of a worker: whatever the network cuts, each side may end alone, nothing is kept."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import shutil
import socket
import ssl
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from diagonalflip.server.http import limits
from diagonalflip.server.http.tls import Tls
from diagonalflip.server.supervisor.ports import listen
from diagonalflip.server.worker.metrics import PUBLIC
from tests.contract.test_http import PATH, Port, read, wait_for_ticks

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")

CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem "
    "-out cert.pem -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
)


class TlsPort(Port):
    """A worker's HTTP with a public listener, and a client's context."""

    def __init__(self, folder: Path) -> None:
        subprocess.run(CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)
        public = listen(("127.0.0.1", 0))
        self.address = public.getsockname()
        super().__init__(public)
        assert self.server.authenticator is not None
        pem = (folder / "cert.pem").read_text() + (folder / "key.pem").read_text()
        self.server.authenticator.renew({hashlib.sha256(b"t").hexdigest(): "somebody"}, pem)
        self._context = ssl.create_default_context(cafile=str(folder / "cert.pem"))

    def connect_plain(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def client(self) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
        """TLS without a network: itself, what it gets, and what it sends."""
        gets, sends = ssl.MemoryBIO(), ssl.MemoryBIO()
        return self._context.wrap_bio(gets, sends, server_hostname="127.0.0.1"), gets, sends

    def connect(self) -> ssl.SSLSocket:
        return self._context.wrap_socket(self.connect_plain(), server_hostname="127.0.0.1")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[TlsPort]:
    there = TlsPort(tmp_path)
    yield there
    there.close()


def post(body: bytes, more: str = "") -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer t\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def shake_hands(
    tls: ssl.SSLObject, gets: ssl.MemoryBIO, sends: ssl.MemoryBIO, network: socket.socket
) -> None:
    """Agree on TLS, but for the last that the client has to send."""
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            network.sendall(sends.read())
            gets.write(network.recv(1 << 16))
        else:
            return


@pytest.mark.parametrize("size", [1, 16_000, 16_384, 70_000, 1 << 20])
def test_bodies_of_any_size_come_back(port: TlsPort, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with port.connect() as client:
        for _ in range(2):
            client.sendall(post(body))
            assert read(client)[1] == body


def test_every_byte_may_come_alone(port: TlsPort) -> None:
    tls, gets, sends = port.client()
    with port.connect_plain() as network:

        def deliver() -> None:
            for byte in sends.read():
                network.sendall(bytes([byte]))

        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                deliver()
                gets.write(network.recv(1 << 16))
        tls.write(post(b"a") + post(b"b"))
        deliver()
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 2 or not answers.endswith(b"b"):
            gets.write(network.recv(1 << 16))
            with contextlib.suppress(ssl.SSLWantReadError):
                while True:
                    answers += tls.read(1 << 16)


@pytest.mark.parametrize("behind", [b"", b"x"])
def test_a_client_that_has_ended_its_side_is_answered(port: TlsPort, behind: bytes) -> None:
    port.echo.go_on.clear()
    tls, gets, sends = port.client()
    with port.connect_plain() as network:
        shake_hands(tls, gets, sends, network)
        tls.write(post(b"a"))
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        network.sendall(sends.read() + behind)
        port.echo.go_on.set()
        received = b""
        while piece := network.recv(1 << 16):
            received += piece
        gets.write(received)
    assert tls.read(1 << 16).startswith(b"HTTP/1.1 200")
    with pytest.raises(ssl.SSLZeroReturnError):  # the other side has said so as well
        tls.read(1)
    assert port.echo.batches == [1]


def test_a_request_to_close_ends_with_an_end_of_tls(port: TlsPort) -> None:
    with port.connect() as client:
        client.sendall(post(b"a", "Connection: close\r\n"))
        assert read(client)[1] == b"a"
        assert client.recv(1) == b"", "no error: it is no cut"


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" * 9]
)
def test_what_is_no_tls_is_closed_and_forgotten(port: TlsPort, said: bytes) -> None:
    with port.connect_plain() as client:
        client.sendall(said)
        while client.recv(1 << 10):
            pass  # an alert, maybe
    wait_for_ticks(port, 2)
    assert not port.server._handshakes
    assert not port.server._of_address
    assert port.metrics.failed_handshakes == 1


def test_a_handshake_has_a_limit_of_time(port: TlsPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.1)
    with port.connect_plain() as silent, contextlib.suppress(ConnectionResetError):
        assert silent.recv(1) == b""
    assert not port.server._handshakes
    assert port.metrics.failed_handshakes == 1


def test_what_a_client_does_not_read_is_counted(port: TlsPort) -> None:
    body = bytes(1 << 24)
    with port.connect() as stalled:
        stalled.sendall(post(body))
        while port.server.lifecycle.buffered.by_listener[PUBLIC].bytes < 1 << 20:
            wait_for_ticks(port, 1)  # until it is answered; the test's time limit ends this
        assert read(stalled)[1] == body
    wait_for_ticks(port, 2)
    assert port.server.lifecycle.buffered.total == 0


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_an_ended_connection_is_freed_without_the_cycle_collector(
    port: TlsPort, said: bytes
) -> None:
    freed = Event()
    made = Tls.connection_made

    def seen(self: Tls, transport: Any) -> None:
        weakref.finalize(self, freed.set)
        made(self, transport)

    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tls, "connection_made", seen)
            if said:  # no TLS
                with port.connect_plain() as network:
                    network.sendall(said)
                    while network.recv(1 << 10):
                        pass
            else:
                with port.connect() as client:
                    client.sendall(post(b"a"))
                    assert read(client)[1] == b"a"
        assert freed.wait(10)
    finally:
        gc.enable()


def test_a_rejected_client_that_ends_at_once_is_no_error(
    port: TlsPort, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(port.server, "most_connections", 1)
    tls, gets, sends = port.client()
    with port.connect() as first, port.connect_plain() as network:
        first.sendall(post(b"a"))
        read(first)
        shake_hands(tls, gets, sends, network)
        tls.write(post(b"a"))
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        network.sendall(sends.read())  # with the end of the handshake
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := network.recv(1 << 16):
                received += piece
    gets.write(received)
    assert tls.read(1 << 16).startswith(b"HTTP/1.1 503")
    assert not caplog.records

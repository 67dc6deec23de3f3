"""TLS of a worker: whatever the network cuts, each side may end alone, nothing is kept."""

from __future__ import annotations

import contextlib
import gc
import itertools
import shutil
import socket
import ssl
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from benchmarks.running import certify
from diagonalflip.server.http import limits
from diagonalflip.server.http.tls import Tls
from diagonalflip.server.supervisor.ports import listen
from tests.contract.conftest import BEARER, Port, post, read

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")

PLAIN = b"GET / HTTP/1.1\r\n\r\n"


class TlsPort(Port):
    """A port with TLS at its public listener, whose clients come there."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(listen(("127.0.0.1", 0)))
        self.admit_token(certificate.read_text() + key.read_text())
        self.context = ssl.create_default_context(cafile=str(certificate))

    def connect(self) -> ssl.SSLSocket:
        return self.context.wrap_socket(self.connect_public(), server_hostname="127.0.0.1")


class ByHand:
    """A client whose TLS goes through the network in pieces that the test chooses."""

    def __init__(self, port: TlsPort, network: socket.socket) -> None:
        self.network, self._gets, self.sends = network, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = port.context.wrap_bio(self._gets, self.sends, server_hostname="127.0.0.1")

    def deliver(self, size: int = 1 << 16) -> None:
        """Send what is to be sent in pieces of that size."""
        sent = self.sends.read()
        for start in range(0, len(sent), size):
            self.network.sendall(sent[start : start + size])

    def shake_hands(self, size: int = 1 << 16) -> None:
        """Agree on TLS, but for the last that the client has to send."""
        while True:
            try:
                return self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.deliver(size)
                received = self.network.recv(1 << 16)
                assert received, "closed in the handshake"
                self._gets.write(received)

    def end(self) -> None:
        """Write that nothing more comes, to be delivered."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()

    def receive(self) -> tuple[bytes, bool]:
        """Return all that the server sends, and whether it said then that nothing more comes."""
        with contextlib.suppress(ConnectionResetError):
            while piece := self.network.recv(1 << 16):
                self._gets.write(piece)
        received = b""
        try:
            while piece := self.tls.read(1 << 16):
                received += piece
        except ssl.SSLWantReadError:
            return received, False
        except ssl.SSLZeroReturnError:  # so it is if the client has said so as well
            pass
        return received, True


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certify(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def port(pair: tuple[Path, Path]) -> Iterator[TlsPort]:
    with contextlib.closing(TlsPort(*pair)) as there:
        yield there
        there.wait_for(lambda: not (there.server.connections or there.server._opening))
        assert (there.server._accepted, dict(there.server._of_address)) == (0, {})
        assert there.buffered == 0


@pytest.fixture
def network(port: TlsPort) -> Iterator[socket.socket]:
    with port.connect_public() as connection:
        yield connection


def end_of(network: socket.socket) -> None:
    """Wait until the server has ended a connection."""
    with contextlib.suppress(ConnectionResetError):
        while network.recv(1 << 10):
            pass  # an alert, maybe


@pytest.mark.parametrize("size", [1, 16_000, 16_384, 70_000, 1 << 20])
def test_bodies_of_any_size_come_back(port: TlsPort, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with port.connect() as client:
        for _ in range(2):
            client.sendall(post(body, BEARER))
            assert read(client).body == body


def test_every_byte_may_come_alone(port: TlsPort, network: socket.socket) -> None:
    client = ByHand(port, network)
    client.shake_hands(1)
    client.tls.write(post(b"a", BEARER) + post(b"b", BEARER + "Connection: close\r\n"))
    client.deliver(1)
    answers, _ = client.receive()
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.endswith(b"b")


@pytest.mark.parametrize("behind", [b"", b"x"])
def test_who_has_ended_is_answered(port: TlsPort, network: socket.socket, behind: bytes) -> None:
    port.echo.go_on.clear()
    client = ByHand(port, network)
    client.shake_hands()
    client.tls.write(post(b"a", BEARER))
    client.end()
    network.sendall(client.sends.read() + behind)
    port.echo.go_on.set()
    answer, has_ended = client.receive()
    assert (answer[:12], has_ended) == (b"HTTP/1.1 200", True)
    assert port.echo.batches == [1]


def test_what_follows_the_end_of_a_client_is_not_kept(
    port: TlsPort, network: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IGNORED_BYTES", 100_000)
    monkeypatch.setattr(port.server.lifecycle, "_schedule", lambda: None)  # nobody is answered
    client = ByHand(port, network)
    client.shake_hands()
    client.tls.write(post(b"a", BEARER))
    client.end()
    client.deliver()
    endless = map(network.sendall, itertools.repeat(bytes(1 << 16), 1000))
    with pytest.raises(OSError, match=r"reset|[Bb]roken"):
        deque(endless, maxlen=0)


def test_a_request_to_close_ends_with_an_end_of_tls(port: TlsPort) -> None:
    with port.connect() as client:
        client.sendall(post(b"a", BEARER + "Connection: close\r\n"))
        assert read(client).body == b"a"
        assert client.recv(1) == b"", "no error: it is no cut"


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("said", [PLAIN, bytes(600), b"\x16\x03\x01\xff\xff" * 9])
def test_what_is_no_tls_is_closed_and_forgotten(
    port: TlsPort, caplog: pytest.LogCaptureFixture, said: bytes, *, ends: bool
) -> None:
    with port.connect_public() as client:
        client.sendall(said)
        if ends:
            client.shutdown(socket.SHUT_WR)
        end_of(client)
    port.wait_for(lambda: port.metrics.failed_handshakes == 1)
    assert not caplog.records


@pytest.mark.parametrize(("others", "status"), [(0, 400), (1, 503)])
def test_plain_http_is_told_to_ask_by_https(port: TlsPort, others: int, status: int) -> None:
    port.server.most_connections = 1
    with contextlib.ExitStack() as opened:
        for _ in range(others):
            other = opened.enter_context(Port.connect(port))
            other.sendall(post(b"a"))
            read(other)
        client = opened.enter_context(port.connect_public())
        client.sendall(post(b"b", BEARER))
        answer = read(client)
        assert (answer.status, b"https://" in answer.body) == (status, not others)
        assert client.recv(1) == b""
    assert len(port.echo.requests) == others


def test_a_handshake_has_a_limit_of_time(port: TlsPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.1)
    for said, failed in ((b"", 0), (b"\x16", 1)):
        with port.connect_public() as client:
            client.sendall(said)
            end_of(client)
        port.wait_for(lambda: not port.server._opening)
        assert port.metrics.failed_handshakes == failed, "a balancer's probe is none"


def test_handshakes_leave_descriptors_to_the_worker_itself(
    port: TlsPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any, it could not load the next certificate, and ended."""
    monkeypatch.setattr(limits, "HANDSHAKE_S", 1000.0)
    monkeypatch.setattr(limits, "EXCESS_CONNECTIONS", 0)
    monkeypatch.setattr(port.server, "most_connections", 2)
    with port.connect_public(), Port.connect(port) as second, Port.connect(port) as third:
        assert third.recv(1) == b""
        second.sendall(post(b"a"))
        assert read(second).body == b"a"


def test_a_worker_that_drains_waits_for_nobody_who_says_nothing_of_tls(
    port: TlsPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 1000.0)
    monkeypatch.setattr(limits, "DRAIN_IDLE_S", 0.1)
    with port.connect_public():
        port.wait_for(lambda: port.server._opening)
        port.drain().result(10)


def test_what_a_client_does_not_read_is_counted(port: TlsPort) -> None:
    body = bytes(1 << 24)
    with port.connect() as stalled:
        stalled.sendall(post(body, BEARER))
        lifecycle = port.server.lifecycle
        _, public = lifecycle.shares
        port.wait_for(lambda: not lifecycle.queued_images and public.used > 1 << 20)
        assert read(stalled).body == body


@pytest.mark.parametrize("is_tls", [True, False])
def test_an_ended_connection_is_freed_without_the_cycle_collector(
    port: TlsPort, monkeypatch: pytest.MonkeyPatch, *, is_tls: bool
) -> None:
    freed = Event()
    made = Tls.connection_made

    def seen(self: Tls, transport: Any) -> None:
        weakref.finalize(self, freed.set)
        made(self, transport)

    monkeypatch.setattr(Tls, "connection_made", seen)
    gc.disable()
    try:
        if is_tls:
            with port.connect() as client:
                client.sendall(post(b"a", BEARER))
                assert read(client).body == b"a"
        else:
            with port.connect_public() as plain:
                plain.sendall(PLAIN)
                end_of(plain)
        assert freed.wait(10)
    finally:
        gc.enable()


def test_a_rejected_client_that_ends_at_once_is_no_error(
    port: TlsPort, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with port.connect() as first, port.connect_public() as network:
        first.sendall(post(b"a", BEARER))
        read(first)
        client = ByHand(port, network)
        client.shake_hands()  # it has been accepted
        monkeypatch.setattr(port.server, "most_connections", 1)
        client.tls.write(post(b"a", BEARER))
        client.end()
        client.deliver()  # with the end of the handshake
        assert client.receive()[0].startswith(b"HTTP/1.1 503")
    assert not caplog.records

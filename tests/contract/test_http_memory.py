"""What a worker grants to its clients: bytes, work, connections, descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
from collections.abc import Iterator
from threading import Event

import pytest

from diagonalflip.message import Request
from diagonalflip.server.http import limits
from tests.contract.conftest import BEARER, PING, POST, Answer, Port, post, read


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def is_overloaded(answer: Answer) -> bool:
    """Return whether a request was rejected in a way that it may be sent again."""
    told = answer.status, answer.headers["retry-after"]
    return told == (503, "1") and answer.code == "server_overloaded"


def until_rejected(port: Port, length: int) -> Answer:
    """Return the first answer that is no 200: others' bytes may still be on their way."""
    while (answer := port.ask(post(b"b" * length))).status == 200:
        pass
    return answer


def test_what_cannot_be_queued_is_not_read(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUED_IMAGES", 100)
    assert is_overloaded(port.ask(post(b"x" * 51)))
    assert not port.echo.requests
    assert port.ask(post(b"x" * 50)).status == 200


def test_a_chunked_body_has_the_same_limit(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diagonalflip.server.http.parser.MAX_BODY_BYTES", 1000)
    chunks = (b"200\r\n" + b"a" * 512 + b"\r\n") * 4
    assert port.ask(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks).status == 413


def test_full_memory_is_a_503_that_may_be_sent_again(
    port: Port, opened: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUFFERED_BYTES", 1000)
    holders = [opened.enter_context(port.connect()) for _ in range(4)]
    for holder in holders:
        holder.sendall(post(b"a" * 230)[:-1])
    assert is_overloaded(until_rejected(port, 200))
    for holder in holders:
        holder.sendall(b"a")
        assert read(holder).body == b"a" * 230
    assert port.ask(post(b"b" * 250)).body == b"b" * 250


def test_what_is_unwrapped_has_the_same_room(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwrap(request: Request) -> int:
        request.body = bytes(request.body) * 100
        return 2

    monkeypatch.setattr(limits, "BUFFERED_BYTES", 2000)
    monkeypatch.setattr(port.echo, "cost", unwrap)
    assert port.ask(post(b"a" * 9)).body == b"a" * 900
    monkeypatch.setattr(port.server.lifecycle, "_schedule", lambda: None)
    assert is_overloaded(port.ask(post(b"a" * 11))), "it does not even wait"


def test_while_memory_is_short_nobody_has_more_than_a_quarter(
    port: Port, opened: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUFFERED_BYTES", 1000)
    assert port.ask(post(b"b" * 400)).status == 200
    for _ in range(3):
        opened.enter_context(port.connect()).sendall(post(b"a" * 200)[:-1])
    until_rejected(port, 300)
    assert port.ask(post(b"b" * 200)).status == 200


def test_a_flood_at_one_listener_leaves_the_other_its_room(
    guarded: Port, opened: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUFFERED_BYTES", 2000)
    for _ in range(3):
        client = opened.enter_context(guarded.connect_public())
        client.sendall(post(b"a" * 240, BEARER)[:-1])
        guarded.settle()
    # Each has less than a quarter, but their token has more, and more than half is in use.
    assert is_overloaded(read(client))
    opened.enter_context(guarded.connect()).sendall(post(b"a" * 450)[:-1])
    assert guarded.ask(post(b"b" * 240)).body == b"b" * 240


def test_answers_that_nobody_reads_are_held_in_bounded_memory(
    port: Port, opened: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUFFERED_BYTES", 80 << 20)
    sent = bytes(20 << 20)
    for _ in range(4):
        stalled = opened.enter_context(port.connect_stalled())
        stalled.sendall(post(sent))
        assert stalled.recv(1, socket.MSG_PEEK) == b"H"
    assert is_overloaded(port.ask(post(sent)))
    assert read(stalled).body == sent
    stalled.sendall(post(sent))
    assert read(stalled).body == sent
    assert port.ask(post(sent)).body == sent


def test_short_memory_drops_who_reads_nothing(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits.STALLED_S == 10
    monkeypatch.setattr(limits, "STALLED_S", 0.0)
    with port.connect_stalled() as stalled:
        stalled.sendall(post(bytes(32 << 20)))
        assert stalled.recv(1, socket.MSG_PEEK) == b"H"
        port.tick(3)
        assert port.server.connections, "there is room for all"
        monkeypatch.setattr(limits, "BUFFERED_BYTES", 32 << 20)
        port.wait_for(lambda: not port.server.connections, ticking=True)


def test_too_many_connections_are_a_503(port: Port) -> None:
    port.server.most_connections = 1
    with port.connect() as only:
        only.sendall(post(b"a"))
        assert read(only).body == b"a"
        with port.connect() as further:
            assert read(further).status == 503
        only.sendall(post(b"b"))
        assert read(only).body == b"b"


def test_an_address_takes_half_of_the_public_listener_and_no_other(
    guarded: Port, opened: contextlib.ExitStack
) -> None:
    """Only this host's own may have more: the supervisor asks for health through this port."""
    guarded.server.most_connections = 4

    def connect(source: str = "127.0.0.2") -> socket.socket:
        there = socket.create_connection(guarded.public, 30, (source, 0))
        return opened.enter_context(there)

    def is_served(client: socket.socket) -> bool:
        client.sendall(PING)
        with contextlib.suppress(ConnectionError):
            return client.recv(1000).startswith(b"HTTP/1.1 200 ")
        return False

    clients = [connect() for _ in range(3)]
    assert [is_served(client) for client in clients] == [True, True, False]
    assert is_served(connect("127.0.0.1"))
    assert guarded.ask(PING).status == 200, "the HTTP listener is for others"
    clients[0].close()
    # Its end is on its way.
    guarded.wait_for(lambda: is_served(connect()))
    here = guarded.server.most_connections = 8
    assert all(is_served(connect("127.0.0.1")) for _ in range(here // 2 + 1))


def test_a_client_that_is_gone_leaves_no_body(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request may wait for long, in a queue that has no room for a hundred of its kind."""
    monkeypatch.setattr(port.server.lifecycle, "_schedule", lambda: None)
    waiting = port.server.lifecycle._light
    with port.connect() as client:
        client.sendall(post(b"a"))
        port.wait_for(lambda: waiting)
        assert waiting[0].body == b"a"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    port.wait_for(lambda: not port.server.connections)
    assert waiting[0].body == b""
    port.do(port.server.lifecycle._run_batch)


def test_without_descriptors_clients_wait(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Event()
    monkeypatch.setattr("diagonalflip.server.http.listener.logger.exception", lambda _: told.set())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.settimeout(30)
        free = os.dup(client.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            client.connect(port.address)
            client.sendall(post(b"a"))
            assert told.wait(30)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert read(client).body == b"a"

"""A connection to a worker: its order, the time that a client has, and how it ends."""

from __future__ import annotations

import contextlib
import gc
import itertools
import select
import socket
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import pytest

from diagonalflip.message import Request
from diagonalflip.server.http import limits
from tests.contract.conftest import CONTINUE, PING, POST, Port, post, read

NOWHERE = "POST /nowhere HTTP/1.1\r\nHost: a\r\n"
RESET = b"\1\0\0\0\0\0\0\0"
"""For SO_LINGER: closing resets the connection."""


@pytest.fixture
def client(port: Port) -> Iterator[socket.socket]:
    with port.connect() as connection:
        yield connection


@pytest.mark.parametrize("before", [b"", post(b"a")])
def test_a_body_is_asked_for_in_its_turn(port: Port, client: socket.socket, before: bytes) -> None:
    port.echo.go_on.clear()
    head = f"{POST}Expect: 100-continue\r\nContent-Length: 1\r\n\r\n".encode()
    client.sendall(before + head)
    port.echo.go_on.set()
    if before:
        assert read(client).body == b"a"
    assert client.recv(25, socket.MSG_WAITALL) == CONTINUE
    client.sendall(b"b")
    assert read(client).body == b"b"


def test_a_pipeline_is_bounded_and_answered_in_order(port: Port, client: socket.socket) -> None:
    port.hold(client, b"first")
    client.sendall(b"".join(post(b"%d" % number) for number in range(800)))
    port.echo.go_on.set()
    assert read(client).body == b"first"
    answered = 0
    while (found := read(client)).status == 200:
        assert found.body == b"%d" % answered
        answered += 1
    assert (found.status, found.headers["connection"]) == (503, "close")
    assert answered > limits.PIPELINED_REQUESTS
    assert client.recv(1) == b""


def test_a_pipeline_that_is_too_long_by_one_has_no_answer_too_many(
    port: Port, client: socket.socket
) -> None:
    port.hold(client, b"first")
    sent = 1 + limits.PIPELINED_REQUESTS + 1  # the first of them is being answered
    client.sendall(post(b"a") * sent)
    port.echo.go_on.set()
    assert read(client).body == b"first"
    found = [read(client).status for _ in range(sent)]
    assert (set(found[:-1]), found[-1]) == ({200}, 503)
    assert client.recv(1) == b""


@pytest.mark.parametrize(
    "told",
    [
        f"Content-Length: {1 << 25}",
        "Transfer-Encoding: chunked",
        "Content-Length: 9\r\nExpect: 100-continue",
        "Content-Length: 9\r\nConnection: close",
    ],
)
def test_who_is_rejected_by_the_head_is_told_at_once(client: socket.socket, told: str) -> None:
    client.sendall(f"{NOWHERE}{told}\r\n\r\n".encode())
    answer = read(client)
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    assert client.recv(1) == b""  # while the client may still send
    client.sendall(bytes(1 << 20))


@pytest.mark.parametrize("length", [1, 1 << 25])
def test_a_stranger_is_let_go(guarded: Port, caplog: pytest.LogCaptureFixture, length: int) -> None:
    with guarded.connect_public() as client:
        body = bytes(min(length, 999)) + post(b"what is not read")
        client.sendall(f"{POST}Content-Length: {length}\r\n\r\n".encode() + body)
        answer = read(client)
        assert (answer.status, answer.code) == (401, "not_authorized")
        told = answer.headers["www-authenticate"], answer.headers["connection"]
        assert told == ("Bearer", "close")
        assert client.recv(1) == b""
        assert guarded.buffered == 0
    assert guarded.metrics.rejected["not_authorized"] == 1
    assert not caplog.records[1:], "but for the line that tells of the rejection"


def test_a_short_body_of_who_was_rejected_is_read_and_it_goes_on(client: socket.socket) -> None:
    head, body = f"{NOWHERE}Content-Length: 9\r\n\r\n".encode(), b"unwanted!"
    for sent_at_once in (0, 3, 9):
        client.sendall(head + body[:sent_at_once])
        assert read(client).status == 404
        client.sendall(body[sent_at_once:] + post(b"wanted"))
        assert read(client).body == b"wanted"
    client.sendall(post(b"a") + head + body + head)
    assert [read(client).status for _ in range(3)] == [200, 404, 404]
    client.sendall(body + post(b"b"))
    assert read(client).body == b"b"


def test_a_rejection_without_its_body_is_the_last_answer(port: Port, client: socket.socket) -> None:
    client.sendall(f"{NOWHERE}Content-Length: 9\r\n\r\n".encode())
    assert read(client).status == 404
    [waiting] = port.server.connections
    port.do(waiting.expire)
    assert client.recv(1) == b""


@pytest.mark.parametrize("gets_on", [True, False])
def test_a_rejected_client_may_go_on_sending_before_it_reads(
    port: Port, client: socket.socket, monkeypatch: pytest.MonkeyPatch, *, gets_on: bool
) -> None:
    monkeypatch.setattr(limits, "LINGER_S", 0.0)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(f"{NOWHERE}Content-Length: 33000000\r\n\r\n".encode())
    for _ in range(3):
        client.sendall(b"a" * gets_on)
        port.settle()
        port.tick()
    if gets_on:
        client.sendall(b"a")
        assert read(client).status == 404
    else:
        port.wait_for(lambda: not port.server.connections)


def test_a_rejected_client_does_not_send_for_ever(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IGNORED_BYTES", 100_000)
    client.sendall(f"{NOWHERE}Transfer-Encoding: chunked\r\n\r\n".encode())
    assert read(client).status == 404
    endless = map(client.sendall, itertools.repeat(bytes(1 << 16)))
    with pytest.raises(OSError, match=r"reset|[Bb]roken"):
        deque(endless, maxlen=0)


@pytest.mark.parametrize(
    ("sent", "status"), [(POST.encode(), 408), (post(b"abc")[:-1], 408), (b"", None)]
)
def test_a_client_has_only_so_much_time(
    port: Port, monkeypatch: pytest.MonkeyPatch, sent: bytes, status: int | None
) -> None:
    monkeypatch.setattr(limits, "REQUEST_S", 0.0)
    monkeypatch.setattr(limits, "IDLE_S", 0.0)
    with port.connect() as slow:
        slow.sendall(sent)
        port.settle()
        port.wait_for(lambda: select.select([slow], [], [], 0)[0], ticking=True)
        if status is not None:
            answer = read(slow)
            assert (answer.status, answer.code) == (status, "request_timeout")
        assert slow.recv(1) == b""


def test_a_body_may_take_long_if_it_comes_steadily(
    port: Port, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 60 s for all of it, the largest needed 4.5 Mbit/s."""
    monkeypatch.setattr(limits, "REQUEST_S", 0.0)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    *pieces, last = post(b"abc")[:-2], b"b", b"c"
    for _ in range(2):
        for piece in pieces:
            client.sendall(piece)
            port.settle()
            port.tick()
        client.sendall(last)
        assert read(client).body == b"abc"


def test_who_waits_behind_its_own_request_is_not_idle(
    port: Port, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDLE_S", 0.0)
    answer, lifecycle = port.echo.answer, port.server.lifecycle
    schedule = lifecycle._schedule

    def then_wedged(requests: Sequence[Request]) -> None:
        monkeypatch.setattr(lifecycle, "_schedule", lambda: None)
        answer(requests)

    monkeypatch.setattr(port.echo, "answer", then_wedged)
    client.sendall(post(b"a") + post(b"b"))
    assert read(client).body == b"a"
    port.tick(3)
    monkeypatch.undo()
    port.do(schedule)
    assert read(client).body == b"b"


@pytest.fixture
def stalled(port: Port) -> Iterator[socket.socket]:
    with port.connect_stalled() as connection:
        yield connection


LARGE = bytes(32 << 20)


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_client_that_does_not_read_is_dropped(
    port: Port, stalled: socket.socket, monkeypatch: pytest.MonkeyPatch, *, has_ended: bool
) -> None:
    """Also one that sends no more: its connection would close once it has read."""
    monkeypatch.setattr(limits, "READ_S", 0.0)
    monkeypatch.setattr(limits, "BYTES_PER_S", 1 << 40)
    if has_ended:
        monkeypatch.setattr(limits, "UNSENT_BYTES", 1 << 30)  # it is never found to be slow
    port.hold(stalled, LARGE)
    if has_ended:
        stalled.shutdown(socket.SHUT_WR)
    port.echo.go_on.set()
    assert stalled.recv(1, socket.MSG_PEEK) == b"H"
    port.wait_for(when_freed(port).is_set, ticking=True)


@pytest.mark.parametrize(
    ("extra", "drains"), [("", False), ("Connection: close\r\n", False), ("", True)]
)
def test_a_client_may_read_slowly_and_is_let_go_when_it_has_read(
    port: Port, stalled: socket.socket, monkeypatch: pytest.MonkeyPatch, extra: str, drains: bool
) -> None:
    """If the worker drains, the answer has not said that the connection ends."""
    for name in ("LINGER_S", "IDLE_S", "DRAIN_IDLE_S"):
        monkeypatch.setattr(limits, name, 0.0)
    stalled.sendall(post(LARGE, extra))
    assert stalled.recv(1, socket.MSG_PEEK) == b"H"
    drained = port.drain() if drains else None
    port.tick(3)
    assert read(stalled).body == LARGE
    port.wait_for(lambda: not port.server.connections, ticking=True)
    assert stalled.recv(1) == b""
    if drained is not None:
        drained.result(30)


def test_a_client_that_closes_its_half_still_gets_its_answers(client: socket.socket) -> None:
    client.sendall(post(b"a") + post(b"b"))
    client.shutdown(socket.SHUT_WR)
    assert [read(client).body, read(client).body] == [b"a", b"b"]
    assert client.recv(1) == b""


def test_who_ends_while_it_does_not_read_is_answered(port: Port, client: socket.socket) -> None:
    """By TLS the end may come in one piece with requests that are not answered yet."""
    client.sendall(post(b"a"))
    assert read(client).body == b"a"
    [there] = port.server.connections

    def end() -> bool:
        there.pause_writing()
        there.data_received(PING * 3)
        is_kept = there.eof_received()
        there.resume_writing()
        return is_kept

    assert port.do(end)
    assert [read(client).status for _ in range(3)] == [200] * 3
    assert client.recv(1) == b""


def test_who_reads_slowly_has_its_time_whatever_it_has_sent(
    port: Port, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it was found to be slow amid requests that came in one piece."""
    client.sendall(PING)
    assert read(client).status == 200
    [there] = port.server.connections
    monkeypatch.setattr(limits, "IDLE_S", 0.0)
    monkeypatch.setattr(limits, "REQUEST_S", 0.0)
    port.do(there.pause_writing)
    port.do(there.data_received, PING + post(b"a"))
    port.wait_for(lambda: not port.server.connections, ticking=True)
    assert client.recv(1) == b""


def test_slow_readers_are_asked_for_a_body_in_their_turn(port: Port, client: socket.socket) -> None:
    client.sendall(PING)
    assert read(client).status == 200
    [there] = port.server.connections
    head = f"{POST}Expect: 100-continue\r\nContent-Length: 1\r\n\r\n".encode()
    port.do(there.pause_writing)
    port.do(there.data_received, PING + head)
    port.do(there.resume_writing)
    assert [read(client).status for _ in range(2)] == [200, 100]


def test_who_hangs_up_disturbs_nobody(port: Port, client: socket.socket) -> None:
    port.echo.go_on.clear()
    client.sendall(post(b"first"))
    with port.connect() as gone:
        gone.sendall(post(b"gone"))
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    port.echo.go_on.set()
    assert read(client).body == b"first"
    client.sendall(post(b"second"))
    assert read(client).body == b"second"


def when_freed(port: Port) -> Event:
    """Return what is set once the only connection is freed."""
    [there] = port.server.connections
    freed = Event()
    weakref.finalize(there, freed.set)
    return freed


def test_an_ended_connection_is_freed_without_the_cycle_collector(port: Port) -> None:
    gc.disable()
    try:
        with port.connect() as connection:
            connection.sendall(post(b"a"))
            read(connection)
            freed = when_freed(port)
        assert freed.wait(10)
    finally:
        gc.enable()


def test_what_is_rejected_at_once_while_the_worker_drains_gets_its_answer(
    port: Port,
    client: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer ends the connection while its request is still being parsed."""
    client.sendall(PING)
    assert read(client).status == 200
    monkeypatch.setattr(limits, "QUEUED_IMAGES", 0)
    drained = port.drain()
    port.wait_for(lambda: port.server.draining)
    client.sendall(post(b"a"))
    assert read(client).status == 503
    assert client.recv(1) == b""
    client.close()
    port.wait_for(drained.done, ticking=True)
    assert not caplog.records


def test_a_drain_answers_all_who_had_come(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait to be accepted: more than are accepted in one turn of the loop."""
    accept, gone = socket.socket.accept, itertools.cycle([False, True])

    def every_other(listening: socket.socket) -> tuple[socket.socket, Any]:
        if next(gone):
            raise ConnectionAbortedError  # as BSDs tell of a client that has gone meanwhile
        return accept(listening)

    monkeypatch.setattr(limits, "DRAIN_IDLE_S", 0.0)
    with contextlib.ExitStack() as opened:
        first = opened.enter_context(port.connect())
        port.hold(first, b"first")
        clients = [opened.enter_context(port.connect()) for _ in range(50)]
        for client in clients:
            client.sendall(post(b"rest"))
        monkeypatch.setattr(socket.socket, "accept", every_other)
        drained = port.drain()
        port.echo.go_on.set()
        for client in (first, *clients):
            answer = read(client)
            assert (answer.status, answer.body) == (200, b"first" if client is first else b"rest")
        assert clients[-1].recv(1) == b""
        port.wait_for(drained.done, ticking=True)
    with pytest.raises(ConnectionRefusedError):
        port.connect()

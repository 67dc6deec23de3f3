"""A worker's HTTP as clients see it on the wire: framing, order, limits and time, no model."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import io
import itertools
import json
import os
import resource
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from http.client import HTTPResponse
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from diagonalflip.message import Operation, Request, Response
from diagonalflip.server.http import limits
from diagonalflip.server.http.authentication import Authenticator
from diagonalflip.server.http.lifecycle import Lifecycle
from diagonalflip.server.http.listener import Listener
from diagonalflip.server.http.routes import ALL_IMAGES, Answers, WorkerServer
from diagonalflip.server.supervisor.ports import listen
from diagonalflip.server.worker.access import AccessLog
from diagonalflip.server.worker.metrics import HTTP, PUBLIC, Metrics
from diagonalflip.server.worker.served import Served
from diagonalflip.wire import JSON
from tests.conftest import asynchronous

PATH = "/predictions/diagonal_flip"
POST = f"POST {PATH} HTTP/1.1\r\nHost: a\r\n"


class Echo:
    """Answers every request with its own body; counts batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.read_: list[Request] = []
        self.fails = False
        self.go_on = Event()
        self.go_on.set()

    def documents(self, versions: Sequence[str]) -> dict[str, bytes]:
        told = ",".join(versions).encode()
        return dict.fromkeys(("server", "model", "config", "weights"), told)

    def cost(self, request: Request) -> int:
        return 2 * len(request.body)

    def read(self, request: Request) -> SimpleNamespace:
        alone: Any = None  # or it would keep the connection
        self.read_.append(replace(request, transport=alone))
        return SimpleNamespace(request=request, body=bytes(request.body))

    def answer(self, jobs: Sequence[SimpleNamespace]) -> list[Response]:
        self.go_on.wait(30)
        self.batches.append(len(jobs))
        if self.fails:
            raise RuntimeError("spoiled")
        return [Response(job.body, "text/plain") for job in jobs]


class Port:
    """A worker's HTTP in a thread of this process."""

    def __init__(
        self, public: socket.socket | None = None, publish: Callable[..., None] = lambda _: None
    ) -> None:
        self.echo = Echo()
        self.metrics = Metrics()
        served = Served({"1.0": self.echo}, "1.0")
        authenticator = Authenticator(10) if public is not None else None
        self.server = WorkerServer(
            served, self.metrics, pages={}, authenticator=authenticator, publish=publish
        )
        opened = Event()
        listeners = [Listener(HTTP, listen(("127.0.0.1", 0)), "*")]
        self.number = listeners[0].sock.getsockname()[1]
        if public is not None:
            listeners.append(Listener(PUBLIC, public, "*"))
        serving = self.server.serve(listeners, opened.set)
        self._thread = Thread(target=uvloop.run, args=(serving,))
        self._thread.start()
        assert opened.wait(10)

    def close(self) -> None:
        self.echo.go_on.set()
        self.server.end()
        self._thread.join(10)

    def call(self, work: Callable[..., object], *arguments: object) -> None:
        """Have something done in the server's own thread."""
        self.server._loop.call_soon_threadsafe(work, *arguments)

    def drain(self) -> Future[None]:
        """Begin to drain."""
        return asyncio.run_coroutine_threadsafe(self.server.drain(), self.server._loop)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.number), timeout=30)

    def ask(self, *requests: bytes, pieces: int = 1 << 20) -> list[tuple[HTTPResponse, bytes]]:
        """Sends everything on one connection, and reads one answer a request."""
        with self.connect() as connection:
            sent = b"".join(requests)
            for start in range(0, len(sent), pieces):
                connection.sendall(sent[start : start + pieces])
            return [read(connection) for _ in requests]


def queue_alone() -> Lifecycle:
    """Requests are put into it, so it routes none."""
    return Lifecycle(lambda _: None, Metrics())


def read(connection: socket.socket, method: str = "POST") -> tuple[HTTPResponse, bytes]:
    """One answer, without a byte of the next one."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = connection.recv(1)
        assert part, f"closed after {head!r}"
        head += part

    class Head:
        def makefile(self, *_: Any) -> Any:
            return io.BytesIO(head)

    response = HTTPResponse(Head(), method=method)  # type: ignore[arg-type]
    response.begin()
    length = 0 if method == "HEAD" else int(response.headers["content-length"])
    body = b""
    while len(body) < length:
        body += (part := connection.recv(length - len(body)))
        assert part
    return response, body


def post(body: bytes, extra: str = "") -> bytes:
    return f"{POST}{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def port() -> Iterator[Port]:
    opened = Port()
    yield opened
    opened.close()


@pytest.mark.parametrize("pieces", [1, 7, 1 << 20])
def test_pipelined_requests_are_answered_in_their_order(port: Port, pieces: int) -> None:
    requests = [post(f"number {n}".encode()) for n in range(40)]
    requests[7] = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
    requests[8] = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
    answers = port.ask(*requests, pieces=pieces)
    assert [answer[0].status for answer in answers] == [200] * 7 + [404] + [200] * 32
    assert [answer[1] for answer in answers[9:]] == [b"number %d" % n for n in range(9, 40)]
    assert json.loads(answers[8][1]) == {"status": "Healthy", "ready": True}


def test_what_arrives_while_a_batch_runs_becomes_the_next_batch(port: Port) -> None:
    """New clients too: many are accepted in a turn of the loop, which takes long under load."""
    port.echo.go_on.clear()
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(port.connect()) for _ in range(101)]
        for number, client in enumerate(clients):
            client.sendall(post(b"number %d" % number))
        port.echo.go_on.set()
        assert [read(each)[1] for each in clients] == [b"number %d" % n for n in range(101)]
    assert sum(port.echo.batches) == 101
    assert len(port.echo.batches) <= 50


def test_without_descriptors_clients_wait_for_one(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Event()
    monkeypatch.setattr("diagonalflip.server.http.listener.logger.exception", lambda _: told.set())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.settimeout(30)
        free = os.dup(client.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            client.connect(("127.0.0.1", port.number))
            client.sendall(post(b"a"))
            assert told.wait(30)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert read(client)[1] == b"a"


def test_no_batch_is_larger_than_it_may_be(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough requests are answered while the event loop still reads others."""
    monkeypatch.setattr(limits, "BATCH_REQUESTS", 4)
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(port.connect()) for _ in range(30)]
        for client in clients:  # until it is accepted
            client.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
            read(client)
        port.echo.go_on.clear()
        for number, client in enumerate(clients):
            client.sendall(post(f"number {number}".encode()))
        port.echo.go_on.set()
        for number, client in enumerate(clients):
            assert read(client)[1] == f"number {number}".encode()
    assert sum(port.echo.batches) == 30
    assert max(port.echo.batches) == 4


@asynchronous
async def test_light_requests_wait_for_one_heavy_request_at_most() -> None:
    echo, lifecycle = Echo(), queue_alone()
    client = SimpleNamespace(lost=False, listener=HTTP, reply=lambda _: None)
    heavy = Request(Operation.PREDICT, {}, bytes(limits.HEAVY_IMAGES), echo, transport=client)
    light = Request(Operation.PREDICT, {}, service=echo, transport=client)
    for request in (heavy, heavy, heavy, light, light):
        assert lifecycle.put(replace(request))
    for _ in range(4):  # a batch in each turn of the loop
        await asyncio.sleep(0)
    assert echo.batches == [3, 1, 1]
    assert [bool(request.body) for request in echo.read_] == [False, False, True, True, True]


def test_what_does_not_fit_the_queue_is_rejected_unread(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUED_IMAGES", 100)
    response, body = port.ask(post(b"x" * 51))[0]
    assert (response.status, json.loads(body)["code"]) == (503, "server_overloaded")
    assert response.getheader("Retry-After") == "1"
    assert not port.echo.read_
    assert port.ask(post(b"x" * 50))[0][0].status == 200


def test_chunked_bodies_and_interim_answers(port: Port) -> None:
    chunked = (
        f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode() + b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    )
    assert port.ask(chunked)[0][1] == b"abcde"
    with port.connect() as connection:
        connection.sendall(f"{POST}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"xy")
        assert read(connection)[1] == b"xy"


@pytest.mark.parametrize("host", ["", "a", "a-b_c.d:80", "127.0.0.1:8080", "[::1]:80", "a%20b:"])
def test_a_host_that_may_be_is_let_pass(port: Port, host: str) -> None:
    assert port.ask(f"GET /ping HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[0][0].status == 200
    assert port.ask(b"GET /ping HTTP/1.0\r\n\r\n")[0][0].status == 200


def test_blanks_around_a_header_are_none_of_it(port: Port) -> None:
    """RFC 9110, section 5.5."""
    names = ("Authorization", "X-Request-Id", "Inference-Header-Content-Length")
    extra = "".join(f"{name}: \t a b\t \r\n" for name in names)
    port.ask(post(b"x", extra))
    headers = port.echo.read_[-1].headers
    assert [headers[name.lower()] for name in names] == ["a b"] * 3
    with port.connect() as connection:
        connection.sendall(f"{POST}Expect: 100-continue \t\r\nContent-Length: 1\r\n\r\n".encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_http_1_0_knows_no_100(port: Port) -> None:
    head = f"{POST}Expect: 100-continue\r\nContent-Length: 1\r\n\r\n".replace("1.1", "1.0")
    with port.connect() as connection:
        connection.sendall(head.encode())
        settled(port)
        connection.sendall(b"x")
        assert read(connection)[1] == b"x"


def settled(port: Port) -> None:
    """Wait until the server has read what was sent before."""
    port.ask(post(b"after"))


def test_the_server_itself_has_options(port: Port) -> None:
    response, body = port.ask(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")[0]
    assert (response.status, body) == (200, b"")
    assert response.headers["allow"] == "GET, HEAD, POST, PUT, OPTIONS"


def test_a_fault_of_ours_in_routing_is_answered_and_logged(
    port: Port, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with port.connect() as connection, monkeypatch.context() as broken:
        broken.setattr(port.server.lifecycle, "_route", lambda _: 1 / 0)
        connection.sendall(post(b"a"))
        response, body = read(connection)
        assert (response.status, json.loads(body)["code"]) == (500, "internal_error")
        broken.undo()
        connection.sendall(post(b"b"))
        assert read(connection)[1] == b"b"
    assert "ZeroDivisionError" in caplog.text


NOWHERE = "POST /nowhere HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    "told",
    [
        f"Content-Length: {1 << 25}",
        "Transfer-Encoding: chunked",
        "Content-Length: 9\r\nExpect: 100-continue",
        "Content-Length: 9\r\nConnection: close",
    ],
)
def test_who_is_rejected_by_the_head_is_told_before_the_body(port: Port, told: str) -> None:
    with port.connect() as connection:
        connection.sendall(f"{NOWHERE}{told}\r\n\r\n".encode())
        response, _ = read(connection)
        assert (response.status, response.headers["connection"]) == (404, "close")
        assert connection.recv(1) == b""  # while the client may still send
        connection.sendall(bytes(1 << 20))
    assert port.server.lifecycle.buffered.total == 0


def test_a_stranger_keeps_no_connection() -> None:
    with listen(("127.0.0.1", 0)) as public, contextlib.closing(Port(public.dup())) as protected:
        with socket.create_connection(public.getsockname(), timeout=30) as client:
            client.sendall(f"{POST}Content-Length: {1 << 25}\r\n\r\n".encode() + bytes(1000))
            response, _ = read(client)
            assert (response.status, response.headers["connection"]) == (401, "close")
            assert client.recv(1) == b""
        assert protected.server.lifecycle.buffered.total == 0


def test_a_short_body_of_who_was_rejected_is_read_and_the_connection_goes_on(port: Port) -> None:
    with port.connect() as connection:
        for sent_at_once in (0, 3, 9):
            head = f"{NOWHERE}Content-Length: 9\r\n\r\n".encode()
            connection.sendall(head + b"unwanted!"[:sent_at_once])
            assert read(connection)[0].status == 404
            connection.sendall(b"unwanted!"[sent_at_once:] + post(b"wanted"))
            assert read(connection)[1] == b"wanted"
        connection.sendall(post(b"a") + head + b"unwanted!" + head)
        assert [read(connection)[0].status for _ in range(3)] == [200, 404, 404]
        connection.sendall(b"unwanted!" + post(b"b"))
        assert read(connection)[1] == b"b"


def test_who_was_rejected_and_sends_no_body_gets_no_second_answer(port: Port) -> None:
    with port.connect() as connection:
        connection.sendall(f"{NOWHERE}Content-Length: 9\r\n\r\n".encode())
        assert read(connection)[0].status == 404
        [waiting] = port.server.connections
        port.call(waiting.expire)
        assert connection.recv(1) == b""


def test_a_rejected_client_does_not_send_for_ever(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagonalflip.server.http.connection.MAX_BODY_BYTES", 100_000)
    with port.connect() as connection:
        connection.sendall(f"{NOWHERE}Transfer-Encoding: chunked\r\n\r\n".encode())
        assert read(connection)[0].status == 404
        endless = map(connection.sendall, itertools.repeat(bytes(1 << 16)))
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            deque(endless, maxlen=0)


@pytest.mark.parametrize(
    "step", ["cost", "read", "answer", "too few", "none", "measure", "write", "check"]
)
def test_a_fault_at_any_step_leaves_the_queue_running(
    port: Port, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    checked: Queue[Answers] = Queue()

    def fail(*_: object) -> Any:
        raise RuntimeError("spoiled")

    if step == "measure":
        port.ask(post(b"the first one, whose metrics are there"))
    with monkeypatch.context() as broken:
        if step in ("cost", "read", "answer"):
            broken.setattr(port.echo, step, fail)
        elif step == "too few":
            broken.setattr(port.echo, "answer", lambda _: [])
        elif step == "none":
            broken.setattr(port.echo, "answer", lambda jobs: [None] * len(jobs))
        elif step == "measure":
            broken.setattr(port.metrics, "add", fail)
        elif step == "write":
            broken.setattr(port.server, "head", fail)
        else:
            port.call(port.server.check, fail)
        with port.connect() as connection:
            connection.sendall(post(b"a"))
            if step == "write":
                assert connection.recv(1) == b""
            else:
                expected = 200 if step in ("measure", "check") else 500
                assert read(connection)[0].status == expected
    assert port.ask(post(b"b"), post(b"c"))[1][1] == b"c"
    port.call(port.server.check, checked.put)
    assert checked.get(timeout=30)["1.0"]["status"] == 200
    assert port.server.lifecycle.buffered.total == port.server.lifecycle.queued_images == 0


V2 = "/v2/models/diagonal_flip"


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (f"POST {V2}/versions/9/infer HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET /v2/nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (f"DELETE {V2}/infer HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("POST /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (f"POST {V2}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {1 << 30}\r\n\r\n", 413),
        (f"POST {V2}/infer HTTP/1.1\r\nHost: a\r\nx: {'a' * 40_000}\r\n\r\n", 431),
        (f"POST {V2}/infer HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (f"POST {V2}/infer HTTP/1.1\r\n\r\n", 400),
        (f"POST {V2}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{'a' * 100}", 503),
        (f"POST {V2}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na", 500),
    ],
)
def test_who_speaks_v2_is_told_in_v2_what_is_wrong(
    port: Port, monkeypatch: pytest.MonkeyPatch, asked: str, status: int
) -> None:
    monkeypatch.setattr(limits, "QUEUED_IMAGES", 100)
    port.echo.fails = True
    response, body = port.ask(asked.encode())[0]
    assert (response.status, response.headers["content-type"]) == (status, JSON)
    document = json.loads(body)
    assert document.keys() == {"error"}
    assert (status == 404) == ("1.0" in document["error"]), "what is there"


def test_every_answer_is_a_line_of_the_access_log(port: Port, tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.log")
    port.metrics.observers = [log]
    for ask in (
        post(b"a", "X-Request-Id: one\r\n"),
        b"GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Request-Id: two\r\n\r\n",
        f"DELETE {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        f"OPTIONS {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        f"{POST}Content-Length: {1 << 30}\r\n\r\n".encode(),
        f"{POST}x: {'a' * 40_000}\r\n\r\n".encode(),
        b"rubbish\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        port.ask(ask)
    with port.connect() as connection:
        connection.sendall(post(b"late")[:-1])
        settled(port)
        slow = next(each for each in port.server.connections if each._in_request)
        port.call(slow.expire)
        assert read(connection)[0].status == 408
    settled(port)
    port.call(port.metrics.observers.clear)
    settled(port)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    settling = ("POST", 200, "")
    lines = [
        line for line in lines if (line["method"], line["status"], line["request_id"]) != settling
    ]
    assert [
        (line["status"], line["method"], line["path"], line["operation"]) for line in lines
    ] == [
        (200, "POST", PATH, "predict"),
        (404, "GET", "/nowhere", ""),
        (405, "DELETE", PATH, "predict"),
        (200, "OPTIONS", PATH, "predict"),
        (413, "POST", PATH, "predict"),
        (431, "", PATH, ""),
        (400, "", "", ""),
        (200, "GET", "/ping", ""),
        (408, "POST", PATH, "predict"),
    ]
    assert [line["request_id"] for line in lines[:2]] == ["one", "two"]
    assert all(0 <= line["ms"] < 60_000 and line["listener"] == "http" for line in lines)
    assert lines[0]["bytes"] == 1


def test_trailers_are_no_headers(port: Port) -> None:
    body = b"1\r\na\r\n0\r\nAccept: text/plain\r\nX-More: b\r\n\r\n"
    headers = f"{POST}Transfer-Encoding: chunked\r\nAccept: image/png\r\n\r\n"
    assert port.ask(headers.encode() + body)[0][1] == b"a"
    assert port.echo.read_[-1].headers["accept"] == "image/png"
    assert "x-more" not in port.echo.read_[-1].headers


def test_head_has_no_body_and_other_methods_are_not_allowed(port: Port) -> None:
    with port.connect() as connection:
        connection.sendall(f"HEAD {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode() + post(b"z"))
        assert read(connection, "HEAD")[0].status == 200
        assert read(connection)[1] == b"z"
    response, body = port.ask(f"DELETE {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode())[0]
    allowed = "GET, HEAD, POST, PUT, OPTIONS"
    assert (response.status, response.headers["allow"]) == (405, allowed)
    assert json.loads(body)["code"] == "method_not_allowed"
    assert (
        port.ask(b"POST /ping HTTP/1.1\r\nHost: a\r\n\r\n")[0][0].headers["allow"]
        == "GET, HEAD, OPTIONS"
    )
    for path, methods in ((PATH, allowed), ("/ping", "GET, HEAD, OPTIONS")):
        response, body = port.ask(f"OPTIONS {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())[0]
        assert (response.status, response.headers["allow"], body) == (200, methods, b"")


def test_put_is_as_post(port: Port) -> None:
    assert port.ask(post(b"a").replace(b"POST", b"PUT"))[0][1] == b"a"


def test_explanations_are_marked_by_their_path_alone(port: Port) -> None:
    explained = post(b"").replace(b"predictions", b"explanations")
    port.ask(
        *(post(b"", f"{name}: True\r\n") for name in ("explain", "Explain", "EXPLAIN", "describe")),
        explained,
        post(b"").replace(b" HTTP", b"?explain=True HTTP"),
    )
    assert [request.operation for request in port.echo.read_] == [
        *([Operation.PREDICT] * 4),
        Operation.EXPLAIN,
        Operation.PREDICT,
    ]


@pytest.mark.parametrize(
    "target",
    [
        PATH,
        f"{PATH}/1.0",
        f"{PATH}/",
        f"{PATH}?a=b",
        f"{PATH}/?",
        PATH.replace("_", "%5F"),
        PATH.replace("_", "%5f"),
        PATH.replace("p", "%70", 1),
        f"http://127.0.0.1:8080{PATH}",
        f"HTTP://a{PATH}/?a",
    ],
)
def test_a_path_may_be_written_in_every_way(port: Port, target: str) -> None:
    request = post(b"a").replace(PATH.encode(), target.encode())
    assert port.ask(request)[0][1] == b"a"
    assert port.echo.read_[-1].operation is Operation.PREDICT


@pytest.mark.parametrize(
    "target", ["/", "http://a", "/predictions", f"{PATH}x", f"/{PATH[1:]}%2F1.0%00"]
)
def test_other_paths_are_served_nowhere(port: Port, target: str) -> None:
    response, body = port.ask(post(b"a").replace(PATH.encode(), target.encode()))[0]
    assert (response.status, json.loads(body)["code"]) == (404, "model_not_found")


def test_repeated_headers_are_one_list_and_two_types_are_rejected(port: Port) -> None:
    port.ask(post(b"a", "Accept: image/png\r\nACCEPT: */*;q=0.1\r\n"))
    assert port.echo.read_[-1].headers["accept"] == "image/png, */*;q=0.1"
    twice = "Content-Type: text/plain\r\nContent-type: "
    assert port.ask(post(b"a", f"{twice}text/plain\r\n"))[0][1] == b"a"
    response, body = port.ask(post(b"a", f"{twice}image/png\r\n"))[0]
    assert (response.status, json.loads(body)["code"]) == (400, "invalid_request")


def test_behind_an_offer_to_upgrade_the_limits_are_the_same(port: Port) -> None:
    head = f"{POST}Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 33554433\r\n\r\n"
    response, body = port.ask(head.encode())[0]
    assert (response.status, json.loads(body)["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_an_offer_to_upgrade_is_ignored(port: Port, body: bytes) -> None:
    """Every Java HttpClient makes this offer with its first request."""
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAE\r\n"
    answers = port.ask(post(body, upgrade), post(b"after", upgrade), post(b"last"))
    assert [answer[1] for answer in answers] == [body, b"after", b"last"]


def test_http_1_0_may_keep_its_connection(port: Port) -> None:
    """``ab -k`` waits for the end of the connection unless the answer says that it stays."""
    request = post(b"a", "Connection: Keep-Alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
    answers = port.ask(request, request)
    assert [answer[0].headers["connection"] for answer in answers] == ["keep-alive"] * 2


def test_a_health_check_waits_for_no_client(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """However full the worker is, and whoever came before."""
    monkeypatch.setattr(limits, "QUEUED_IMAGES", 2)
    port.echo.go_on.clear()
    with port.connect() as first, port.connect() as second:
        first.sendall(post(b"a"))
        while not port.echo.read_:
            time.sleep(0.01)  # until it is busy with it; the test's time limit ends this
        second.sendall(post(b"b"))
        answers = Queue[Answers]()
        port.call(port.server.check, answers.put)
        port.echo.go_on.set()
        assert answers.get(timeout=30)["1.0"]["predictions"] == ALL_IMAGES.hex()
        assert [read(first)[1], read(second)[1]] == [b"a", b"b"]
    assert [bytes(request.body) for request in port.echo.read_] == [b"a", ALL_IMAGES, b"b"]
    assert port.metrics.rejected.total() == 0


def test_a_health_check_gets_no_answer_where_clients_get_none(port: Port) -> None:
    def wedge(wedged: bool) -> None:
        port.server.lifecycle._scheduled = wedged

    answers = Queue[Answers]()
    port.call(wedge, True)
    with port.connect() as client:
        client.sendall(post(b"a"))
        port.call(port.server.check, answers.put)
        wait_for_ticks(port, 2)
        assert answers.empty()
        port.call(wedge, False)
        assert port.ask(post(b"b"))[0][1] == b"b"
        assert answers.get(timeout=30)["1.0"]["status"] == 200
        assert read(client)[1] == b"a"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"rubbish\r\n\r\n", 400, "invalid_request"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "invalid_request"),
        (POST.encode() + b"Content-Length: x\r\n\r\n", 400, "invalid_request"),
        (
            POST.encode() + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            *(400, "invalid_request"),
        ),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400, "invalid_request"),
        (b"GET /ping HTTP/1.1\r\n\r\n", 400, "invalid_request"),
        (b"GET /ping HTTP/2.0\r\nHost: a\r\n\r\n", 400, "invalid_request"),
        (b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "invalid_request"),
        *(
            (b"GET /ping HTTP/1.1\r\nHost: %b\r\n\r\n" % host, 400, "invalid_request")
            for host in (b"a b", b"@", b"a/b", b"a@b", b"[::1", b"a:b", b"a?", b"\xe4")
        ),
        *(
            (f"{POST}Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n".encode(), *answer)
            for coding, *answer in (
                ("gzip, chunked", 501, "unsupported_transfer"),
                ("frobnicate, chunked", 501, "unsupported_transfer"),
                ("gzip\r\nTransfer-Encoding: chunked", 501, "unsupported_transfer"),
                ("chunked, gzip", 400, "invalid_request"),
            )
        ),
        (POST.encode() + b"a: " + b"b" * 17000 + b"\r\n\r\n", 431, "headers_too_large"),
        (POST.encode() + b"a: " + b"b" * 400_000, 431, "headers_too_large"),
        (b"GET /" + b"a" * 17000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (POST.encode() + b"Content-Length: 33554433\r\n\r\n", 413, "request_too_large"),
        (POST.encode() + b"Content-Length: 9999999999999999999\r\n\r\n", 413, "request_too_large"),
    ],
)
def test_what_is_no_request_is_told_so_and_ends_the_connection(
    port: Port, request_: bytes, status: int, code: str
) -> None:
    with port.connect() as connection:
        connection.sendall(post(b"before") + request_)
        assert read(connection)[1] == b"before"
        response, body = read(connection)
        assert (response.status, json.loads(body)["code"]) == (status, code)
        assert response.headers["connection"] == "close"
        assert connection.recv(1) == b""
    assert port.ask(post(b"after"))[0][1] == b"after"


def test_a_chunked_body_has_the_same_limit(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diagonalflip.server.http.parser.MAX_BODY_BYTES", 1000)
    chunk = b"200\r\n" + b"a" * 512 + b"\r\n"
    request = f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 4
    assert port.ask(request)[0][0].status == 413


def test_full_memory_is_a_503_that_may_be_sent_again(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagonalflip.server.http.limits.BUFFERED_BYTES", 1000)
    with contextlib.ExitStack() as opened:
        holders = [opened.enter_context(port.connect()) for _ in range(4)]
        for holder in holders:
            holder.sendall(post(b"a" * 230)[:-1])
        response, body = until_rejected(port, 200)
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        assert json.loads(body)["code"] == "server_overloaded"
        for holder in holders:
            holder.sendall(b"a")
            assert read(holder)[1] == b"a" * 230
    assert port.ask(post(b"b" * 250))[0][1] == b"b" * 250
    assert port.server.lifecycle.buffered.total == 0


def test_what_grows_when_it_is_unwrapped_has_the_same_room(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwrap(request: Request) -> int:
        request.body = bytes(request.body) * 100
        return 2

    monkeypatch.setattr("diagonalflip.server.http.limits.BUFFERED_BYTES", 2000)
    monkeypatch.setattr(port.echo, "cost", unwrap)
    assert port.ask(post(b"a" * 9))[0][1] == b"a" * 900
    response, body = port.ask(post(b"a" * 11))[0]
    assert (response.status, json.loads(body)["code"]) == (503, "server_overloaded")
    assert len(port.echo.read_) == 1
    assert port.server.lifecycle.buffered.total == 0


def test_while_memory_is_short_nobody_has_more_than_a_quarter(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagonalflip.server.http.limits.BUFFERED_BYTES", 1000)
    assert port.ask(post(b"b" * 400))[0][0].status == 200
    with contextlib.ExitStack() as opened:
        for _ in range(3):
            opened.enter_context(port.connect()).sendall(post(b"a" * 200)[:-1])
        until_rejected(port, 300)
        assert port.ask(post(b"b" * 200))[0][0].status == 200


def test_a_flood_at_one_listener_leaves_the_other_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diagonalflip.server.http.limits.BUFFERED_BYTES", 2000)
    public = listen(("127.0.0.1", 0))
    address, known = public.getsockname(), hashlib.sha256(b"t").hexdigest()
    with contextlib.closing(Port(public)) as port, contextlib.ExitStack() as opened:
        assert port.server.authenticator is not None
        port.server.authenticator.renew({known: "somebody"}, None)
        for _ in range(2):
            client = opened.enter_context(socket.create_connection(address, timeout=30))
            client.sendall(post(b"a" * 450, "Authorization: Bearer t\r\n")[:-1])
        # Two of one token have more than a quarter, and more than half is in use.
        response, body = read(client)
        assert (response.status, json.loads(body)["code"]) == (503, "server_overloaded")
        opened.enter_context(port.connect()).sendall(post(b"a" * 450)[:-1])
        assert port.ask(post(b"b" * 240))[0][1] == b"b" * 240


def until_rejected(port: Port, length: int) -> tuple[HTTPResponse, bytes]:
    """The first answer that is no 200: other clients' bytes may still be on their way."""
    while True:
        answer = port.ask(post(b"b" * length))[0]
        if answer[0].status != 200:
            return answer


def test_too_many_connections_are_a_503(port: Port) -> None:
    port.server.most_connections = 1
    with port.connect() as only:
        only.sendall(post(b"a"))
        assert read(only)[1] == b"a"
        with port.connect() as further:
            assert read(further)[0].status == 503
        only.sendall(post(b"b"))
        assert read(only)[1] == b"b"


@pytest.mark.parametrize(
    ("sent", "status"), [(POST.encode(), 408), (post(b"abc")[:-1], 408), (b"", None)]
)
def test_a_client_has_only_so_much_time(
    port: Port, monkeypatch: pytest.MonkeyPatch, sent: bytes, status: int | None
) -> None:
    monkeypatch.setattr("diagonalflip.server.http.limits.REQUEST_S", 0.1)
    monkeypatch.setattr("diagonalflip.server.http.limits.IDLE_S", 0.1)
    with port.connect() as slow:
        slow.sendall(sent)
        if status is not None:
            response, body = read(slow)
            assert (response.status, json.loads(body)["code"]) == (status, "request_timeout")
        assert slow.recv(1) == b""


def stalled_client(port: Port) -> socket.socket:
    """A connection that takes in little unless it is read."""
    stalled = socket.socket()
    stalled.settimeout(30)
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    stalled.connect(("127.0.0.1", port.number))
    return stalled


def test_a_client_that_does_not_read_is_dropped(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagonalflip.server.http.limits.READ_S", 0.1)
    monkeypatch.setattr("diagonalflip.server.http.limits.READ_BYTES_PER_S", 1 << 30)
    with stalled_client(port) as stalled:
        stalled.sendall(post(bytes(32 << 20)))
        (there,) = port.server.connections
        dropped = Event()
        weakref.finalize(there, dropped.set)
        del there
        assert dropped.wait(30)
    assert port.ask(post(b"after"))[0][1] == b"after"
    assert port.server.lifecycle.buffered.total == 0


@pytest.mark.parametrize("extra", ["", "Connection: close\r\n"])
def test_a_client_may_read_slowly(port: Port, monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    monkeypatch.setattr("diagonalflip.server.http.limits.LINGER_S", 0.0)
    monkeypatch.setattr("diagonalflip.server.http.limits.IDLE_S", 0.0)
    sent = bytes(32 << 20)
    with stalled_client(port) as slow:
        slow.sendall(post(sent, extra))
        wait_for_ticks(port, 3)
        assert read(slow)[1] == sent
        assert slow.recv(1) == b""


def wait_for_ticks(port: Port, count: int) -> None:
    """Until the server has looked for overdue clients so many times."""
    ticks = Queue[None]()
    port.server.tick = lambda: ticks.put(None)  # type: ignore[method-assign]
    for _ in range(count):
        ticks.get(timeout=30)


def test_answers_that_nobody_reads_are_held_in_bounded_memory(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagonalflip.server.http.limits.BUFFERED_BYTES", 80 << 20)
    sent = bytes(20 << 20)
    with contextlib.ExitStack() as opened:
        for _ in range(4):
            stalled = opened.enter_context(stalled_client(port))
            stalled.sendall(post(sent))
            assert stalled.recv(1, socket.MSG_PEEK) == b"H"
        response, body = port.ask(post(sent))[0]
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        assert json.loads(body)["code"] == "server_overloaded"
        assert read(stalled)[1] == sent
        stalled.sendall(post(sent))
        assert read(stalled)[1] == sent
    assert port.ask(post(sent))[0][1] == sent
    assert port.server.lifecycle.buffered.total == 0


def test_a_client_that_closes_its_half_still_gets_its_answers(port: Port) -> None:
    with port.connect() as connection:
        connection.sendall(post(b"a") + post(b"b"))
        connection.shutdown(socket.SHUT_WR)
        assert [read(connection)[1], read(connection)[1]] == [b"a", b"b"]
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "request_",
    [
        post(b"a", "Connection: close\r\n"),
        post(b"a").replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(b"a", "Connection: close\r\n") + post(b"what follows is not answered"),
    ],
)
def test_the_connection_ends_when_the_client_wants_it(port: Port, request_: bytes) -> None:
    with port.connect() as connection:
        connection.sendall(request_)
        response, body = read(connection)
        assert (body, response.headers["connection"]) == (b"a", "close")
        assert connection.recv(1) == b""


def test_who_hangs_up_disturbs_nobody(port: Port) -> None:
    port.echo.go_on.clear()
    with port.connect() as first:
        first.sendall(post(b"first"))
        gone = port.connect()
        gone.sendall(post(b"gone"))
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        gone.close()
        port.echo.go_on.set()
        assert read(first)[1] == b"first"
        first.sendall(post(b"second"))
        assert read(first)[1] == b"second"
    assert port.server.lifecycle.buffered.total == 0


def test_an_ended_connection_is_freed_without_the_cycle_collector(port: Port) -> None:
    gc.disable()
    try:
        with port.connect() as connection:
            connection.sendall(post(b"a"))
            read(connection)
            (there,) = port.server.connections
            freed = Event()
            weakref.finalize(there, freed.set)
            del there
        assert freed.wait(10)
    finally:
        gc.enable()


@pytest.mark.parametrize(("lost", "answered"), [((True, False, True), 1), ((True,), 0)])
@asynchronous
async def test_who_has_hung_up_is_not_computed_for(
    caplog: pytest.LogCaptureFixture, lost: Sequence[bool], answered: int
) -> None:
    echo, lifecycle = Echo(), queue_alone()
    replies: list[Request] = []
    for each in lost:
        client = SimpleNamespace(lost=each, listener=HTTP, reply=replies.append)
        lifecycle.put(Request(Operation.PREDICT, {}, b"a", echo, transport=client))
    await asyncio.sleep(0)  # the batch runs in the next turn of the loop
    assert (len(replies), echo.batches) == (answered, [1] * answered)
    assert not caplog.records, "a batch of nobody is measured without complaint"


def test_what_happened_is_counted_once() -> None:
    with contextlib.closing(Port()) as port:
        port.ask(post(b"a"), post(b"b"), b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        port.ask(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
    port.metrics.fold()
    families = port.metrics.state()["families"]
    answered = {
        tuple(labels): sum(histogram["counts"])
        for labels, histogram in families["request_duration_seconds"]
    }
    assert {key: count for key, count in answered.items() if count} == {
        ("http", "predict", "200"): 2
    }
    assert sum(families["queue_seconds"][0][1]["counts"]) == 2
    assert 0 < families["queue_seconds"][0][1]["sum"] < 30
    rejected = {code: count for [code], count in families["rejected"] if count}
    assert rejected == {"model_not_found": 1}, "a probe is no request"


def test_a_handler_that_fails_is_a_500_for_its_batch_only(port: Port) -> None:
    port.echo.fails = True
    response, body = port.ask(post(b"a"))[0]
    assert (response.status, json.loads(body)["code"]) == (500, "internal_error")
    port.echo.fails = False
    assert port.ask(post(b"a"))[0][1] == b"a"


def test_measurements_that_cannot_be_sent_stop_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deadlines and dates go on as well."""
    monkeypatch.setattr(limits, "IDLE_S", 0.5)
    sent = Queue[dict[str, Any]]()

    def publish(state: dict[str, Any]) -> None:
        sent.put(state)
        if sent.qsize() > 1:  # the first time is before it is open
            raise OSError

    with contextlib.closing(Port(publish=publish)) as port:
        with port.connect() as idle:
            assert idle.recv(1) == b""
        dates = {port.ask(post(b"a"))[0][0].headers["date"]}
        while len(dates) < 3:  # the test's own time limit ends this
            dates.add(port.ask(post(b"a"))[0][0].headers["date"])
    assert sent.get()["families"]["connections"] == [(["http"], 0), (["public"], 0)]


def test_all_who_had_come_are_answered_by_a_worker_that_drains() -> None:
    """However many wait to be accepted: more than are accepted in one turn of the loop."""
    with contextlib.closing(Port()) as port, contextlib.ExitStack() as opened:
        port.echo.go_on.clear()
        first = opened.enter_context(port.connect())
        first.sendall(post(b"first"))
        while not port.echo.read_:
            time.sleep(0.01)  # until it is busy with the first; the test's time limit ends this
        clients = [opened.enter_context(port.connect()) for _ in range(50)]
        for client in clients:
            client.sendall(post(b"rest"))
        drained = port.drain()
        port.echo.go_on.set()
        for client in (first, *clients):
            response, body = read(client)
            assert (response.status, body) == (200, b"first" if client is first else b"rest")
        assert clients[-1].recv(1) == b""
        drained.result(30)
    with pytest.raises(ConnectionRefusedError):
        port.connect()


def test_a_slow_reader_is_let_go_when_it_has_read() -> None:
    """It has its answer from before, which did not say that the connection ends."""
    with contextlib.closing(Port()) as port, port.connect() as slow:
        body = bytes(1 << 23)
        slow.sendall(post(body))
        head = slow.recv(1, socket.MSG_PEEK)
        assert head == b"H"
        drained = port.drain()
        assert read(slow)[1] == body
        assert slow.recv(1) == b""
        drained.result(30)


def test_what_cannot_be_measured_is_served(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("spoiled")

    monkeypatch.setattr(port.metrics, "add", fail)
    for body in (b"a", b"b"):
        assert port.ask(post(body))[0][1] == body


def test_an_answer_that_cannot_be_written_ends_its_connection_alone(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = WorkerServer.head

    def head(server: WorkerServer, response: Response, connection: str) -> bytes:
        if len(response.body) == 3:
            raise RuntimeError
        return right(server, response, connection)

    monkeypatch.setattr(WorkerServer, "head", head)
    with port.connect() as connection:
        connection.sendall(post(b"bad"))
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert port.ask(post(b"after"))[0][1] == b"after"


def test_an_address_takes_half_of_the_edge_and_no_other_listener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_OF_AN_ADDRESS", 2)
    public = listen(("127.0.0.1", 0))
    address = public.getsockname()
    ping = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"

    def answered() -> socket.socket | None:
        """A connection that is served, or None."""
        client = socket.create_connection(address, 30)
        client.sendall(ping)
        with contextlib.suppress(ConnectionError):
            if client.recv(1000).startswith(b"HTTP/1.1 200 "):
                return client
        client.close()
        return None

    with contextlib.closing(Port(public)) as port, contextlib.ExitStack() as held:
        clients = [answered(), answered()]
        assert None not in clients
        for client in clients[1:]:
            held.enter_context(client or socket.socket())
        assert answered() is None
        assert port.ask(ping)[0][0].status == 200, "the HTTP listener is for others"
        (clients[0] or socket.socket()).close()
        while (client := answered()) is None:
            pass  # its end is on its way; the test's own time limit ends this
        client.close()


def test_a_client_that_has_ended_and_does_not_read_has_its_time(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection closes once it has read, so what it may take has to be bounded."""
    monkeypatch.setattr("diagonalflip.server.http.limits.READ_S", 0.0)
    monkeypatch.setattr("diagonalflip.server.http.limits.READ_BYTES_PER_S", 1 << 30)
    monkeypatch.setattr(
        "diagonalflip.server.http.limits.UNSENT_BYTES", 1 << 30
    )  # it is never found to be slow
    port.echo.go_on.clear()
    with port.connect() as client:
        client.sendall(post(bytes(1 << 24)))
        while not port.echo.read_:
            time.sleep(0.01)  # until it is busy with it; the test's time limit ends this
        client.shutdown(socket.SHUT_WR)
        port.echo.go_on.set()
        while port.server.connections:
            wait_for_ticks(port, 1)
        assert port.server.lifecycle.buffered.total == 0


def test_who_waits_behind_its_own_request_is_not_idle(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagonalflip.server.http.limits.IDLE_S", 0.0)
    answer, lifecycle = port.echo.answer, port.server.lifecycle
    schedule = lifecycle._schedule

    def then_wedged(jobs: Sequence[SimpleNamespace]) -> list[Response]:
        lifecycle._schedule = lambda: None  # type: ignore[method-assign]
        return answer(jobs)

    def go_on() -> None:
        lifecycle._schedule = schedule  # type: ignore[method-assign]
        port.echo.answer = answer  # type: ignore[method-assign]
        schedule()

    monkeypatch.setattr(port.echo, "answer", then_wedged)
    with port.connect() as client:
        client.sendall(post(b"a") + post(b"b"))
        assert read(client)[1] == b"a"
        wait_for_ticks(port, 3)
        port.call(go_on)
        assert read(client)[1] == b"b"


def test_a_body_is_asked_for_when_the_request_before_is_answered(port: Port) -> None:
    port.echo.go_on.clear()
    with port.connect() as client:
        head = f"{POST}Expect: 100-continue\r\nContent-Length: 1\r\n\r\n".encode()
        client.sendall(post(b"a") + head)
        port.echo.go_on.set()
        assert read(client)[1] == b"a"
        assert client.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"b")
        assert read(client)[1] == b"b"


def test_what_is_pipelined_is_bounded_and_answered_in_order(port: Port) -> None:
    port.echo.go_on.clear()
    most = limits.PIPELINED_REQUESTS
    with port.connect() as client:
        client.sendall(post(b"first"))
        while not port.echo.read_:
            time.sleep(0.01)  # until it is busy with it; the test's time limit ends this
        client.sendall(b"".join(post(b"%d" % number) for number in range(3 * most)))
        port.echo.go_on.set()
        assert read(client)[1] == b"first"
        answered = 0
        while (found := read(client))[0].status == 200:
            assert found[1] == b"%d" % answered
            answered += 1
        assert (found[0].status, found[0].headers["connection"]) == (503, "close")
    assert answered >= most


def test_a_client_that_reads_nothing_is_answered_no_further(port: Port) -> None:
    ping = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
    with port.connect() as client:
        client.sendall(ping * 200)
        settled(port)
        client.sendall(ping * 50)
        for _ in range(250):
            assert read(client)[0].status == 200


def test_who_ends_while_it_does_not_read_is_owed_its_answers(port: Port) -> None:
    """By TLS the end may come in one piece with requests that are not answered yet."""
    ping, kept = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n", Queue[bool]()
    with port.connect() as client:
        client.sendall(post(b"a"))
        assert read(client)[1] == b"a"
        (there,) = port.server.connections

        def end() -> None:
            there.pause_writing()
            there.data_received(ping * 3)
            kept.put(there.eof_received())
            there.resume_writing()

        port.call(end)
        assert kept.get(timeout=30)
        for _ in range(3):
            assert read(client)[0].status == 200
        assert client.recv(1) == b""

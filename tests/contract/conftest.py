"""A worker's HTTP in a thread of this process, in front of no model."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from email.message import Message
from http.client import parse_headers
from threading import Event, Thread
from typing import Any, NamedTuple

import pytest
import uvloop

from diagonalflip.message import Request, Response
from diagonalflip.server.http.authentication import Authenticator
from diagonalflip.server.http.listener import Listener
from diagonalflip.server.http.routes import Served, WorkerServer
from diagonalflip.server.supervisor.ports import listen
from diagonalflip.server.worker.metrics import HTTP, PUBLIC, Metrics

PATH = "/predictions/diagonal_flip"
POST = f"POST {PATH} HTTP/1.1\r\nHost: a\r\n"
PING = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BEARER = "Authorization: Bearer t\r\n"


def post(body: bytes, extra: str = "") -> bytes:
    return f"{POST}{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Answer(NamedTuple):
    """A response, read off the wire."""

    status: int
    headers: Message
    body: bytes

    @property
    def code(self) -> str:
        """That of an error."""
        return str(json.loads(self.body)["code"])


def read(connection: socket.socket, method: str = "POST") -> Answer:
    """Read one response, without a byte of the next one."""
    with connection.makefile("rb", 0) as stream:
        line = stream.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        status, headers = int(line.split()[1]), parse_headers(stream)
        has_body = method != "HEAD" and status != 100
        left = int(headers["content-length"]) if has_body else 0
        parts = []
        while left:
            parts.append(stream.read(left))
            assert parts[-1], "closed in a body"
            left -= len(parts[-1])
    return Answer(status, headers, b"".join(parts))


class Echo:
    """Answers every request with its own body, as soon as it may go on; counts batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.requests: list[Request] = []
        self.begun, self.go_on = Event(), Event()
        self.go_on.set()

    def documents(self, versions: Sequence[str]) -> dict[str, bytes]:
        told = ",".join(versions).encode()
        return dict.fromkeys(("server", "model", "config", "weights"), told)

    def cost(self, request: Request) -> int:
        return 2 * len(request.body)

    def answer(self, requests: Sequence[Request]) -> None:
        alone: Any = None  # or it would keep the connection
        for request in requests:
            body = bytes(request.body)
            self.requests.append(replace(request, body=body, transport=alone))
            request.response = Response(body, "text/plain")
        self.begun.set()
        self.go_on.wait(30)
        self.batches.append(len(requests))


class Untimed(WorkerServer):
    """Does what it does every second only when ``Port.tick`` says so."""

    def _every_second(self) -> None:
        pass


class Port:
    """A worker's HTTP, with a public listener if there is a socket for it."""

    def __init__(
        self,
        public: socket.socket | None = None,
        publish: Callable[..., None] = lambda _: None,
        server: type[WorkerServer] = Untimed,
    ) -> None:
        self.echo, self.metrics = Echo(), Metrics()
        listeners = [Listener(HTTP, listen(("127.0.0.1", 0)), "*")]
        self.address = listeners[0].sock.getsockname()
        if public is not None:
            self.public, self._authenticator = public.getsockname(), Authenticator(1000)
            listeners.append(Listener(PUBLIC, public, "*", self._authenticator))
        self.server = server(
            Served({"1.0": self.echo}, "1.0"),
            self.metrics,
            pages={"/docs": Response(b"docs", "text/html")},
            publish=publish,
        )
        opened = Event()
        self._thread = Thread(target=uvloop.run, args=(self.server.serve(listeners, opened.set),))
        self._thread.start()
        assert opened.wait(10)

    def close(self) -> None:
        self.echo.go_on.set()
        self.server.end()
        self._thread.join(10)

    @property
    def buffered(self) -> int:
        return self.server.lifecycle.buffered

    def do(self, work: Callable[..., Any], *given: object) -> Any:
        """Have the server's own thread do something, once it has read what was sent before."""
        done: Future[Any] = Future()
        self.server._loop.call_soon_threadsafe(lambda: done.set_result(work(*given)))
        return done.result(30)

    def settle(self) -> None:
        """Wait until the server has read what was sent before."""
        with self.connect() as client:  # which is accepted after all who came before
            client.sendall(PING)
            read(client)

    def tick(self, times: int = 1) -> None:
        """Have it do now what it does every second."""
        for _ in range(times):
            self.do(WorkerServer._every_second, self.server)

    def admit_token(self, pem: str | None = None) -> None:
        """Let ``BEARER`` in at the public listener, by TLS if there is a certificate."""
        self._authenticator.renew({hashlib.sha256(b"t").hexdigest(): "somebody"}, pem)

    def drain(self) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(self.server.drain(), self.server._loop)

    def wait_for(self, condition: Callable[[], object], *, ticking: bool = False) -> None:
        """Let the server go on, with a second in each turn or none, until a condition holds."""
        waits_until = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < waits_until
            self.tick(ticking)
            self.do(time.sleep, 0)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def connect_public(self) -> socket.socket:
        return socket.create_connection(self.public, timeout=30)

    def connect_stalled(self) -> socket.socket:
        """Connect a client that takes in little unless it is read."""
        stalled = socket.socket()
        stalled.settimeout(30)
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        stalled.connect(self.address)
        return stalled

    def ask(self, request: bytes) -> Answer:
        """Send a request on a connection of its own."""
        with self.connect() as connection:
            connection.sendall(request)
            return read(connection)

    def hold(self, client: socket.socket, body: bytes) -> None:
        """Keep the worker busy with a client's request, until ``echo.go_on`` is set."""
        self.echo.go_on.clear()
        self.echo.begun.clear()
        client.sendall(post(body))
        assert self.echo.begun.wait(30)


@pytest.fixture
def port() -> Iterator[Port]:
    """A port that must have nothing left when its clients are gone."""
    opened = Port()
    with contextlib.closing(opened):
        yield opened
        opened.echo.go_on.set()
        opened.wait_for(lambda: not opened.server.connections)
        assert opened.buffered == opened.server.lifecycle.queued_images == 0
        assert opened.server._accepted == 0


@pytest.fixture
def guarded() -> Iterator[Port]:
    """A port with a public listener as well, and a token for it."""
    with contextlib.closing(Port(listen(("127.0.0.1", 0)))) as port:
        port.admit_token()
        yield port


@pytest.fixture(scope="module")
def shared_port() -> Iterator[Port]:
    with contextlib.closing(Port()) as port:
        yield port

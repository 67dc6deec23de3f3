"""A worker's HTTP connection on a transport and an event loop that are none.

The bytes are: how many cuts there are, each cut's place (two bytes) and what happens after it,
how often pieces of the stream between two marks are repeated, and the stream.
"""

from __future__ import annotations

import asyncio
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from time import thread_time_ns
from types import SimpleNamespace
from typing import Any, cast

from diagonalflip.message import Request, Response
from diagonalflip.server.http import limits
from diagonalflip.server.http.connection import Connection
from diagonalflip.server.http.hosts import Hosts
from diagonalflip.server.http.routes import Served, WorkerServer
from diagonalflip.server.http.shares import Share
from diagonalflip.server.worker.metrics import HTTP, Metrics
from diagonalflip.wire import MAX_BODY_BYTES
from tests.fuzz.source import Execution, Source, repeat

ANSWER, STALLED, READ, EXPIRE, HALF_CLOSE, HANG_UP = range(1, 7)
"""What may happen after a piece; nothing else does for any other byte."""

HIGH_WATER = 100
"""Bytes that a client has not read, until no more should be written to it: some answers."""

ROUNDS = 1_000  # of answers and of reading them, until the connection has to be read again
LONGEST = 24 << 10  # bytes that a repeated piece may fill: more than the longest head
PATH = b"/predictions/diagonal_flip"
POST = b"POST %b HTTP/1.1\r\nHost: a\r\n" % PATH
PING = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
STREAMS = (
    POST + b"Content-Length: 2\r\n\r\nab",
    POST + b"Content-Length: 0\r\n\r\n" + PING + b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\nTrailer: a\r\n\r\n",
    POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\na" + POST + b"\r\n",
    POST + b"Connection: close\r\nContent-Length: 1\r\n\r\na" + POST + b"\r\n",
    b"POST /explanations/diagonal_flip HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    POST + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
    b"PUT %b?a=b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nX: a,\r\n b\r\n\r\n" % PATH,
    b"PUT %b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\nab" % PATH,
    b"OPTIONS %b HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS http://a/ping/ HTTP/1.1\r\nHost: a\r\n\r\n"
    % PATH,
    POST + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nab" + POST + b"\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\nrubbish",
    b"~" + PING + b"~",
    POST + b"~X: y\r\n~\r\n",
    b"~" + POST + b"\r\n~",
    b"GET /~" + b"a" * 600 + b"~ HTTP/1.1\r\nHost: a\r\n\r\n",
)


TOKENS: Sequence[bytes] = (
    *(POST, b"\r\n\r\n", b"GET ", b"HEAD ", b"PUT ", b"OPTIONS ", b"PRI * HTTP/2.0", b"~"),
    *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"http://a", b"/ping", b"/explanations", b"\0"),
    *(b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"1\r\na\r\n"),
    *(b"Connection: close\r\n", b"Connection: upgrade\r\n", b"Upgrade: a\r\n", b"keep-alive"),
    *(b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n", b"Content-Type: a\r\n"),
    *(b"\xff", str(MAX_BODY_BYTES + 1).encode()),
)


def seeds() -> list[bytes]:
    """Streams whole, in pieces, to a stalled client, and with something in between."""
    made = []
    for number, stream in enumerate(STREAMS):
        times = 206 if b"~" in stream else 0
        made += [bytes([0, times]) + stream, bytes([1, 0, 30, 0, times]) + stream]
        made.append(bytes([1, 0, 0, STALLED, times]) + stream)
        made.append(bytes([2, 0, 9, ANSWER, 0, 70, 1 + number % HANG_UP, times]) + stream)
    return made


def run(data: bytes) -> Execution:
    """Feeds a stream whole and in pieces, and compares what the handler is given."""
    source = Source(data)
    cuts = []
    for _ in range(source.byte() % 16):
        place = source.byte() << 8 | source.byte()
        cuts.append((place, source.byte()))
    times = source.byte()
    stream = repeat(source.read(), times, LONGEST)
    whole = Exchange(stream, [])
    pieces = Exchange(stream, cuts)
    if not pieces.disturbed:
        # Of too many requests at once the last ones are rejected, unless some are answered.
        is_deep = stream.count(b" HTTP/1.") > limits.PIPELINED_REQUESTS
        least = min(len(pieces.seen), len(whole.seen)) if is_deep else None
        assert pieces.seen[:least] == whole.seen[:least]
    form = "rejected" if pieces.rejected else "answered" if pieces.seen else "nothing"
    return Execution(f"{form} HTTP", len(stream), pieces.ns, pieces.rejected)


METRICS = Metrics()


class Exchange:
    """All that happens on one connection, to its end; ``ns`` is the processor time."""

    def __init__(self, stream: bytes, cuts: Sequence[tuple[int, int]]) -> None:
        # Headers and body of every request that the handler was given.
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.disturbed = False  # whether the client or the clock ended the connection early
        self._loop = Loop()
        self._server = WorkerServer(Served({"1.0": self}, "1.0"), METRICS, pages={})
        listener: Any = SimpleNamespace(
            name=HTTP, hosts=Hosts("a", is_public=False), authenticator=None, share=Share()
        )
        self._server.lifecycle.shares = [listener.share]
        self._connection = Connection(self._server, listener)
        self._server._accepted = 1
        self._transport = Transport(self._connection, self._loop)
        _set_running_loop(cast("asyncio.AbstractEventLoop", self._loop))
        rejected, started = METRICS.rejected.total(), thread_time_ns()
        try:
            self._connection.connection_made(self._transport)
            self._feed(stream, cuts)
            for act in (self._transport.read, self._transport.end, self._transport.abort):
                self._loop.run()
                act()
            self._loop.run()
        finally:
            _set_running_loop(None)
        self.ns = thread_time_ns() - started
        self.rejected = METRICS.rejected.total() > rejected
        self._check()

    # What follows is what the connection asks of the service.

    def documents(self, versions: Sequence[str]) -> dict[str, bytes]:
        return dict.fromkeys(("server", "model", "config", "weights"), versions[0].encode())

    def cost(self, request: Request) -> int:
        return 2 * len(request.body)

    def answer(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.seen.append((request.headers, bytes(request.body)))
            request.response = Response(b"answer", "text/plain")

    def _feed(self, stream: bytes, cuts: Sequence[tuple[int, int]]) -> None:
        places = sorted((place % (len(stream) + 1), action) for place, action in cuts)
        start = 0
        for end, action in [*places, (len(stream), 0)]:
            for _ in range(ROUNDS):  # of many requests behind each other, each may take one
                if self._transport.over or not self._transport.reading_paused:
                    break
                self._loop.run()
                if not self._transport.over:
                    self._transport.read()
            if self._transport.over:
                return
            assert not self._transport.reading_paused, "reading is never resumed"
            if end > start:
                self._connection.data_received(stream[start:end])
            start = end
            self._happens(action)

    def _happens(self, action: int) -> None:
        self.disturbed |= action in (EXPIRE, HALF_CLOSE, HANG_UP)
        if action == STALLED:
            self._transport.stalled = True
        elif action == READ:
            self._transport.read()
        elif action == EXPIRE and self._connection.deadline < inf:
            self._connection.expire()
        elif action == HALF_CLOSE:
            self._transport.end()
        elif action == HANG_UP:
            self._transport.abort()
        if action in (ANSWER, HANG_UP):
            self._loop.run()

    def _check(self) -> None:
        """Check that nothing is left of a connection that has ended."""
        lifecycle = self._server.lifecycle
        assert not self._transport.misused, self._transport.misused
        assert self._connection.lost
        assert not self._server.connections
        assert self._server._accepted == 0
        assert not lifecycle._scheduled
        assert not lifecycle._light
        assert not lifecycle._heavy
        assert lifecycle.queued_images == 0
        assert lifecycle.buffered == 0
        assert self.disturbed or not self._connection._queue


class Loop:
    """The part of an event loop that connections use."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Takes a callback for ``run``, but none that only passes the time."""
        if getattr(callback, "__name__", "") != "_spin":
            self._ready.append((callback, arguments))

    def run(self) -> None:
        """Calls what is to be called, and what comes of it."""
        while self._ready:
            callback, arguments = self._ready.popleft()
            callback(*arguments)


class Transport(asyncio.Transport):
    """A transport to nowhere, as strict as uvloop's."""

    def __init__(self, connection: Connection, loop: Loop) -> None:
        super().__init__()
        self._connection, self._loop = connection, loop
        self.reading_paused = self.stalled = False
        self._ended = self._closing = self._finished = self._writing_paused = False
        self._unsent = 0
        # What was done that may not be; an exception would be caught on its way.
        self.misused: list[str] = []

    @property
    def over(self) -> bool:
        """Whether the client sends no more, or the connection is closed."""
        return self._ended or self._closing

    def write(self, data: Any) -> None:
        if self._finished or self._connection.lost or not data:
            self.misused.append("a write of nothing, or after the end")
        if self.stalled:
            self._unsent += len(data)
        if self._unsent > HIGH_WATER and not self._writing_paused:
            self._writing_paused = True
            self._connection.pause_writing()

    def read(self) -> None:
        """The client reads all that there is."""
        self.stalled = False
        self._unsent = 0
        if self._writing_paused and not self._connection.lost:
            self._writing_paused = False
            self._connection.resume_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the connection's limit; that of a stalled client is ``HIGH_WATER``."""

    def write_eof(self) -> None:
        self._finished = True

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        if self._writing_paused:
            self.misused.append("listening to a client that does not read")
        self.reading_paused = False

    def end(self) -> None:
        """The client sends no more."""
        if not self.over:
            self._ended = True
            if not self._connection.eof_received():
                self.close()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._connection.connection_lost, None)

    abort = close

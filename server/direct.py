"""HTTP straight into a worker: the wire contract without TorchServe's frontend in between.

Every worker listens on the same port (SO_REUSEPORT: the kernel spreads the connections). A
batch is whatever has arrived when the worker is free, so an idle worker answers at once and
batches grow with the load. The handler is the one that TorchServe calls: a request means
the same on both ports. Parsing is llhttp's, by httptools; the event loop is uvloop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import perf_counter
from typing import cast

import httptools
import uvloop

from diagonalflip.errors import (
    DiagonalFlipError,
    HeadersTooLarge,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    RequestTimeout,
    RequestTooLarge,
    ServerOverloaded,
)
from server.batch import Answer, Item

MAX_BODY_BYTES = 1 << 26
"""As ``max_request_size`` of TorchServe's port."""

MAX_HEAD_BYTES = 1 << 14
MAX_CONNECTIONS = 4096
MAX_HELD_BYTES = 1 << 28
"""Bodies that are being read or wait for the handler, at most; further ones are answered 503."""

BATCH_ITEMS = 256
BATCH_BYTES = 1 << 20
"""Bodies of a batch at most, unless a single one is larger: answers are 32 times as long."""

PIPELINED = 16
"""Unanswered requests of one connection, until reading from it pauses."""

IDLE_S = 75.0
REQUEST_S = 60.0
"""From a request's first byte to its last: a client slower than that is answered 408."""

STALLED_S = 60.0
"""Without progress of a client that does not read its answers."""

LINGER_S = 5.0
"""For a refused client to read why: closing at once could reset the connection before."""

COUNTERS = ("direct_requests", "direct_refusals", "direct_batches", "direct_handler_ms")
"""What is counted: answers, those of status 400 and up, batches, and time in the handler."""

READ, PROBE = frozenset({b"GET", b"HEAD", b"POST"}), frozenset({b"GET", b"HEAD"})


class Batcher:
    """Collects requests of all connections and answers them together, in order of arrival."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._waiting: deque[tuple[Connection, Item, bytes | None]] = deque()
        self._running = False
        self.held_bytes = 0
        self.counts = dict.fromkeys(COUNTERS, 0.0)

    def put(self, connection: Connection, item: Item, body: bytes | None) -> None:
        """Queues a request, or with ``body`` an answer that is known and waits for its turn."""
        self._waiting.append((connection, item, body))
        self.held_bytes += len(item.inputs.get("body", b""))
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """Answers one batch; the event loop reads what has arrived before the next one."""
        taken = self._take()
        items = [item for connection, item, body in taken if body is None and not connection.lost]
        bodies = iter(self._bodies(items) if items else [])
        for connection, item, body in taken:
            if connection.lost:
                continue
            self.counts["direct_requests"] += 1
            self.counts["direct_refusals"] += item.status >= HTTPStatus.BAD_REQUEST
            connection.reply(item, next(bodies) if body is None else body)
        self._running = bool(self._waiting)
        if self._running:
            asyncio.get_running_loop().call_soon(self._run)

    def _take(self) -> list[tuple[Connection, Item, bytes | None]]:
        taken: list[tuple[Connection, Item, bytes | None]] = []
        length = 0
        while self._waiting and len(taken) < BATCH_ITEMS:
            more = len(self._waiting[0][1].inputs.get("body", b""))
            if taken and length + more > BATCH_BYTES:
                break
            length += more
            taken.append(self._waiting.popleft())
        self.held_bytes -= length
        return taken

    def _bodies(self, items: list[Item]) -> list[bytes]:
        started = perf_counter()
        self.counts["direct_batches"] += 1
        try:
            return self._answer(items)
        except Exception:  # logged where it happened
            fault = InternalError("a failure of the handler", "an answer", "send it again")
            return [refuse(item, fault) for item in items]
        finally:
            self.counts["direct_handler_ms"] += (perf_counter() - started) * 1e3


class Connection(asyncio.Protocol):
    """One client's connection: parses requests, and writes answers in their order."""

    def __init__(self, server: DirectServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[tuple[bool, bool]] = deque()  # keep alive, head only
        self._ignoring = False  # whatever the client still sends
        self._ended = False  # the client sends no more
        self._in_head = False
        self._in_request = False
        self._read_bytes = 0
        self.lost = False
        self.deadline: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._expect(IDLE_S)
        if len(self._server.connections) > MAX_CONNECTIONS:
            self._refuse(ServerOverloaded("too many connections", f"{MAX_CONNECTIONS}"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The connection has ended; what it still waits for is not computed."""
        self.lost = True
        self._forget_body()
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, which calls the ``on_`` methods below."""
        if self._ignoring:
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # refused by its headers
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError as error:
            if not self._ignoring:
                self._refuse(InvalidRequest(f"{type(error).__name__}: {error}", "HTTP/1.1"))
            return
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        if len(self._pending) > PIPELINED:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more; it still gets the answers it waits for."""
        self._ignoring = self._ended = True
        return bool(self._pending)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._transport.pause_reading()
        self._expect(STALLED_S)

    def resume_writing(self) -> None:
        """The client has read."""
        self._transport.resume_reading()
        self._expect(IDLE_S)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._length = self._head_bytes = 0
        self._in_head = self._in_request = True
        self._expect(REQUEST_S)

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; the last of several of one name counts."""
        self._length += len(name) + len(value)
        if self._length <= MAX_HEAD_BYTES:
            self._headers[_text(name)] = _text(value)

    def on_headers_complete(self) -> None:
        """All headers are there."""
        self._in_head = False
        if self._ignoring:
            return
        if self._parser.should_upgrade():
            self._refuse(InvalidRequest("an upgrade", "HTTP/1.1", "leave Upgrade out"))
            return
        if self._length + len(self._url) > MAX_HEAD_BYTES:
            self._refuse_head()
            return
        lower = {name.lower(): value for name, value in self._headers.items()}
        announced = lower.get("content-length", "0")
        if announced.isdigit() and int(announced[:18]) > MAX_BODY_BYTES:
            self._refuse_body(announced)
        elif lower.get("expect", "").lower() == "100-continue" and not self._pending:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._ignoring:
            return
        self._read_bytes += len(body)
        self._server.batcher.held_bytes += len(body)
        if self._read_bytes > MAX_BODY_BYTES:
            self._refuse_body(f"{self._read_bytes} or more")
        elif self._server.batcher.held_bytes > MAX_HELD_BYTES:
            self._refuse(ServerOverloaded("full memory", "room in it", "send it again later"))
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """A whole request."""
        if self._ignoring:
            return
        self._in_request = False
        self.deadline = None
        method = self._parser.get_method()
        item = Item(headers=self._headers)
        known = None
        try:
            known = self._server.route(item, method, self._url.partition(b"?")[0])
            if known is None:
                item.inputs["body"] = b"".join(self._body)
        except DiagonalFlipError as error:
            known = refuse(item, error)
        self._forget_body()
        keep = self._parser.should_keep_alive()
        self._pending.append((keep, method == b"HEAD"))
        self._server.batcher.put(self, item, known)

    def reply(self, item: Item, body: bytes) -> None:
        """Writes one answer; ends the connection if the client or the answer wants it."""
        keep, head_only = self._pending.popleft()
        if self._transport.is_closing():
            return
        head = self._server.head(item, len(body), keep=keep)
        if head_only:
            self._transport.write(head)
        else:
            self._transport.writelines([head, body])
        if len(self._pending) == PIPELINED:
            self._transport.resume_reading()
        if self._ended and not self._pending:
            self._transport.close()
        elif not keep:
            self._linger()
        elif not self._pending and not self._in_request:
            self._expect(IDLE_S)

    def abort(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    def expire(self) -> None:
        """Its deadline has passed."""
        if self._ignoring or self._transport.get_write_buffer_size():
            self.abort()
        elif self._in_request:
            self._refuse(RequestTimeout(f"half a request in {REQUEST_S:g} s", "a whole one"))
        else:
            self._transport.close()

    def _forget_body(self) -> None:
        self._server.batcher.held_bytes -= self._read_bytes
        self._read_bytes = 0
        self._body = []

    def _expect(self, seconds: float) -> None:
        self.deadline = asyncio.get_running_loop().time() + seconds

    def _refuse_head(self) -> None:
        self._refuse(HeadersTooLarge("longer headers", f"at most {MAX_HEAD_BYTES} bytes"))

    def _refuse_body(self, length: str) -> None:
        self._refuse(
            RequestTooLarge(
                f"a body of {length[:20]} bytes", f"at most {MAX_BODY_BYTES}", "send fewer images"
            )
        )

    def _refuse(self, error: DiagonalFlipError) -> None:
        """Answers after the requests before, reads no further, and ends the connection."""
        self._ignoring = True
        self._in_head = self._in_request = False
        self._forget_body()
        item = Item()
        self._pending.append((False, False))
        self._server.batcher.put(self, item, refuse(item, error))

    def _linger(self) -> None:
        self._ignoring = True
        self._expect(LINGER_S)
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):
                self._transport.write_eof()


class DirectServer:
    """The direct port of one worker.

    Args:
        answer: Answers a batch; called in the event loop's thread.
        model, version: What the paths name.
        report: Takes what was counted since it was last called, by names in ``COUNTERS``;
            at most once a second, and not while nothing happens.
    """

    def __init__(
        self,
        answer: Answer,
        model: str,
        version: str,
        report: Callable[[dict[str, float]], None],
    ) -> None:
        self.batcher = Batcher(answer)
        self.connections: set[Connection] = set()
        self._model = model
        self._report = report
        self._date = ""
        self._predicting: dict[bytes, bool] = {}
        for path, explain in (("predictions", False), ("explanations", True)):
            for suffix in ("", f"/{version}"):
                self._predicting[f"/{path}/{model}{suffix}".encode()] = explain
        for suffix in ("", f"/versions/{version}"):
            self._predicting[f"/v2/models/{model}{suffix}/infer".encode()] = False
        self._probes = {
            b"/ping": {"status": "Healthy"},
            b"/v2/health/live": {"live": True},
            b"/v2/health/ready": {"ready": True},
        }

    async def serve(self, host: str, port: int, opened: Callable[[], None]) -> None:
        """Serves for ever; calls ``opened`` once the port is open.

        Raises:
            OSError: The port cannot be opened.
        """
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self), sock=listener, backlog=2048
            )
            self._tick()
            opened()
            await server.serve_forever()

    def route(self, item: Item, method: bytes, path: bytes) -> bytes | None:
        """The known answer of a probe; None for a request to the handler.

        Raises:
            ModelNotFound: Nothing is served at ``path``.
            MethodNotAllowed: Not in this way.
        """
        explain = self._predicting.get(path)
        probe = self._probes.get(path)
        if explain is None and probe is None:
            raise ModelNotFound(_text(path[:100]), f"/predictions/{self._model}")
        allowed = READ if probe is None else PROBE
        if method not in allowed:
            item.response_headers["allow"] = ", ".join(sorted(map(_text, allowed)))
            raise MethodNotAllowed(_text(method), item.response_headers["allow"])
        if probe is not None:
            item.response_headers["content-type"] = "application/json"
            return json.dumps(probe).encode()
        if explain:
            item.headers["explain"] = "True"  # as TorchServe marks it for the handler
        else:
            item.headers.pop("explain", None)
        return None

    def head(self, item: Item, length: int, *, keep: bool) -> bytes:
        """Status line and headers of an answer."""
        lines = [_status_line(item.status, item.phrase), self._date, f"content-length: {length}"]
        lines += [f"{name}: {value}" for name, value in item.response_headers.items()]
        if not keep:
            lines.append("connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    def _tick(self) -> None:
        """Every second: the date, connections whose time is over, and counters."""
        loop = asyncio.get_running_loop()
        self._date = f"date: {formatdate(usegmt=True)}"
        now = loop.time()
        for connection in list(self.connections):
            if connection.deadline is not None and connection.deadline < now:
                connection.expire()
        counts = self.batcher.counts
        if counts["direct_requests"]:
            self.batcher.counts = dict.fromkeys(COUNTERS, 0.0)
            self._report(counts)
        loop.call_later(1.0, self._tick)


def refuse(item: Item, error: DiagonalFlipError) -> bytes:
    """Sets an error on ``item`` and returns its body, RFC 9457."""
    status = HTTPStatus(error.status or HTTPStatus.INTERNAL_SERVER_ERROR)
    item.status, item.phrase = status.value, status.phrase
    item.response_headers["content-type"] = "application/problem+json"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        item.response_headers["retry-after"] = "1"
    return json.dumps(error.problem()).encode()


def run(server: DirectServer, host: str, port: int, opened: Callable[[], None]) -> None:
    """``server.serve`` on an event loop of its own."""
    uvloop.run(server.serve(host, port, opened))


@lru_cache(maxsize=256)
def _status_line(status: int, phrase: str) -> str:
    return f"HTTP/1.1 {status} {phrase}"


@lru_cache(maxsize=4096)
def _text(raw: bytes) -> str:
    return raw.decode("latin-1")

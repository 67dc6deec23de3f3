"""One HTTP/1.1 connection: one request at a time, deadlines for the client, a graceful close."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from diagonalflip.errors import DiagonalFlipError, RequestTimeout, ServerOverloaded
from diagonalflip.message import Request, Response, refusal
from diagonalflip.wire import MAX_BODY_BYTES
from worker import limits
from worker.batch import full
from worker.metrics import EDGE, Call
from worker.parser import Parser
from worker.shares import Share

if TYPE_CHECKING:
    from worker.listener import HttpServer


class Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        server: What it belongs to.
        door: By which it came in.
        address: The client's, at the edge.
    """

    def __init__(self, server: HttpServer, door: str, address: str = "") -> None:
        self._server, self.door, self.address = server, door, address
        self._guard = server.guard if door == EDGE else None
        self._parser: Parser | None = Parser(self)  # None: what the client still sends is ignored
        self._queue: deque[Call] = deque()  # what was pipelined behind it
        self._call: Call | None = None  # what is being answered
        self._coming: Call | None = None  # what was admitted or refused; its body comes
        self._ended = False  # the client sends no more
        self.finished = False  # the last answer is written
        self._paused = self._held_back = False  # the client reads slowly; it is not listened to
        held = server.batcher.held
        self._door_share, self._share = held.by_door[door], Share()
        self._token = ""  # whose share that is
        self._body_bytes = self._unsent_bytes = self._ignored_bytes = 0
        self.lost = False
        self.deadline: float | None = None
        self.stuck = 0, 0.0  # for the server: how much was unsent when, the last time it changed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._transport.set_write_buffer_limits(limits.UNSENT_BYTES)
        self.expect()
        most = self._server.most_connections
        if len(self._server.connections) > most:
            self._refuse(ServerOverloaded("too many connections", f"at most {most}"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The connection has ended; what it still waits for is not computed."""
        self.lost = True
        self._server.connections.discard(self)
        self._queue.clear()
        self._call = None
        self._stop_reading()
        self._hold(-self._unsent_bytes)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes to the parser, which calls the methods of a ``Receiver``."""
        if self._parser is None:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > MAX_BODY_BYTES:
                self.abort()
            return
        try:
            self._parser.feed(data)
        except DiagonalFlipError as error:
            if self._parser is not None:
                self._refuse(error)

    def eof_received(self) -> bool:
        """The client sends no more; it still gets the answers it waits for."""
        self._ended = True
        self._stop_reading()
        # TLS has no half of a connection: when either side ends it, all of it ends.
        return self._call is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        """The client reads slowly: it is not listened to meanwhile."""
        self._paused = self._held_back = True
        self._transport.pause_reading()
        self.expect()

    def resume_writing(self) -> None:
        """The client has read."""
        self._paused = False
        self._listen()
        self.expect()

    def begin(self) -> None:
        """A request's first byte has come."""
        self.expect()

    def admit(self, method: str, path: str, headers: dict[str, str]) -> bool:
        """Decide by its head who answers a request; return whether its body is wanted."""
        message, token = self._server.admit(self._guard, method, path, headers)
        self._coming = Call(message, method, path, headers, token)
        if isinstance(message, Response):
            return False
        message.token = token
        if token != self._token:
            self._belongs_to(token)
        return True

    def proceed(self) -> None:
        """The client asks whether to send its body; while it is owed an answer, it waits."""
        if self._call is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def hold(self, length: int) -> None:
        """Count bytes of a body that have come; raises ServerOverloaded if there is no room."""
        self._body_bytes += length
        self._door_share.held += length
        self._share.held += length
        door = self._door_share
        is_much = door.held > limits.HELD_BYTES >> 2  # half of a door's share, if there are two
        if is_much and self._server.batcher.held.is_full(door, self._share):
            raise full()

    def hold_more(self, length: int) -> None:
        """Count bytes by which a request has grown, which was unwrapped."""
        self._release(-length)

    def turn_away(self, connection: str) -> None:
        """Answer what was refused by its head, before its body has come."""
        if self._coming is not None:
            self._put(self._coming, connection)

    def receive(self, body: bytes, connection: str) -> None:
        """A whole request has come."""
        self.deadline = None
        call = self._coming
        if call is None:  # it was turned away
            self.expect()
            return
        if isinstance(call.message, Request):
            call.message.body = body
        self._put(call, connection)

    def _put(self, call: Call, connection: str) -> None:
        """Answer what has come after the requests before; read no further meanwhile."""
        self._coming = None
        known = call.message if isinstance(call.message, Response) else None
        if known is not None and known.status == HTTPStatus.UNAUTHORIZED:
            connection = "close"  # a stranger keeps nothing of ours
        call.connection = connection
        self._queue.append(call)
        self._answer_next()
        if known is not None and connection == "close":
            self._stop_reading()
        elif self._queue:
            self._held_back = True
            self._transport.pause_reading()

    def reply(self, response: Response) -> None:
        """Takes the answer to the request that was put last."""
        self._write(response)
        if self._queue:
            self._answer_next()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    def expire(self) -> None:
        """Its deadline has passed."""
        if self.unsent or self._parser is None:
            self.abort()
        elif self._in_request:
            self._refuse(
                RequestTimeout(
                    f"request timed out after {limits.REQUEST_S:g} s",
                    "the whole request within that time",
                )
            )
        else:
            self._transport.close()

    @property
    def unsent(self) -> int:
        """Bytes of answers that the client has not read."""
        return self._transport.get_write_buffer_size()

    @property
    def _in_request(self) -> bool:
        """True while the client owes the rest of a request, and is owed a response to it."""
        parser = self._parser
        return parser is not None and parser.in_request and not parser.is_answered

    def _answer_next(self) -> None:
        """Answers what it can, in order, until one has to wait for the service."""
        while self._queue and self._call is None:
            call = self._call = self._queue.popleft()
            answer: Request | Response | None = call.message
            if isinstance(answer, Request):
                answer = self._server.batcher.put(self, answer)
            elif answer is not None:
                self._server.metrics.observe(self.door, call, answer)
            if answer is not None:
                self._write(answer)

    def _write(self, response: Response) -> None:
        """Answers what is being answered; ends the connection if either side wants it."""
        call, self._call = self._call, None
        if call is None or self.lost or self._transport.is_closing():
            return
        connection = call.connection
        if self._server.draining and not self._queue:
            connection = "close"
        if isinstance(call.message, Request):
            self._release(len(call.message.body))
        head = self._server.head(response, connection)
        self._transport.writelines([head] if call.method == "HEAD" else [head, response.body])
        if self._ended and not self._queue:
            self._transport.close()
        elif connection == "close":
            self._linger()
        else:
            self._listen()
            if self._paused or not self._in_request:
                self.expect()

    def _listen(self) -> None:
        """Reads on, if the client takes its answers and waits for none."""
        if self._held_back and not (self._queue or self._paused or self._ended):
            self._held_back = False
            self._transport.resume_reading()

    def _release(self, length: int) -> None:
        self._body_bytes -= length
        self._door_share.held -= length
        self._share.held -= length

    def _hold(self, length: int) -> None:
        self._door_share.held += length
        self._share.held += length

    def _belongs_to(self, token: str) -> None:
        """Count what it holds with all that its token does."""
        held = self._body_bytes + self._unsent_bytes
        self._share.held -= held
        self._token, self._share = token, self._server.batcher.held.by_token[token]
        self._share.held += held

    def expect(self) -> None:
        """Sets how long the client may take for what it is to do, if it is its turn."""
        unsent = self.unsent if self._paused or self.finished else 0
        if unsent != self._unsent_bytes:
            self._hold(unsent - self._unsent_bytes)
            self._unsent_bytes = unsent
        acts = unsent or self.finished or self._in_request
        self.deadline = None
        if acts or self._call is None:
            patience_s = limits.patience_s(
                unsent, self.finished, self._in_request, self._server.draining
            )
            self.deadline = asyncio.get_running_loop().time() + patience_s

    def _refuse(self, error: DiagonalFlipError) -> None:
        """Answers after the requests before, reads no further, and ends the connection."""
        self._stop_reading()
        call, self._coming = self._coming or Call(refusal(error)), None
        call.message, call.connection = refusal(error), "close"
        self._queue.append(call)
        self._answer_next()
        self.expect()

    def _stop_reading(self) -> None:
        """Ignores what the client still sends, and forgets the request that is not whole."""
        if self._parser is not None:
            self._parser.close()
            self._parser = None
        calls = [*self._queue, *([self._call] if self._call else [])]
        bodies = [call.message.body for call in calls if isinstance(call.message, Request)]
        self._release(self._body_bytes - sum(map(len, bodies)))

    def _linger(self) -> None:
        self.finished = True
        self._queue.clear()
        self._stop_reading()
        self._listen()
        self.expect()
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):
                self._transport.write_eof()
        else:
            self._transport.close()  # TLS says so, and reads on until the client does as well

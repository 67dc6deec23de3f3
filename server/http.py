"""A small HTTP/1.1 server on asyncio: listeners, answers' heads, and deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path

import uvloop

from diagonalflip.errors import MethodNotAllowed
from server.batch import Answer, Batcher, Item
from server.connection import Connection, text

logger = logging.getLogger(__name__)

Address = tuple[str, int] | Path
"""Host and port, or the path of a Unix socket."""

BACKLOG = 2048
ACCEPTED_AT_ONCE = 256

PROBE = frozenset({b"GET", b"HEAD"})


class HttpServer(ABC):
    """Answers requests, those that ``route`` does not know by ``answer``.

    Args:
        answer: Answers a batch; called in the event loop's thread.
    """

    def __init__(self, answer: Answer) -> None:
        self.batcher = Batcher(answer)
        self.connections: set[Connection] = set()
        self._date = ""
        self._opening: set[asyncio.Task[object]] = set()

    @abstractmethod
    def route(self, item: Item, method: bytes, path: bytes) -> bytes | None:
        """The known answer to a request; None for one to the handler.

        Raises:
            ModelNotFound: Nothing is served at ``path``.
            MethodNotAllowed: Not in this way.
        """

    async def serve(self, addresses: Sequence[Address], opened: Callable[[], None]) -> None:
        """Serves until ``end``; calls ``opened`` once every address is open.

        Raises:
            OSError: An address cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        with contextlib.ExitStack() as open_sockets:
            listeners = [open_sockets.enter_context(_listener(address)) for address in addresses]
            for listener in listeners:
                self._listen(listener)
            self._every_second()
            opened()
            await self._ended.wait()
            for listener in listeners:
                self._loop.remove_reader(listener)
        for connection in list(self.connections):
            connection.abort()

    def end(self) -> None:
        """Ends ``serve`` and every connection; to be called by another thread, after ``opened``."""
        self._loop.call_soon_threadsafe(self._ended.set)

    def run(self, addresses: Sequence[Address], opened: Callable[[], None]) -> None:
        """``serve`` on a fast event loop, which only the end of the process can end safely."""
        uvloop.run(self.serve(addresses, opened))

    def head(self, item: Item, length: int, *, keep: bool) -> bytes:
        """Status line and headers of an answer."""
        lines = [_status_line(item.status, item.phrase), self._date, f"content-length: {length}"]
        lines += [f"{name}: {value}" for name, value in item.response_headers.items()]
        if not keep:
            lines.append("connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    def tick(self) -> None:  # noqa: B027 - there may be nothing to do
        """Called every second."""

    def _listen(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Accepts whoever waits.

        libuv accepts one client in each turn of its loop. Under load a turn takes tens of
        milliseconds, and hundreds of clients that connect together waited for many seconds.
        """
        try:
            for _ in range(ACCEPTED_AT_ONCE):
                accepted, _address = listener.accept()
                accepted.setblocking(False)
                opening = self._loop.create_task(
                    self._loop.connect_accepted_socket(lambda: Connection(self), accepted)
                )
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            logger.exception("no further client for a second")
            self._loop.remove_reader(listener)
            self._loop.call_later(1.0, self._listen, listener)

    def _every_second(self) -> None:
        loop = asyncio.get_running_loop()
        self._date = f"date: {formatdate(usegmt=True)}"
        now = loop.time()
        for connection in list(self.connections):
            if connection.deadline is not None and connection.deadline < now:
                connection.expire()
        self.tick()
        loop.call_later(1.0, self._every_second)


def allow(item: Item, method: bytes, allowed: frozenset[bytes]) -> None:
    """Refuses a method that is not among those of a path.

    Raises:
        MethodNotAllowed: It is not; the answer names those that are.
    """
    if method not in allowed:
        item.response_headers["allow"] = ", ".join(sorted(map(text, allowed)))
        raise MethodNotAllowed(text(method), item.response_headers["allow"])


def _listener(address: Address) -> socket.socket:
    if isinstance(address, Path):
        address.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
    else:
        listener = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind(str(address) if isinstance(address, Path) else address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


@lru_cache(maxsize=256)
def _status_line(status: int, phrase: str) -> str:
    return f"HTTP/1.1 {status} {phrase}"

"""Connections whose calls end at their deadlines, and that read into a caller's memory.

A timeout of a socket begins anew with every byte that arrives, so a peer that sends one now and
then would hold a call for ever (psf/requests#3099). Here a watchdog shuts down the socket of a call
whose deadline has passed.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diagonalflip.client._deadline import Deadline

POLL_S = 0.1
"""Longest delay until the end of a call is noticed: its deadline's, or that it was cancelled."""

IDLE_S = 1.0
"""Time without calls, until the watchdog sleeps."""


@dataclass(eq=False)
class Call:
    """A request that a thread has sent.

    Attributes:
        deadline: When it ends.
        socket: That the response comes from, once it is awaited.
        response: http.client's, which reads straight into a caller's memory.
    """

    deadline: Deadline
    socket: socket.socket | None = None
    response: http.client.HTTPResponse | None = None


THREAD = threading.local()
"""``call``: the thread's. urllib3 makes connections and responses, so it reaches them this way."""


class _Watchdog:
    """A thread that shuts down the sockets of calls whose deadline has passed."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._awake = threading.Event()
        self._process = 0

    @contextmanager
    def watching(self, call: Call) -> Iterator[None]:
        """Watch a call."""
        if self._process != os.getpid():
            self._start()
        self._calls.add(call)
        if not self._awake.is_set():
            self._awake.set()
        try:
            yield
        finally:
            self._calls.discard(call)

    def _start(self) -> None:
        """Start the thread. After a fork it is the parent's."""
        self._calls, self._awake = set(), threading.Event()
        with contextlib.suppress(RuntimeError):  # the interpreter exits: the timeouts must do
            threading.Thread(target=self._run, name="flip-watchdog", daemon=True).start()
            self._process = os.getpid()

    def _run(self) -> None:
        pause, idle_s = threading.Event(), 0.0
        while self._awake.wait():
            calls = list(self._calls)
            for call in calls:
                if call.socket is not None and call.deadline.left_s() <= 0:
                    with contextlib.suppress(OSError):
                        # TLS's own ``shutdown`` drops its state, in the midst of another's read.
                        socket.socket.shutdown(call.socket, socket.SHUT_RDWR)
            left_s = min((call.deadline.left_s() for call in calls), default=POLL_S)
            pause.wait(min(max(left_s, POLL_S / 10), POLL_S))
            idle_s = 0.0 if calls else idle_s + POLL_S
            if idle_s > IDLE_S:
                self._awake.clear()
                if self._calls:
                    self._awake.set()  # one came in between


WATCHDOG = _Watchdog()


class _Response(http.client.HTTPResponse):
    """A response that the thread's call knows, and its socket."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        THREAD.call.socket, THREAD.call.response = sock, self

    def _read_status(self) -> tuple[str, int, str]:
        """Skip interim responses, of which http.client knows but 100 (RFC 9110, section 15.2)."""
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 <= found[1] < 200 or found[1] == 101:
                return found
            http.client.parse_headers(self.fp)


class Connection:
    """A connection that sends a request's head and body together: one packet, read at once."""

    response_class = _Response
    _head: bytes | None = None
    _is_head = False

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        """Send the head; what follows is the body."""
        self._is_head = True
        super().endheaders(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: bytes) -> None:
        """Send bytes, with the head that waits for them."""
        if self._is_head:
            self._head, self._is_head = data, False
            return
        head, self._head = self._head, None
        super().send(data if head is None else head + data)  # type: ignore[misc]

    def getresponse(self) -> Any:
        """Return the response; a request without a body is still to be sent."""
        if self._head is not None:
            self.send(b"")
        return super().getresponse()  # type: ignore[misc]

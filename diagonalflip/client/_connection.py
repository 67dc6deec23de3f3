"""Connections whose reads and sends end at the deadline of the thread's call.

A socket's timeout starts again with every byte that arrives, so a server that sends slowly could
hold a call for ever (psf/requests#3099). Here every read and every send has only the time that is
left.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
from contextlib import suppress
from typing import Any

from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util import wait_for_write

POLL_S = 0.1
"""Longest delay until a call with a connection notices that it was cancelled."""

FIRST_CONNECT_S = 0.25
LONGEST_CONNECT_S = 2.0
"""Longest wait for one address; so a call without a connection notices its cancellation, too."""

PIECE_BYTES = 1 << 14
"""Bytes per send: a TLS record, each of which is sent with a timeout of its own."""

THREAD = threading.local()
"""``deadline``: that of the thread's call; urllib3 makes connections, and cannot pass it on."""


class _Reading(io.RawIOBase):
    """Reads from a socket until the deadline of the thread's call."""

    is_at_end = False

    def __init__(self, sock: socket.socket, kept: Any) -> None:
        self._socket = sock
        self._kept = kept  # http.client's own file, which keeps the socket open

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._socket.settimeout(min(THREAD.deadline.check(), POLL_S))
            with suppress(TimeoutError):
                count = self._socket.recv_into(buffer)
                self.is_at_end = not count
                return count

    def close(self) -> None:
        self._kept.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response that is read until the deadline of the thread's call."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reading = _Reading(sock, self.fp)
        self.fp = io.BufferedReader(self._reading)

    def begin(self) -> None:
        """Read the head; unlike http.client, do not take a lost connection for its end."""
        super().begin()
        if self._reading.is_at_end:
            raise http.client.RemoteDisconnected("the connection was lost in the answer's head")
        if rest := self.headers.get_payload():  # http.client takes headers after it for the body
            raise http.client.HTTPException(f"a line that is no header: {str(rest)[:60]!r}")

    def _read_status(self) -> tuple[str, int, str]:
        """Skip all interim responses; http.client skips only 100 (RFC 9110, section 15.2)."""
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 <= found[1] < 200 or found[1] == 101:
                return found
            http.client.parse_headers(self.fp)


class Connection:
    """A connection that sends a request's head and body together, in one packet if possible."""

    response_class = _Response
    timeout: float
    sock: socket.socket | None
    _head: bytes | None = None
    _is_head = False

    def _new_conn(self) -> socket.socket:
        """Connect to the first of the host's addresses that answers, until the deadline.

        urllib3 would wait for a silent one until the deadline. Here each has a quarter of a
        second; then all are tried again with twice the time, and so on.
        """
        whole_s, seconds = self.timeout, FIRST_CONNECT_S
        while True:
            self.timeout = min(THREAD.deadline.check(), seconds)
            try:
                sock: socket.socket = super()._new_conn()  # type: ignore[misc]
            except NewConnectionError:
                raise
            except ConnectTimeoutError:  # in urllib3 1, the base class of NewConnectionError
                seconds = min(2 * seconds, LONGEST_CONNECT_S)
            else:
                # For TLS's handshake; 0 would mean not to wait.
                sock.settimeout(max(0.001, min(THREAD.deadline.left_s(), whole_s)))
                return sock
            finally:
                self.timeout = whole_s

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        """Send the head; what follows is the body."""
        self._is_head = True
        super().endheaders(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: bytes) -> None:
        """Send bytes, together with a head that is waiting, until the deadline."""
        if self._is_head:
            self._head, self._is_head = data, False
            return
        head, self._head = self._head, None
        data = data if head is None else head + data
        for start in range(0, len(data), PIECE_BYTES):
            if self.sock is not None:
                while not wait_for_write(self.sock, min(THREAD.deadline.check(), POLL_S)):
                    pass
                self.sock.settimeout(THREAD.deadline.check())
            super().send(data[start : start + PIECE_BYTES])  # type: ignore[misc]

    def getresponse(self) -> Any:
        """Send the head of a request without a body; return the response."""
        if self._head is not None:
            self.send(b"")
        return super().getresponse()  # type: ignore[misc]

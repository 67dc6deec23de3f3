"""TLS of one connection: a protocol to the network's transport, a transport to the connection.

The buffers of asyncio's and uvloop's own TLS keep their largest size until the connection ends:
0.6 MiB after a request of 200 kB, 20 MiB after a response of 16 MiB. The buffers here hold one
record.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from diagonalflip.errors import InvalidRequest
from diagonalflip.server.http import limits

if TYPE_CHECKING:
    from diagonalflip.server.http.connection import Connection

RECORD_BYTES = 1 << 14
"""Most bytes in a TLS record (RFC 8446, section 5.1)."""


class Tls(asyncio.Protocol):
    """TLS between a client and a protocol that does not know of it.

    The protocol's ``connection_made`` is called after the handshake, its ``connection_lost`` in any
    case. It may write by ``writelines`` only; other methods of its transport are the network's. To
    answer a client that speaks plain HTTP, it gets the network's transport itself.

    Attributes:
        is_open: Whether the handshake has succeeded.
    """

    def __init__(self, protocol: Connection, context: ssl.SSLContext) -> None:
        self._protocol = protocol
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._settled = asyncio.Event()  # the handshake has succeeded or failed
        self.is_open = self._has_begun = False  # the client has sent something
        self._has_ended = self._is_ended = False  # we send no more; the client sends no more

    async def settle(self) -> bool:
        """Wait for the end of the handshake; return whether it has failed.

        Balancers' probes, which connect and send nothing, do not count as failures.
        """
        try:
            async with asyncio.timeout(limits.HANDSHAKE_S):
                await self._settled.wait()
        except TimeoutError:
            self.abort()
        return self._has_begun and not self.is_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with a new client, and use the network's transport for all but writing."""
        network = self._transport = cast("asyncio.Transport", transport)
        self.abort, self.is_closing = network.abort, network.is_closing
        self.pause_reading, self.resume_reading = network.pause_reading, network.resume_reading
        self.set_write_buffer_limits = network.set_write_buffer_limits
        self.get_write_buffer_size = network.get_write_buffer_size
        self.get_extra_info = network.get_extra_info

    def data_received(self, data: bytes) -> None:
        """Decrypt bytes, and pass the plain text on in one piece."""
        if self._has_ended or self._is_ended:
            self._protocol.data_received(data)  # it ignores and counts them
            return
        received, view = [], memoryview(data)
        try:
            for start in range(0, len(view), RECORD_BYTES):
                self._incoming.write(view[start : start + RECORD_BYTES])
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._shake_hands()
                    while self._incoming.pending or self._ssl.pending():
                        if self._has_ended:
                            return
                        received.append(self._ssl.read(RECORD_BYTES))
                        if not received[-1]:
                            break  # the client sends no more; ignore what follows
        except ssl.SSLError as error:
            self._fail(error)
            return
        if self._outgoing.pending:
            self._send()
        if plain := b"".join(received):
            self._protocol.data_received(plain)
        if received and not received[-1]:
            self.eof_received()

    def eof_received(self) -> bool:
        """Pass on that the client sends no more."""
        self._is_ended = True
        if not (self.is_open and self._protocol.eof_received()):
            self.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on that the connection has ended, maybe during the handshake."""
        self._settled.set()
        self._protocol.connection_lost(exc)
        del self._protocol  # each refers to the other

    def pause_writing(self) -> None:
        """Pass on that the client reads slowly."""
        if self.is_open:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client has read."""
        if self.is_open:
            self._protocol.resume_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Encrypt record by record, and send; short data goes into one record."""
        parts, encrypted = list(list_of_data), []
        if sum(map(len, parts)) <= RECORD_BYTES:
            parts = [b"".join(parts)]
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), RECORD_BYTES):
                self._ssl.write(view[start : start + RECORD_BYTES])
                if self._outgoing.pending > RECORD_BYTES:
                    encrypted.append(self._outgoing.read())
        encrypted.append(self._outgoing.read())
        self._transport.writelines(encrypted)

    def write_eof(self) -> None:
        """Tell the client that nothing more comes; go on receiving."""
        self._end()
        self._transport.write_eof()

    def close(self) -> None:
        """Tell the client that nothing more comes; close the connection when that is sent."""
        self._end()
        self._transport.close()

    def _shake_hands(self) -> None:
        if not self.is_open:
            self._has_begun = True
            self._ssl.do_handshake()
            self.is_open = True
            self._settled.set()
            self._send()
            self._protocol.connection_made(cast("asyncio.Transport", self))

    def _fail(self, error: ssl.SSLError) -> None:
        """End the connection of a client that does not speak TLS, or no version of ours."""
        if error.reason != "HTTP_REQUEST":
            self._send()
            self._transport.close()
            return
        self._has_ended = True
        self._protocol.connection_made(self._transport)
        if not self._protocol.finished:  # it is, if there are too many
            self._protocol.reject(InvalidRequest("plain HTTP", "TLS", "ask by https://"))

    def _send(self) -> None:
        if not self._has_ended:
            self._transport.write(self._outgoing.read())

    def _end(self) -> None:
        if self.is_open and not self._has_ended:
            with contextlib.suppress(ssl.SSLError):  # the client's close_notify may never come
                self._ssl.unwrap()
            self._send()
        self._has_ended = True

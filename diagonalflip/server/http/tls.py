"""TLS of one connection: a protocol to the network's transport, a transport to the connection.

asyncio and uvloop have TLS of their own, whose buffers keep the size of the largest data that they
have seen until the connection ends: 0.6 MiB for one that has sent 200 kB, 20 MiB for one that got
16 MiB. These buffers hold one record.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

from diagonalflip.server.http import limits

RECORD_BYTES = 1 << 14
"""Most that a record of TLS holds (RFC 8446, section 5.1)."""


class Tls(asyncio.Protocol, asyncio.Transport):
    """TLS between a client and a protocol that knows nothing of it.

    The protocol is told that the connection is made once the handshake is done, and in any case
    that it is lost.

    Args:
        protocol: Receiver of what was sent in TLS.
        context: A server's.
        settled: Called once the handshake has succeeded or failed.

    Attributes:
        is_open: Whether it has succeeded.
    """

    def __init__(
        self, protocol: asyncio.Protocol, context: ssl.SSLContext, settled: Callable[[Tls], None]
    ) -> None:
        super().__init__()
        self._protocol, self._settled = protocol, settled
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = False  # the handshake is done
        self._has_ended = self._is_ended = False  # we have said that we send no more; the client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give a new client its time for the handshake."""
        self._transport = cast("asyncio.Transport", transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limits.HANDSHAKE_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Decrypt, and pass on all that has come together."""
        if self._has_ended or self._is_ended:
            self._protocol.data_received(data)  # which ignores and counts it
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
                            break  # the client's end, behind which nothing counts
        except ssl.SSLError:  # nobody who speaks TLS, or not ours
            self._send()
            self._transport.close()
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
        """Pass on that the connection has ended, maybe before it was made."""
        self._settle()
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

    def write(self, data: Any) -> None:
        """Encrypt and send."""
        self.writelines([data])

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Encrypt a record at a time, and send; what is short is one record."""
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

    def can_write_eof(self) -> bool:
        """Either side may end alone (RFC 8446, section 6.1)."""
        return True

    def write_eof(self) -> None:
        """Say that nothing more comes; go on receiving."""
        self._end()
        self._transport.write_eof()

    def close(self) -> None:
        """Say that nothing more comes, and close the connection when that is sent."""
        self._end()
        self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Return whether it is being closed."""
        return self._transport.is_closing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As for the network's transport."""
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not read."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """As for the network's transport."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """As for the network's transport."""
        self._transport.resume_reading()

    def _shake_hands(self) -> None:
        if not self.is_open:
            self._ssl.do_handshake()
            self.is_open = True
            self._settle()
            self._send()
            self._protocol.connection_made(self)

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._settled(self)

    def _send(self) -> None:
        if not self._has_ended:
            self._transport.write(self._outgoing.read())

    def _end(self) -> None:
        if self.is_open and not self._has_ended:
            with contextlib.suppress(ssl.SSLError):  # the client's own end may come later, or never
                self._ssl.unwrap()
            self._send()
        self._has_ended = True

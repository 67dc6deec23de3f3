"""A TCP proxy that spoils what passes through it, request by request, as it was told."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.faults.fake_server import listening, read_request, response

DRIP_S = 0.02
"""Between two bytes of a slow drip."""


@dataclass
class Passing:
    """A connection on its way through.

    Attributes:
        reader, writer: Towards the client.
        upstream: Address of the server.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: tuple[str, int]

    async def answer(self) -> bytes:
        """Reads one request, and gets the server's whole response to it."""
        headers, body = await read_request(self.reader)
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            lines = [f"{name}: {value}" for name, value in headers.items()]
            head = "\r\n".join(["POST /predictions/diagonal_flip HTTP/1.1", *lines, "", ""])
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in answer.splitlines()
                if line.lower().startswith(b"content-length")
            )
            return answer + await reader.readexactly(length)
        finally:
            writer.transport.abort()
            await writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Sends bytes to the client, as far as it takes them."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Ends the connection with RST instead of FIN."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def wait_for_the_client_to_leave(self) -> None:
        """Says nothing more, until the client has closed its side."""
        while await self.reader.read(1 << 16):
            pass


Fault = Callable[[Passing], Awaitable[bool]]
"""Handles one request; True if the connection goes on."""


async def unspoilt(passing: Passing) -> bool:
    await passing.send(await passing.answer())
    return True


async def interim(passing: Passing) -> bool:
    """Responses that come before the answer, then that."""
    for told in (
        b"100 Continue\r\n",
        b"102 Processing\r\n",
        b"103 Hints\r\nLink: </a>\r\n",
        b"199 A\r\n",
    ):
        await passing.send(b"HTTP/1.1 " + told + b"\r\n")
    return await unspoilt(passing)


async def without_length(passing: Passing) -> bool:
    """An answer that ends with its connection, as in HTTP/1.0."""
    await passing.send(re.sub(rb"Content-Length: \d+\r\n", b"", await passing.answer()))
    return False


async def reset_before_request(passing: Passing) -> bool:
    passing.reset()
    return False


async def reset_after_request(passing: Passing) -> bool:
    await read_request(passing.reader)
    passing.reset()
    return False


def only(end: int, *, stalls: bool, in_body: bool = True) -> Fault:
    """Send an answer up to ``end`` of its body, or of all of it; then stall, or close."""

    async def answer(passing: Passing) -> bool:
        whole = await passing.answer()
        start = whole.index(b"\r\n\r\n") + 4 if in_body else 0
        await passing.send(whole[:start] + whole[start:][:end])
        if stalls:
            await passing.wait_for_the_client_to_leave()
        return False

    return answer


half_an_answer = only(7, stalls=False)
half_a_header = only(20, stalls=False, in_body=False)
stall = only(0, stalls=True, in_body=False)
stall_in_header = only(20, stalls=True, in_body=False)
stall_in_body = only(-1, stalls=True)


async def drip(passing: Passing) -> bool:
    """Send everything, header first, byte by byte."""
    return await _drip(passing, await passing.answer())


async def drip_body(passing: Passing) -> bool:
    """Send the header at once, the body byte by byte."""
    head, mark, body = (await passing.answer()).partition(b"\r\n\r\n")
    await passing.send(head + mark)
    return await _drip(passing, body)


async def _drip(passing: Passing, data: bytes) -> bool:
    for byte in data:
        await passing.send(bytes([byte]))
        await asyncio.sleep(DRIP_S)
    return True


def instead(
    status: int, headers: dict[str, str], body: bytes = b"", end: int | None = None
) -> Fault:
    """Answers this, or its beginning, instead of asking the server."""

    async def answer(passing: Passing) -> bool:
        await read_request(passing.reader)
        await passing.send(response(status, headers, body)[:end])
        return end is None

    return answer


@dataclass
class FaultProxy:
    """Spoils requests in the order in which they arrive.

    Attributes:
        upstream: Address of the server.
        faults: For the next requests; what comes after them passes unspoilt, or meets
            ``always``.
        always: For all requests after ``faults``.
        requests: Requests, and connections rejected before one, so far.
    """

    upstream: tuple[str, int]
    faults: list[Fault] = field(default_factory=list)
    always: Fault = unspoilt
    requests: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handles one connection."""
        passing = Passing(reader, writer, self.upstream)
        try:
            while True:
                fault = self.faults[0] if self.faults else self.always
                # Nothing but this fault acts before a request is there.
                if fault is not reset_before_request and not await _has_request(reader):
                    break
                fault = self.faults.pop(0) if self.faults else self.always
                self.requests += 1
                if not await fault(passing):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _has_request(reader: asyncio.StreamReader) -> bool:
    """Waits for a request's first byte, and leaves it there."""
    first = await reader.read(1)
    reader._buffer[:0] = first  # type: ignore[attr-defined]
    return bool(first)


@contextmanager
def fault_proxy(url: str, *faults: Fault, always: Fault = unspoilt) -> Iterator[FaultProxy]:
    """A proxy in front of the server at ``url``."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = FaultProxy((parts.hostname, parts.port), list(faults), always)
    with listening(proxy.serve) as proxy.url:
        yield proxy

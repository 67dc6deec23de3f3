"""A fake server that spoils its answers, request by request, as it was told."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.faults.fake_server import FakeServer, listening, read_request, response

DRIP_S = 0.02  # between two bytes of a slow drip
Fault = Callable[[StreamReader, StreamWriter], Awaitable[bool]]
"""Handles one request; True if the connection goes on."""


async def right(reader: StreamReader) -> bytes:
    """Read one request; give the whole, right response to it."""
    return FakeServer().answer(*await read_request(reader))


async def send(writer: StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def unspoilt(reader: StreamReader, writer: StreamWriter) -> bool:
    await send(writer, await right(reader))
    return True


async def interim(reader: StreamReader, writer: StreamWriter) -> bool:
    """Responses that come before the answer, then that."""
    for told in (b"100 Continue", b"102 Processing", b"103 Hints\r\nLink: </a>", b"199 A"):
        await send(writer, b"HTTP/1.1 " + told + b"\r\n\r\n")
    return await unspoilt(reader, writer)


async def without_length(reader: StreamReader, writer: StreamWriter) -> bool:
    """An answer that ends with its connection, as in HTTP/1.0."""
    await send(writer, re.sub(rb"Content-Length: \d+\r\n", b"", await right(reader)))
    return False


async def no_header(reader: StreamReader, writer: StreamWriter) -> bool:
    """An answer with a line that is no header before all others; the connection stays open."""
    await send(writer, (await right(reader)).replace(b"\r\n", b"\r\nA b: c\r\n", 1))
    return True


async def of_no_coding(reader: StreamReader, writer: StreamWriter) -> bool:
    """An answer that says that it is as it is, as some gateways have it."""
    told = b"\r\nContent-Encoding: identity\r\n"
    await send(writer, (await right(reader)).replace(b"\r\n", told, 1))
    return True


async def reset_before_request(_: StreamReader, writer: StreamWriter) -> bool:
    """End the connection with RST instead of FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def reset_after_request(reader: StreamReader, writer: StreamWriter) -> bool:
    await read_request(reader)
    return await reset_before_request(reader, writer)


def only(end: int, *, stalls: bool, in_body: bool = True) -> Fault:
    """Send an answer up to ``end`` of its body, or of all of it; then stall, or close."""

    async def answer(reader: StreamReader, writer: StreamWriter) -> bool:
        whole = await right(reader)
        start = whole.index(b"\r\n\r\n") + 4 if in_body else 0
        await send(writer, whole[:start] + whole[start:][:end])
        while stalls and await reader.read(1 << 16):
            pass  # until the client has closed its side
        return False

    return answer


half_an_answer = only(7, stalls=False)
half_a_header = only(20, stalls=False, in_body=False)
stall = only(0, stalls=True, in_body=False)
stall_in_header = only(20, stalls=True, in_body=False)
stall_in_body = only(-1, stalls=True)


async def drip(reader: StreamReader, writer: StreamWriter) -> bool:
    """Send everything, header first, byte by byte."""
    return await _drip(writer, await right(reader))


async def drip_body(reader: StreamReader, writer: StreamWriter) -> bool:
    """Send the header at once, the body byte by byte."""
    head, mark, body = (await right(reader)).partition(b"\r\n\r\n")
    await send(writer, head + mark)
    return await _drip(writer, body)


async def _drip(writer: StreamWriter, data: bytes) -> bool:
    for byte in data:
        await send(writer, bytes([byte]))
        await asyncio.sleep(DRIP_S)
    return True


def instead(status: int, head: dict[str, str], body: bytes = b"", end: int | None = None) -> Fault:
    """Answer this, or its beginning, instead."""

    async def answer(reader: StreamReader, writer: StreamWriter) -> bool:
        await read_request(reader)
        await send(writer, response(status, head, body)[:end])
        return end is None

    return answer


@dataclass
class FaultyServer:
    """Spoils requests in the order in which they arrive."""

    faults: list[Fault]  # for the next requests
    always: Fault  # for those after them
    requests: int = 0  # and connections rejected before one, so far
    url: str = ""

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while True:
                fault = self.faults[0] if self.faults else self.always
                # Nothing but this fault acts before a request is there.
                if fault is not reset_before_request and not await _has_request(reader):
                    break
                fault = self.faults.pop(0) if self.faults else self.always
                self.requests += 1
                if not await fault(reader, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _has_request(reader: StreamReader) -> bool:
    """Waits for a request's first byte, and leaves it there."""
    first = await reader.read(1)
    reader._buffer[:0] = first  # type: ignore[attr-defined]
    return bool(first)


@contextmanager
def faulty(*faults: Fault, always: Fault = unspoilt) -> Iterator[FaultyServer]:
    server = FaultyServer(list(faults), always)
    with listening(server.serve) as server.url:
        yield server

"""Clients in great number, and bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

from benchmarks.driver import PATH
from diagonalflip.wire import OCTETS
from tests.drills.load import Target

SLOW_CLIENTS = 100
WAIT_TIMEOUT_S = 90.0
PAUSE_S = 1.0  # of a client that was rejected, as ``Retry-After`` asks
HEAVY = bytes(2048)  # to be explained: much work for the service, little for who sends it
REJECTED = "503 Retry-After"
ERRORS = (OSError, asyncio.IncompleteReadError, TimeoutError)


async def burst(service: Target, count: int) -> tuple[Counter[str], float]:
    """Return statuses of ``count`` requests sent at once, and seconds of the slowest rejection."""
    found: Counter[str] = Counter()
    rejected_s = [0.0]
    connected = asyncio.Barrier(count)

    async def one() -> None:
        connection = await asyncio.open_connection("127.0.0.1", service.port)
        await connected.wait()
        started = time.monotonic()
        with contextlib.suppress(*ERRORS), contextlib.closing(connection[1]):
            status = await _ask(service, *connection)
            found[status] += 1
            if status == REJECTED:
                rejected_s.append(time.monotonic() - started)

    await asyncio.gather(*(one() for _ in range(count)))
    return found, max(rejected_s)


async def drive(service: Target, connections: int, seconds: float) -> Counter[str]:
    """Return how often each status came to clients that send again soon."""
    found: Counter[str] = Counter()
    deadline = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < deadline:
            with contextlib.suppress(*ERRORS):
                connection = await asyncio.open_connection("127.0.0.1", service.port)
                with contextlib.closing(connection[1]):
                    while time.monotonic() < deadline:
                        async with asyncio.timeout(30):
                            status = await _ask(service, *connection)
                        found[status] += time.monotonic() < deadline
                        await asyncio.sleep(PAUSE_S if status == REJECTED else 0)

    await asyncio.gather(*(client() for _ in range(connections)))
    return found


async def slow_clients(service: Target) -> Counter[str]:
    """Return how connections of slow clients end."""
    endings: Counter[str] = Counter()
    head = _head(service, PATH, 1000)

    async def one(kind: str, start: bytes, rest: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(start)
        answer = asyncio.ensure_future(reader.readline())
        with contextlib.suppress(ConnectionError):
            for byte in rest:
                if (await asyncio.wait([answer], timeout=0.5))[0]:
                    break
                writer.write(bytes([byte]))
        if kind == "hang-up":
            answer.cancel()
            ending = "gone"
        else:
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                ending = ((await answer).split() or [b"", b"closed"])[1].decode()
        endings[f"{kind}: {ending}"] += 1
        writer.close()

    kinds = (
        ("slow headers", head[:20], head[20:]),
        ("slow body", head, bytes(900)),
        ("half body", head + bytes(500), b""),
        ("hang-up", head + bytes(500), b"\0"),
    )
    await asyncio.gather(*(one(*kind) for kind in kinds for _ in range(SLOW_CLIENTS)))
    return endings


async def _ask(service: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Send a heavy request, and return the status of its answer."""
    path = PATH.replace("predictions", "explanations")
    writer.write(_head(service, path, len(HEAVY)) + HEAVY)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
    status = head.split()[1].decode()
    return f"{status} Retry-After" if b"retry-after: 1\r\n" in head else status


def _head(service: Target, path: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {service.token}\r\n"
        f"Content-Type: {OCTETS}\r\nAccept: {OCTETS}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()

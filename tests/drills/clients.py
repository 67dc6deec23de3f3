"""Clients in great number, and bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import time

from benchmarks.running import PATH
from diagonalflip.wire import OCTETS
from tests.drills.service import Service

SLOW_CLIENTS = 100
PATIENCE_S = 90.0
EXPLANATIONS = PATH.replace("predictions", "explanations")
PAUSE_S = 1.0
"""Of a client that was rejected, as ``Retry-After`` asks."""

HEAVY = bytes(2048)
"""To be explained: much work for the service, little for who sends it."""


async def burst(service: Service, count: int) -> tuple[dict[str, int], float]:
    """Statuses of ``count`` requests sent at once, and the seconds of the slowest rejection."""
    found: dict[str, int] = {}
    slowest = 0.0
    request = _head(service, len(HEAVY), EXPLANATIONS) + HEAVY
    connected = asyncio.Barrier(count)

    async def one() -> None:
        nonlocal slowest
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        await connected.wait()
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split()[1].decode()
            if status == "503":
                slowest = max(slowest, time.monotonic() - started)
                status += " Retry-After" if b"retry-after: 1\r\n" in head else ""
            else:
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            found[status] = found.get(status, 0) + 1
        writer.close()

    await asyncio.gather(*(one() for _ in range(count)))
    return found, slowest


async def drive(service: Service, connections: int, seconds: float) -> tuple[float, float]:
    """Answers and rejections per second, of clients that send again soon."""
    answered = rejected = 0
    request = _head(service, len(HEAVY), EXPLANATIONS) + HEAVY
    deadline = time.monotonic() + seconds

    async def client() -> None:
        nonlocal answered, rejected
        while time.monotonic() < deadline:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            except OSError:
                continue
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                while time.monotonic() < deadline:
                    writer.write(request)
                    async with asyncio.timeout(30):
                        head = await reader.readuntil(b"\r\n\r\n")
                        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                        await reader.readexactly(length)
                    if time.monotonic() < deadline:
                        answered += b" 200 " in head[:13]
                        rejected += b" 503 " in head[:13]
                    await asyncio.sleep(PAUSE_S if b" 503 " in head[:13] else 0)
            writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return answered / seconds, rejected / seconds


async def slow_clients(service: Service) -> dict[str, int]:
    """Outcomes of the connections."""
    endings: dict[str, int] = {}
    head = _head(service, 1000)

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
            async with asyncio.timeout(PATIENCE_S):
                ending = ((await answer).split() or [b"", b"closed"])[1].decode()
        endings[f"{kind}: {ending}"] = endings.get(f"{kind}: {ending}", 0) + 1
        writer.close()

    kinds = (
        ("slow headers", head[:20], head[20:]),
        ("slow body", head, bytes(900)),
        ("half body", head + bytes(500), b""),
        ("hang-up", head + bytes(500), b"\0"),
    )
    await asyncio.gather(*(one(*kind) for kind in kinds for _ in range(SLOW_CLIENTS)))
    return endings


def _head(service: Service, length: int, path: str = PATH) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {service.token}\r\n"
        f"Content-Type: {OCTETS}\r\nAccept: {OCTETS}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()

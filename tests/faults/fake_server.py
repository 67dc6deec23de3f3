"""A server of a few lines that predicts from a table: quick to start, and easy to set up."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np

from diagonalflip.wire import WIRE_VERSION, Images, unpack

TABLE = np.random.default_rng(7).normal(size=(16, 4)).astype(np.float32)
"""Predictions by image number, ``float32[16, 4]``."""

FLIPPED = "application/vnd.diagonalflip.packed"
INFO = {
    "Flip-Model-Version": "1.0",
    "Flip-Model-Digest": "d" * 64,
    "Flip-Flips": "16",
    "Flip-Wire-Version": WIRE_VERSION,
    "Flip-Device": "cpu",
}
DESCRIPTION: dict[str, Any] = {
    "version": "1.0",
    "flips": 16,
    "model_digest": "d" * 64,
    "wire_version": WIRE_VERSION,
    "workers": 2,
    "device": "cpu",
    "device_name": "CPU",
    "runtime": "a table",
    "max_images": 1 << 20,
    "max_explained_images": 4096,
    "largest_deviation": 0.0,
    "batch_invariant": True,
}


def response(status: int, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    """Headers by lower-case name, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    pairs = (line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    return headers, await reader.readexactly(int(headers.get("content-length", 0)))


@dataclass
class FakeServer:
    """Answers like the real one, from ``TABLE``."""

    max_images: int = 1 << 20  # more are answered 413
    publishes: bool = True  # whether that 413 says ``Flip-Max-Images``
    counts: list[int] = field(default_factory=list)  # images of every request so far
    headers: list[dict[str, str]] = field(default_factory=list)  # of every request so far

    def answer(self, headers: dict[str, str], body: bytes) -> bytes:
        if not body:
            description = json.dumps(DESCRIPTION | {"max_images": self.max_images})
            return response(200, {"Content-Type": "application/json"}, description.encode())
        odd = "padding=4" in headers["content-type"]
        images = Images(body, 2 * len(body) - odd)
        self.counts.append(images.count)
        self.headers.append(headers)
        if images.count > self.max_images:
            limit = {"Flip-Max-Images": str(self.max_images)} if self.publishes else {}
            return response(413, limit, b"")
        predictions = TABLE[unpack(images)]
        content_type, content = "application/octet-stream", predictions.astype("<f4").tobytes()
        if headers["accept"] == FLIPPED:
            content_type = FLIPPED + ("; padding=4" if odd else "")
            content = np.packbits(predictions >= 0.5).tobytes()
        told = INFO | {"Content-Type": content_type, "Flip-Images": str(images.count)}
        return response(200, told, content)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(self.answer(*await read_request(reader)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextmanager
def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serves connections with ``serve(reader, writer)`` in a thread; gives the URL."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    served: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served[writer] = loop.create_task(serve(reader, writer))

    start = asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    server = asyncio.run_coroutine_threadsafe(start, loop).result(10)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        try:
            stopping = _stop(server, served)
            asyncio.run_coroutine_threadsafe(stopping, loop).result(10)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


async def _stop(
    server: asyncio.Server, served: dict[asyncio.StreamWriter, asyncio.Task[None]]
) -> None:
    """Ends whatever is still served, and waits until every socket is closed."""
    for _ in range(3):  # a connection that is there is accepted: close() would leak its transport
        await asyncio.sleep(0)
    server.close()
    # What asyncio is accepting just now becomes served; cancelled, it would leak its socket.
    ours = {asyncio.current_task(), *served.values()}
    if accepting := asyncio.all_tasks() - ours:
        await asyncio.wait(accepting, timeout=5)  # a client that hangs in its handshake
    for writer, task in served.items():
        task.cancel()
        writer.transport.abort()
    closed = (writer.wait_closed() for writer in served)
    await asyncio.gather(*served.values(), *closed, return_exceptions=True)


def expected_flips(numbers: np.typing.ArrayLike) -> np.typing.NDArray[np.uint8]:
    """Flips of ``TABLE``, ``uint8[n, 2, 2]``."""
    bits: np.typing.NDArray[np.uint8] = (TABLE[np.asarray(numbers)] >= 0.5).astype(np.uint8)
    return bits.reshape(-1, 2, 2)

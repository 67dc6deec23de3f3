"""The load driver that compares every answer, in asyncio. ``wrk`` is for timed figures."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.workloads import Exchange, Workload
from diagonalflip.wire import OCTETS

PATH = "/predictions/diagonal_flip"
TIMEOUT_S = 30
READ_LIMIT_BYTES = 1 << 22


@dataclass
class Address:
    """A server on loopback."""

    port: int
    path: str = PATH  # of its predictions; ``{}`` is the length of an answer
    token: str = ""  # that it wants, if any
    certificate: Path | None = None  # that it has, if it speaks TLS

    @property
    def url(self) -> str:
        """URL of the port."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    def path_of(self, workload: Workload) -> str:
        """Return the path to send ``workload`` to."""
        return self.path.format(workload.answer_bytes)

    def tls(self) -> ssl.SSLContext | None:
        """Return TLS 1.3 that trusts this server's certificate alone; None for plain HTTP."""
        if self.certificate is None:
            return None
        context = ssl.create_default_context(cafile=self.certificate)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context


@dataclass
class Outcome:
    """Results of a load."""

    requests: int = 0  # answers that arrived whole while it was timed
    elapsed_s: float = 0.0  # seconds that the run took
    wrong: int = 0  # answers with another status than 200 or another body
    errors: int = 0  # connections that failed, and answers that did not come in time
    compared: int = 0  # answers whose bodies were compared
    # Microseconds by ``p50``, ``p99`` and ``max``.
    latency_us: dict[str, float] = field(default_factory=dict)
    least_wire_bytes: int = 0  # bytes of the shortest answer with its head; 0 if not known
    statuses: Counter[str] = field(default_factory=Counter)  # how often each status came

    @property
    def requests_per_s(self) -> float:
        """Whole answers per second."""
        return self.requests / self.elapsed_s if self.elapsed_s else 0.0

    def add(self, check: Outcome) -> None:
        """Count what was compared before or after, too; what was timed stays as it is."""
        self.wrong += check.wrong
        self.errors += check.errors
        self.compared += check.compared
        self.statuses += check.statuses


def run_python(
    address: Address,
    workload: Workload,
    work: list[Exchange],
    *,
    seconds: float = TIMEOUT_S,
    requests: int = sys.maxsize,
) -> Outcome:
    """Send ``work`` in turn over all connections, and compare every answer with its request.

    It stops sending after ``seconds``, or so many ``requests``.
    """
    head = (
        f"POST {address.path_of(workload)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: {OCTETS}\r\nAccept: {workload.accept}\r\n"
        f"Content-Length: {workload.images // 2}\r\n"
        + (f"Authorization: Bearer {address.token}\r\n" if address.token else "")
    ).encode()
    half, tls = trace_half(), address.tls()
    outcome, latencies_s = Outcome(), list[float]()
    sent = 0

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        sent += 1
        each = work[sent % len(work)]
        trace = f"traceparent: 00-{half}{sent:016x}-{half}-01\r\n" if workload.traced else ""
        started = time.perf_counter()
        writer.write(b"%b%b\r\n%b" % (head, trace.encode(), each.payload))
        status, body, wire_bytes = await read_answer(reader)
        latencies_s.append(time.perf_counter() - started)
        outcome.statuses[status] += 1
        outcome.wrong += status != "200" or not each.judge(body)
        outcome.least_wire_bytes = min(outcome.least_wire_bytes or wire_bytes, wire_bytes)

    async def connection(deadline: float) -> None:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", address.port, limit=READ_LIMIT_BYTES, ssl=tls
            )
        except OSError:
            outcome.errors += 1
            return
        try:
            while sent < requests and time.perf_counter() < deadline:
                async with asyncio.timeout(TIMEOUT_S):
                    await exchange(reader, writer)
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            outcome.errors += 1  # timeouts are OSErrors, broken HTTP is a ValueError
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()  # TLS says goodbye, which takes a while

    async def run() -> None:
        started = time.perf_counter()
        deadline = started + seconds
        await asyncio.gather(*(connection(deadline) for _ in range(workload.connections)))
        outcome.elapsed_s = time.perf_counter() - started

    asyncio.run(run())
    outcome.requests = outcome.compared = len(latencies_s)
    if latencies_s:
        p50, p99, most = np.percentile(latencies_s, [50, 99, 100]) * 1e6
        outcome.latency_us = {"p50": float(p50), "p99": float(p99), "max": float(most)}
    return outcome


def trace_half() -> str:
    """Return the first half of all trace ids of one run, so that no two runs share any."""
    return secrets.token_hex(8)


async def read_answer(reader: asyncio.StreamReader) -> tuple[str, bytes, int]:
    """Return status, body and bytes on the wire of the next answer, which has a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length is None:
        raise ValueError(f"no length in {head!r}")
    body = await reader.readexactly(int(length[1]))
    return head.split()[1].decode(), body, len(head) + len(body)

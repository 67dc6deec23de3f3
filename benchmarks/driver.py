"""The load driver that compares every answer: asyncio. ``wrk`` is for timed figures.

wrk is fast, but knows no answer from another unless a script looks, and a script that looks
costs nginx half of its W4. So no script looks while wrk is timed: there its own count of
statuses and bytes is checked. Right before, wrk runs with a script that compares every answer
(that is the warm-up too), and before and after this module's own driver pairs each answer
with its request, which wrk cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import Exchange, Workload
from diagonalflip.wire import OCTETS

TIMEOUT_S = 30
READ_LIMIT_BYTES = 1 << 22


@dataclass(frozen=True)
class Address:
    """Port and path of a server on loopback.

    Attributes:
        port: Where it listens.
        path: Of its predictions.
        token: That it wants, if any.
        certificate: That it has, if it speaks TLS.
    """

    port: int
    path: str
    token: str = ""
    certificate: Path | None = None

    @property
    def url(self) -> str:
        """The URL of its predictions."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}{self.path}"

    def tls(self) -> ssl.SSLContext | None:
        """Return TLS 1.3 that trusts this server's certificate alone; None for plain HTTP."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.certificate)
        return context


@dataclass
class Outcome:
    """Results of one run of a driver.

    Attributes:
        requests: Answers that arrived whole.
        elapsed_s: Seconds that the run took.
        wrong: Answers with another status than 200 or another body.
        errors: Connections that failed, and answers that did not come in time.
        compared: Answers whose bodies were compared.
        latency_us: Microseconds by ``p50``, ``p99`` and ``max``.
        least_wire_bytes: Bytes of the shortest answer with its head; 0 if not known.
    """

    requests: int = 0
    elapsed_s: float = 0.0
    wrong: int = 0
    errors: int = 0
    compared: int = 0
    latency_us: dict[str, float] = field(default_factory=dict)
    least_wire_bytes: int = 0

    @property
    def requests_per_s(self) -> float:
        """Whole answers per second."""
        return self.requests / self.elapsed_s if self.elapsed_s else 0.0


def run_python(
    address: Address,
    workload: Workload,
    work: list[Exchange],
    *,
    seconds: float = TIMEOUT_S,
    requests: int | None = None,
) -> Outcome:
    """Sends ``work`` in turn over all connections, and compares every answer with its request.

    Args:
        address: The server.
        workload: The load.
        work: Payloads and their judges.
        seconds: When to stop sending.
        requests: How many to send at most.
    """
    return asyncio.run(_Drive(address, workload, work, seconds, requests).run())


class _Drive:
    def __init__(
        self,
        address: Address,
        workload: Workload,
        work: list[Exchange],
        seconds: float,
        requests: int | None,
    ) -> None:
        head = (
            f"POST {address.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {OCTETS}\r\n"
            f"Accept: {workload.accept}\r\nContent-Length: {workload.images // 2}\r\n"
            + (f"Authorization: Bearer {address.token}\r\n" if address.token else "")
        ).encode()
        self._head, self._work = head, work
        self._traces = trace_half() if workload.traced else ""
        self._port, self._tls = address.port, address.tls()
        self._connections = workload.connections
        self._left = requests if requests is not None else 1 << 62
        self._seconds = seconds
        self._sent = 0
        self._latencies_s: list[float] = []
        self._outcome = Outcome()

    async def run(self) -> Outcome:
        started = time.perf_counter()
        deadline = started + self._seconds
        await asyncio.gather(*(self._connection(deadline) for _ in range(self._connections)))
        outcome = self._outcome
        outcome.elapsed_s = time.perf_counter() - started
        outcome.requests = outcome.compared = len(self._latencies_s)
        if self._latencies_s:
            p50, p99, most = np.percentile(self._latencies_s, [50, 99, 100]) * 1e6
            outcome.latency_us = {"p50": float(p50), "p99": float(p99), "max": float(most)}
        return outcome

    async def _connection(self, deadline: float) -> None:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=READ_LIMIT_BYTES, ssl=self._tls
            )
        except OSError:
            self._outcome.errors += 1
            return
        try:
            while self._left > 0 and time.perf_counter() < deadline:
                self._left -= 1
                async with asyncio.timeout(TIMEOUT_S):
                    await self._exchange(reader, writer)
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            self._outcome.errors += 1  # timeouts are OSErrors, broken HTTP is a ValueError
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()  # TLS says goodbye, which takes a while

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = self._work[self._sent % len(self._work)]
        self._sent += 1
        trace = ""
        if self._traces:
            trace = f"traceparent: 00-{self._traces}{self._sent:016x}-{self._traces}-01\r\n"
        request = b"%b%b\r\n%b" % (self._head, trace.encode(), exchange.payload)
        started = time.perf_counter()
        writer.write(request)
        status, body, wire_bytes = await read_answer(reader)
        self._latencies_s.append(time.perf_counter() - started)
        if status != 200 or not exchange.judge(body):
            self._outcome.wrong += 1
        least = self._outcome.least_wire_bytes
        self._outcome.least_wire_bytes = min(least or wire_bytes, wire_bytes)


def trace_half() -> str:
    """Return the first half of all trace ids of one run, so that no two runs share any."""
    return secrets.token_hex(8)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, int]:
    """Status, body and bytes on the wire of the next answer, chunked or not."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    if "content-length" in fields:
        body = await reader.readexactly(int(fields["content-length"]))
    elif fields.get("transfer-encoding") == "chunked":
        chunks = []
        while size := int((await reader.readline()).partition(b";")[0], 16):
            chunks.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        body = b"".join(chunks)
    else:
        raise ValueError(f"no length in {head!r}")
    return int(status.split()[1]), body, len(head) + len(body)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All of an outcome, for the results."""
    return asdict(outcome) | {"requests_per_s": outcome.requests_per_s}

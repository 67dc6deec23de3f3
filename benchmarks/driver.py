"""Two load drivers: wrk for timed figures, and asyncio where every answer must be compared.

wrk is fast, but knows no answer from another unless a script looks, and a script that looks
costs nginx half of its W4. So no script looks while wrk is timed: there its own count of
statuses and bytes is checked. Right before, wrk runs with a script that compares every answer
(that is the warm-up too), and before and after this module's own driver pairs each answer
with its request, which wrk cannot.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import Exchange, Predictions, Rule, Workload, exchanges
from diagonalflip.wire import OCTETS

SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT_S = 30
READ_LIMIT_BYTES = 1 << 22


@dataclass(frozen=True)
class Address:
    """Port and path of a server on loopback, and its token, if it wants one."""

    port: int
    path: str
    token: str = ""


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


def wrk_is_here() -> bool:
    """Return whether wrk is installed."""
    return shutil.which("wrk") is not None


def run_wrk(
    address: Address, workload: Workload, seconds: int, job: Path, *, compare: Rule | None
) -> Outcome:
    """Runs wrk with one thread on the payloads in ``job``.

    Args:
        address: The server.
        workload: The load.
        seconds: How long.
        job: A folder that ``write_job`` filled.
        compare: Compare every answer so, else none.
    """
    mode = compare.value if compare is not None else "none"
    length = str(workload.answer_bytes)
    finished = subprocess.run(
        [
            *("wrk", "--threads", "1", "--connections", str(workload.connections)),
            *("--duration", f"{seconds}s", "--timeout", f"{TIMEOUT_S}s", "--script", str(SCRIPT)),
            f"http://127.0.0.1:{address.port}{address.path}",
        ],
        env=os.environ
        | {"BENCH_JOB": str(job), "BENCH_COMPARE": mode, "BENCH_LENGTH": length}
        | {"BENCH_ACCEPT": workload.accept, "BENCH_CONTENT": OCTETS}
        | {"BENCH_TOKEN": address.token},
        capture_output=True,
        text=True,
        timeout=seconds + TIMEOUT_S + 60,
        check=False,
    )
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    if finished.returncode or not lines:
        raise RuntimeError(f"wrk: {finished.stderr or finished.stdout}")
    found: dict[str, Any] = json.loads(lines[-1])
    least_bytes = int((job / "least_wire_bytes").read_text())
    # Counts of bytes include answers cut off by the end, so this errs on the kind side.
    short = max(0, found["requests"] * least_bytes - found["bytes"])
    return Outcome(
        requests=found["requests"],
        elapsed_s=found["elapsed_us"] / 1e6,
        wrong=found["wrong"] + found["bad_status"] + -(-short // max(1, workload.answer_bytes)),
        errors=found["errors"],
        compared=found["compared"],
        latency_us={name: found[name] for name in ("p50", "p99", "max")},
    )


def drive(
    address: Address,
    workload: Workload,
    predict: Callable[[bytes], Predictions],
    seconds: int,
    sample: Callable[[], Any] = lambda: None,
) -> tuple[Outcome, Any]:
    """Times a workload, by wrk where that is; before and after, every answer is compared.

    Args:
        address: The server.
        workload: The load.
        predict: ONNX Runtime.
        seconds: How long.
        sample: Called meanwhile.

    Returns:
        What was timed, and what ``sample`` returned.
    """
    work = exchanges(workload, Rule.TOLERANCE, predict)
    check = partial(run_python, address, workload, work, requests=4 * workload.connections + 16)
    before = check()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as pool:
        load = partial(run_python, address, workload, work, seconds=seconds)
        if wrk_is_here() and not before.wrong:
            write_job(Path(name), work, before.least_wire_bytes)
            load = partial(run_wrk, address, workload, seconds, Path(name), compare=None)
        timed = pool.submit(load)
        sampled = sample()
    for outcome in (before, timed.result(), check()):
        refuse_failures(outcome, workload)
    return timed.result(), sampled


def write_job(job: Path, work: list[Exchange], least_wire_bytes: int) -> None:
    """Writes what wrk sends, and answers that were right, where its script finds them."""
    job.mkdir(parents=True, exist_ok=True)
    # Heads differ a little in length: dates, times, request ids.
    (job / "least_wire_bytes").write_text(str(max(0, least_wire_bytes - 16)))
    for turn, exchange in enumerate(work, start=1):
        (job / f"{turn}.request").write_bytes(exchange.payload)
        (job / f"{turn}.answer").write_bytes(exchange.judge.seen)


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
            + "\r\n"
        ).encode()
        self._work = [(head + each.payload, each.judge) for each in work]
        self._port, self._connections = address.port, workload.connections
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
                "127.0.0.1", self._port, limit=READ_LIMIT_BYTES
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

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, judge = self._work[self._sent % len(self._work)]
        self._sent += 1
        started = time.perf_counter()
        writer.write(request)
        status, body, wire_bytes = await read_answer(reader)
        self._latencies_s.append(time.perf_counter() - started)
        if status != 200 or not judge(body):
            self._outcome.wrong += 1
        least = self._outcome.least_wire_bytes
        self._outcome.least_wire_bytes = min(least or wire_bytes, wire_bytes)


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


def refuse_failures(outcome: Outcome, workload: Workload) -> None:
    """Ends the run if an answer was wrong or missing."""
    if outcome.wrong or outcome.errors or not outcome.requests:
        raise SystemExit(f"{workload.name}: {outcome.wrong} wrong, {outcome.errors} failed")


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All of an outcome, for the results."""
    return asdict(outcome) | {"requests_per_s": outcome.requests_per_s}

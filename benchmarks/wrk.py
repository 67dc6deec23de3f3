"""Times a load with wrk, where that is installed; what it sends and expects lies in a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.driver import TIMEOUT_S, Address, Outcome, run_python, trace_half
from benchmarks.workloads import Exchange, Predictions, Rule, Workload, exchanges
from diagonalflip.wire import OCTETS

SCRIPT = Path(__file__).with_name("wrk.lua")


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
            address.url,
        ],
        env=os.environ
        | {"BENCH_JOB": str(job), "BENCH_COMPARE": mode, "BENCH_LENGTH": length}
        | {"BENCH_ACCEPT": workload.accept, "BENCH_CONTENT": OCTETS}
        | {"BENCH_TOKEN": address.token, "BENCH_TRACES": trace_half() if workload.traced else ""},
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


def write_job(job: Path, work: list[Exchange], least_wire_bytes: int) -> None:
    """Writes what wrk sends, and answers that were right, where its script finds them."""
    job.mkdir(parents=True, exist_ok=True)
    # Heads differ a little in length: dates, times, request ids.
    (job / "least_wire_bytes").write_text(str(max(0, least_wire_bytes - 16)))
    for turn, exchange in enumerate(work, start=1):
        (job / f"{turn}.request").write_bytes(exchange.payload)
        (job / f"{turn}.answer").write_bytes(exchange.judge.seen)


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
        reject_failures(outcome, workload)
    return timed.result(), sampled


def reject_failures(outcome: Outcome, workload: Workload) -> None:
    """Ends the run if an answer was wrong or missing."""
    if outcome.wrong or outcome.errors or not outcome.requests:
        raise SystemExit(f"{workload.name}: {outcome.wrong} wrong, {outcome.errors} failed")

"""Times a load with wrk, if that is installed, and compares every answer before and after.

wrk is fast, but knows no answer from another unless a script looks, and a script that looks
costs nginx half of its W4. So no script looks: wrk counts statuses and bytes, and the driver of
this project pairs each answer with its request right before and after.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.driver import TIMEOUT_S, Address, Outcome, run_python, trace_half
from benchmarks.workloads import Exchange, Predictions, Workload, exchanges
from diagonalflip.wire import OCTETS

SCRIPT = Path(__file__).with_name("wrk.lua")
HEADS_DIFFER_BYTES = 16  # heads differ a little in length: dates, times, request ids


def wrk_is_here() -> bool:
    """Return whether wrk is installed."""
    return shutil.which("wrk") is not None


def run_wrk(
    address: Address, workload: Workload, work: list[Exchange], seconds: int, least_wire_bytes: int
) -> Outcome:
    """Run wrk with one thread; ``least_wire_bytes`` are those of the shortest answer and head."""
    command = ["wrk", "--threads", "1", "--connections", str(workload.connections)]
    command += ["--duration", f"{seconds}s", "--timeout", f"{TIMEOUT_S}s"]
    with tempfile.TemporaryDirectory() as job:
        for turn, exchange in enumerate(work, start=1):
            (Path(job) / f"{turn}.request").write_bytes(exchange.payload)
        finished = subprocess.run(
            [*command, "--script", str(SCRIPT), address.url + address.path_of(workload)],
            env=os.environ
            | {"BENCH_JOB": job, "BENCH_ACCEPT": workload.accept, "BENCH_CONTENT": OCTETS}
            | {"BENCH_TOKEN": address.token}
            | {"BENCH_TRACES": trace_half() if workload.traced else ""},
            capture_output=True,
            text=True,
            timeout=seconds + TIMEOUT_S + 60,
            check=False,
        )
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    if finished.returncode or not lines:
        raise RuntimeError(f"wrk: {finished.stderr or finished.stdout}")
    found: dict[str, Any] = json.loads(lines[-1])
    # Counts of bytes include answers cut off by the end, so this errs on the kind side.
    short = found["requests"] * (least_wire_bytes - HEADS_DIFFER_BYTES) - found["bytes"]
    bad = found["bad_status"]
    return Outcome(
        requests=found["requests"],
        elapsed_s=found["elapsed_us"] / 1e6,
        wrong=bad + -(-max(0, short) // max(1, workload.answer_bytes)),
        errors=found["errors"],
        latency_us={name: found[name] for name in ("p50", "p99", "max")},
        statuses=Counter({"below 400": found["requests"] - bad, "400 and more": bad}),
    )


def drive(
    address: Address,
    workload: Workload,
    work: list[Exchange],
    seconds: int,
    sample: Callable[[], Any] = lambda: None,
) -> tuple[Outcome, Any]:
    """Time a workload, by wrk if it is installed; before and after, every answer is compared.

    Returns:
        What was timed and compared, and what ``sample`` returned, which is called meanwhile.
    """
    check = partial(run_python, address, workload, work, requests=4 * workload.connections + 16)
    before = check()
    load = partial(run_python, address, workload, work, seconds=seconds)
    if wrk_is_here() and not before.wrong:
        load = partial(run_wrk, address, workload, work, seconds, before.least_wire_bytes)
    with ThreadPoolExecutor(1) as pool:
        timed = pool.submit(load)
        sampled = sample()
    outcome = timed.result()
    outcome.add(before)
    outcome.add(check())
    return outcome, sampled


def drive_right(
    address: Address,
    workload: Workload,
    predict: Callable[[bytes], Predictions],
    seconds: int,
    sample: Callable[[], Any] = lambda: None,
) -> tuple[Outcome, Any]:
    """Time a workload as ``drive`` does, and end the run if an answer was wrong or missing."""
    outcome, sampled = drive(address, workload, exchanges(workload, predict), seconds, sample)
    reject_failures(outcome, workload)
    return outcome, sampled


def reject_failures(outcome: Outcome, workload: Workload) -> None:
    """End the run if an answer was wrong or missing."""
    if outcome.wrong or outcome.errors or not outcome.requests:
        raise SystemExit(f"{workload.name}: {outcome.wrong} wrong, {outcome.errors} failed")

"""Memory and descriptors under W4 for minutes: are they flat?

    python -m benchmarks.soak --minutes 10

Both ports are driven in turn, a slot at a time; answers are compared between the slots, and the
resident memory and open descriptors of Java and the workers are read there, when no request is
under way. It ends with 1 if an answer was wrong, or if the last third of the run
held more than the second by ``TOLERATED_GROWTH`` or by a descriptor. The first third is warm-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import machine
from benchmarks.driver import Address, run_python
from benchmarks.report import table
from benchmarks.servers import PATH, first_export, our_server
from benchmarks.workloads import WORKLOADS, Exchange, Rule, exchanges, load_reference
from supervisor import readiness, store
from supervisor.torchserve import TorchServe

SLOT_S = 10.0
TOLERATED_GROWTH = 1.02
MIB = 1 << 20
RESULTS = Path(__file__).with_name("results") / "soak.md"
W4 = WORKLOADS["W4"]

Sample = dict[str, Any]


def main() -> int:
    """Runs the soak; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} in results/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, our_server(Path(folder)) as server:
        readiness.wait(server, store.check(first_export()))
        samples = soak(server, options.minutes * 60)
    growth = compare_thirds(samples)
    totals = {name: sum(each[name] for each in samples) for name in ("requests", "wrong", "errors")}
    rows = [
        [name.replace("_mib", ", MiB").replace("_", " "), f"{before:,.1f}", f"{after:,.1f}"]
        for name, (before, after) in growth.items()
    ]
    figures = (
        f"{totals['requests']:,} requests of W4 in {options.minutes:g} minutes, every answer "
        f"compared: {totals['wrong']} wrong, {totals['errors']} failed. Medians:\n\n"
        + table(["", "second third", "last third"], rows)
    )
    print(figures)
    if options.save:
        machine.save(RESULTS, "Soak", figures)
    return int(grew(growth) or totals["wrong"] > 0 or totals["errors"] > 0)


def soak(server: TorchServe, seconds: float) -> list[Sample]:
    """Drives both ports in turn for ``seconds``; one sample a slot."""
    settings = server.settings
    work = exchanges(W4, Rule.TOLERANCE, load_reference(first_export() / "diagonal_flip.onnx"))
    started = time.monotonic()
    samples: list[Sample] = []
    while time.monotonic() - started < seconds:
        port = (settings.port, settings.torchserve_port)[len(samples) % 2]
        samples.append(slot(port, work) | memory(server.process.pid))
        samples[-1]["at_s"] = time.monotonic() - started
        print(json.dumps(samples[-1]), flush=True)
    return samples


def slot(port: int, work: list[Exchange]) -> Sample:
    """Ten seconds of W4, every answer compared."""
    outcome = run_python(Address(port, PATH), W4, work, seconds=SLOT_S)
    return {"requests": outcome.requests, "wrong": outcome.wrong, "errors": outcome.errors}


def memory(java: int) -> Sample:
    """MiB and descriptors of Java, and of all workers together.

    Resident, which nobody else changes: a proportional share grows when another process ends.
    """
    process = psutil.Process(java)
    workers = process.children(recursive=True)
    return {
        "java_mib": process.memory_info().rss / MIB,
        "workers_mib": sum(worker.memory_info().rss for worker in workers) / MIB,
        "java_descriptors": process.num_fds(),
        "workers_descriptors": sum(worker.num_fds() for worker in workers),
    }


def compare_thirds(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """Medians of the second and of the last third of a run, by what was sampled."""
    third = len(samples) // 3
    if not third:
        raise SystemExit("too short to compare: at least a minute")
    names = ("java_mib", "workers_mib", "java_descriptors", "workers_descriptors")

    def median(name: str, some: list[Sample]) -> float:
        return float(statistics.median(sample[name] for sample in some))

    return {
        name: (median(name, samples[third:-third]), median(name, samples[-third:]))
        for name in names
    }


def grew(growth: dict[str, tuple[float, float]]) -> bool:
    """Return whether anything is more than it was."""
    return any(
        after > (before * TOLERATED_GROWTH if name.endswith("_mib") else before)
        for name, (before, after) in growth.items()
    )


if __name__ == "__main__":
    sys.exit(main())

"""Memory and descriptors under large requests for minutes: are they flat?

    python -m benchmarks.soak --minutes 10

Both ports are driven in turn, a slot at a time: the HTTP listener by W4, TorchServe's by a
quarter of the images. Between the slots, when no request is under way, the resident memory and open
descriptors of every part are read. It ends with 1 if an answer was wrong, or if the last third
of the run held more than the second by ``TOLERATED_GROWTH`` or by a descriptor. The first third
is warm-up.
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
from benchmarks.measures import table
from benchmarks.running import PATH, Ours, first_export, our_server
from benchmarks.workloads import QUARTER, WORKLOADS, Rule, exchanges, load_reference

SLOT_S = 10.0
TOLERATED_GROWTH = 1.02
MIB = 1 << 20
RESULTS = Path(__file__).with_name("results") / "soak.md"
PARTS = ("supervisor", "workers", "java", "java_workers")
TURNS = (("PORT", WORKLOADS["W4"]), ("TORCHSERVE_PORT", QUARTER))

Sample = dict[str, Any]


def main() -> int:
    """Runs the soak; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} in results/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, our_server(Path(folder)) as server:
        samples = soak(server, options.minutes * 60)
    growth = compare_thirds(samples)
    totals = {name: sum(each[name] for each in samples) for name in ("requests", "wrong", "errors")}
    rows = [
        [name.replace("_mib", ", MiB").replace("_", " "), f"{before:,.1f}", f"{after:,.1f}"]
        for name, (before, after) in growth.items()
    ]
    figures = (
        f"{totals['requests']:,} large requests in {options.minutes:g} minutes, every answer "
        f"compared: {totals['wrong']} wrong, {totals['errors']} failed. Medians:\n\n"
        + table(["", "second third", "last third"], rows)
    )
    print(figures)
    if options.save:
        machine.save(RESULTS, "Soak", figures)
    return int(grew(growth) or totals["wrong"] > 0 or totals["errors"] > 0)


def soak(server: Ours, seconds: float) -> list[Sample]:
    """Drives both ports in turn for ``seconds``; one sample a slot."""
    predict = load_reference(first_export() / "diagonal_flip.onnx")
    work = {load: exchanges(load, Rule.TOLERANCE, predict) for _, load in TURNS}
    started = time.monotonic()
    samples: list[Sample] = []
    while time.monotonic() - started < seconds:
        port, load = TURNS[len(samples) % len(TURNS)]
        address = Address(server.ports[port], PATH)
        outcome = run_python(address, load, work[load], seconds=SLOT_S)
        counts = {name: getattr(outcome, name) for name in ("requests", "wrong", "errors")}
        samples.append(counts | memory(server))
        samples[-1]["at_s"] = time.monotonic() - started
        print(json.dumps(samples[-1]), flush=True)
    return samples


def memory(server: Ours) -> Sample:
    """MiB and descriptors of each of ``PARTS``.

    Resident, which nobody else changes: a proportional share grows when another process ends.
    """
    java = server.java()
    processes: tuple[list[psutil.Process], ...]
    processes = ([server.process], server.workers(), [java], java.children())
    sample: Sample = {}
    for part, some in zip(PARTS, processes, strict=True):
        sample[f"{part}_mib"] = sum(each.memory_info().rss for each in some) / MIB
        sample[f"{part}_descriptors"] = sum(each.num_fds() for each in some)
    return sample


def compare_thirds(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """Medians of the second and of the last third of a run, by what was sampled."""
    third = len(samples) // 3
    if not third:
        raise SystemExit("too short to compare: at least a minute")
    names = [f"{part}_{what}" for what in ("mib", "descriptors") for part in PARTS]

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

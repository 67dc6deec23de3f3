"""Memory and descriptors under large requests for minutes: are they flat?

    python -m benchmarks.soak --minutes 10

Both ports are driven in turn, a slot at a time: the HTTP listener by W4, TorchServe's by a
quarter of the images. Between the slots, when no request is under way, the resident memory and open
descriptors of every part are read. It ends with 1 if an answer was wrong, or if the last third
of the run held more than the second by ``TOLERATED_GROWTH`` or by a descriptor. The first third
is warm-up.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.driver import run_python
from benchmarks.measures import table
from benchmarks.running import Ours, first_export, ready
from benchmarks.workloads import QUARTER, WORKLOADS, exchanges, load_reference

SLOT_S = 10.0
TOLERATED_GROWTH = 1.02
RESULTS = Path(__file__).with_name("results") / "soak.md"
PARTS = ("supervisor", "workers", "java", "java_workers")
TURNS = (("PORT", WORKLOADS["W4"]), ("TORCHSERVE_PORT", QUARTER))

Sample = dict[str, float]


def main() -> int:
    """Run the soak; return the exit status."""
    parser = machine.parser(__doc__, RESULTS)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        ready(Path(folder), TORCHSERVE="1") as server,
    ):
        samples = soak(server, options.minutes * 60)
    third = len(samples) // 3
    if not third:
        raise SystemExit("too short to compare: at least a minute")
    requests, wrong, errors = (
        sum(sample[name] for sample in samples) for name in ("requests", "wrong", "errors")
    )
    rows, grew = [], False
    for name in [f"{part}_{what}" for what in ("mib", "descriptors") for part in PARTS]:
        before, after = (
            statistics.median(sample[name] for sample in some)
            for some in (samples[third:-third], samples[-third:])
        )
        told = name.replace("_mib", ", MiB").replace("_", " ")
        rows.append([told, f"{before:,.1f}", f"{after:,.1f}"])
        grew |= after > (before * TOLERATED_GROWTH if name.endswith("_mib") else before)
    figures = (
        f"{requests:,} large requests in {options.minutes:g} minutes, every answer "
        f"compared: {wrong} wrong, {errors} failed. Medians:\n\n"
        + table(["", "second third", "last third"], rows)
    )
    machine.show(RESULTS, "Soak", figures, save=options.save)
    return int(grew or wrong > 0 or errors > 0)


def soak(server: Ours, seconds: float) -> list[Sample]:
    """Drive both ports in turn for ``seconds``; return one sample for each slot."""
    predict = load_reference(first_export() / "diagonal_flip.onnx")
    work = {load: exchanges(load, predict) for _, load in TURNS}
    started = time.monotonic()
    samples: list[Sample] = []
    while time.monotonic() - started < seconds:
        port, load = TURNS[len(samples) % len(TURNS)]
        address = server.at(port)
        outcome = run_python(address, load, work[load], seconds=SLOT_S)
        counts = {name: getattr(outcome, name) for name in ("requests", "wrong", "errors")}
        samples.append(counts | memory(server) | {"at_s": time.monotonic() - started})
        print(json.dumps(samples[-1]), flush=True)
    return samples


def memory(server: Ours) -> Sample:
    """Return MiB and descriptors of each of ``PARTS``.

    Resident, which nobody else changes: a proportional share grows when another process ends.
    """
    java = server.java()
    processes: list[list[psutil.Process]]
    processes = [[server.process], server.workers(), [java], java.children()]
    sample: Sample = {}
    for part, some in zip(PARTS, processes, strict=True):
        sample[f"{part}_mib"] = sum(each.memory_info().rss for each in some) / (1 << 20)
        sample[f"{part}_descriptors"] = sum(each.num_fds() for each in some)
    return sample


if __name__ == "__main__":
    sys.exit(main())

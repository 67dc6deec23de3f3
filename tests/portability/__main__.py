"""Exports, loads, warms up and predicts on processors that we do not own, and compares.

    make portability
    python -m tests.portability --only host,haswell

Fails if a step fails, if a prediction deviates from the parity report by more than the
tolerance, or if an artifact has another digest on another processor. Whether an image gets
the same bits in every batch is reported, and not judged.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import machine
from tests.portability import matrix
from tests.portability.processors import PROCESSORS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.md")
PACKAGES = ("diagonalflip", "export", "handlers", "tests/portability")


def run_all(names: list[str]) -> list[matrix.Outcome]:
    """Runs the named processors, as many at a time as there are cores."""
    with tempfile.TemporaryDirectory(prefix="portability-") as folder:
        # The archive holds our code: an edit meanwhile would look like another digest.
        source = Path(folder) / "source"
        for package in PACKAGES:
            shutil.copytree(ROOT / package, source / package)

        def run(name: str) -> matrix.Outcome:
            began = time.monotonic()
            outcome = matrix.run(PROCESSORS[name], source, Path(folder) / name)
            told = outcome.failure or f"done in {time.monotonic() - began:.0f} s"
            print(f"==> {outcome.title}: {told}\n{outcome.output}".rstrip(), file=sys.stderr)
            return outcome

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(run, names))


def main() -> int:
    """Runs the matrix; returns 1 if it fails, 2 if this host lacks something."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PROCESSORS), help="processors to run")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    names = options.only.split(",")
    lacking = {PROCESSORS[name].lacking() for name in names} - {""}
    if lacking:
        print("; ".join(sorted(lacking)), file=sys.stderr)
        return 2
    outcomes = run_all(names)
    faults = matrix.faults(outcomes)
    print(matrix.report(outcomes))
    if options.save and not faults:
        machine.save(RESULTS, "Processors", matrix.report(outcomes))
    print("\n".join([f"FAILED: {fault}" for fault in faults] or ["The matrix passed"]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())

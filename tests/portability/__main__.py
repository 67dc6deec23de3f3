"""Exports, loads, warms up and predicts on processors that we do not own, and compares.

    make portability
    python -m tests.portability --only host,haswell

Fails if a step fails, if a prediction deviates from the parity report by more than the
tolerance, or if an artifact has another digest on another processor. Whether an image gets
the same bits in every batch is reported, and not judged.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.measures import table
from benchmarks.running import ROOT

RESULTS = Path(__file__).with_name("results.md")
ARM64 = ROOT / ".portability"
"""Folders that ``tests/portability/arm64.sh`` makes: ``root``, a Debian, and ``packages``."""
CODE = ("diagonalflip", "export", "handlers", "tests/portability")
STEP_TIMEOUT_S = 1200
TAIL_LINES = 15
ARTIFACTS = [f"diagonal_flip.{suffix}" for suffix in ("pt", "onnx", "x4.onnx", "mar")]
HEAD = ["processor", "vector code", "engine", "largest deviation", "same bits in every batch"]
HEAD += [f"`.{name.rpartition('.')[2]}`" for name in ARTIFACTS]

PROCESSORS = {
    "host": ("this host", ""),
    "nehalem": ("Intel Nehalem, no AVX", "qemu-x86_64 -cpu Nehalem"),
    "haswell": ("Intel Haswell", "qemu-x86_64 -cpu Haswell"),
    "epyc": ("AMD EPYC", "qemu-x86_64 -cpu EPYC"),
    "neoverse": ("ARM Neoverse N1", "qemu-aarch64 -cpu neoverse-n1 -L"),
}
"""Title in the table, and the command that emulates it; that of ARM64 gets its root."""


@dataclass(frozen=True)
class Outcome:
    """Results of one processor."""

    title: str  # of the processor
    # What the probe printed; empty if a step failed.
    found: dict[str, Any] = field(default_factory=dict)
    # SHA-256 by artifact; empty if a step failed.
    digests: dict[str, str] = field(default_factory=dict)
    failure: str = ""  # the step that failed, and why; empty if none did


def lacking(name: str) -> str:
    """Return what this host lacks for a processor, and the remedy; empty if nothing."""
    title, emulation = PROCESSORS[name]
    if not emulation:
        return ""
    emulator = emulation.split()[0]
    if platform.machine() != "x86_64":
        return f"{title} is emulated on x86_64 only; this host is {platform.machine()}"
    if not shutil.which(emulator):
        return f"Needs {emulator} (apt-get install qemu-user)"
    if name == "neoverse" and not (ARM64 / "packages/torch").is_dir():
        return "Needs an arm64 root (run tests/portability/arm64.sh)"
    return ""


def run(folder: Path, name: str) -> Outcome:
    """Export and probe on a processor, with the code in ``folder``, to a folder beside it."""
    title, emulation = PROCESSORS[name]
    # The archive's folder is flat: handlers import each other so.
    python, path = [*emulation.split(), sys.executable], "handlers"
    if name == "neoverse":
        python[-1:] = [str(ARM64 / "root"), str(ARM64 / "root/usr/bin/python3.11")]
        path += f"{os.pathsep}{ARM64 / 'packages'}"
    artifacts = str(folder / name)
    steps = {"export": ["--output", artifacts], "tests.portability.probe": [artifacts]}
    printed = failure = ""
    for module, arguments in steps.items():
        try:
            printed = subprocess.run(
                [*python, "-m", module, *arguments],
                cwd=folder / "source",
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=STEP_TIMEOUT_S,
                check=True,
            ).stdout
        except subprocess.TimeoutExpired:
            failure = f"{module} took over {STEP_TIMEOUT_S} s"
        except subprocess.CalledProcessError as error:
            failure = f"{module} ended with {error.returncode}"
            print(f"{title}:\n{_tail(error.stdout + error.stderr)}", file=sys.stderr)
        print(f"==> {title}: {failure or f'{module} done'}", file=sys.stderr, flush=True)
        if failure:
            return Outcome(title, failure=failure)
    manifest = json.loads((folder / name / "manifest.json").read_bytes())
    digests = {name: entry["sha256"] for name, entry in manifest["artifacts"].items()}
    return Outcome(title, json.loads(printed), digests)


def faults(outcomes: list[Outcome]) -> list[str]:
    """Return why the matrix fails, one reason per line; none if it passes. Bits do not count."""
    lines = [f"{each.title}: {each.failure}" for each in outcomes if each.failure]
    for outcome in outcomes:
        lines += [
            f"{outcome.title}: {engine['runtime']} deviates by {engine['deviation']:.3g}; "
            f"expected at most {outcome.found['tolerance']:g}"
            for engine in outcome.found.get("engines", [])
            if not engine["deviation"] <= outcome.found["tolerance"]
        ]
    for name in ARTIFACTS:
        digests = {each.digests[name] for each in outcomes if each.digests}
        if len(digests) > 1:
            lines.append(f"{name}: {len(digests)} different digests; expected the same on all")
    return lines


def report(outcomes: list[Outcome]) -> str:
    """Return the table in Markdown, a row for each processor and engine."""
    rows = []
    for outcome in outcomes:
        digests = [outcome.digests.get(name, "-")[:12] for name in ARTIFACTS]
        for engine in outcome.found.get("engines", []):
            bits = "yes" if engine["batch_invariant"] else "no"
            titles = [outcome.title, outcome.found["vector_code"], engine["runtime"]]
            rows.append([*titles, f"{engine['deviation']:.2e}", bits, *digests])
        if outcome.failure:
            rows.append([outcome.title, "-", f"FAILED: {outcome.failure}", "-", "-", *digests])
    return table(HEAD, rows)


def _tail(text: str) -> str:
    """Return the last lines, less qemu's warnings of features that it does not emulate."""
    lines = [line for line in text.splitlines() if "TCG doesn't support" not in line]
    return "\n".join(lines[-TAIL_LINES:])


def main() -> int:
    """Run the matrix; return 1 if it fails, 2 if this host lacks something."""
    parser = machine.parser(__doc__, RESULTS)
    parser.add_argument("--only", default=",".join(PROCESSORS), help="processors to run")
    options = parser.parse_args()
    names = options.only.split(",")
    if told := {lacking(name) for name in names} - {""}:
        print("; ".join(sorted(told)), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="portability-") as folder:
        # The archive holds our code: an edit meanwhile would look like another digest.
        for package in CODE:
            shutil.copytree(ROOT / package, Path(folder) / "source" / package)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = list(pool.map(partial(run, Path(folder)), names))
    failed = faults(outcomes)
    machine.show(RESULTS, "Processors", report(outcomes), save=options.save and not failed)
    print("\n".join([f"FAILED: {fault}" for fault in failed] or ["The matrix passed"]))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

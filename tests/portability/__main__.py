"""Exports, loads, warms up and predicts on processors that we do not own, and compares.

    make portability
    python -m tests.portability --only host,haswell

Fails if a step fails, if a prediction deviates from the parity report by more than the
tolerance, or if an artifact has another digest on another processor. Whether an image gets
the same bits in every batch is reported, and not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.measures import table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.md")
ARM64 = ROOT / ".portability"
"""Folders that ``tests/portability/arm64.sh`` makes: ``root``, a Debian, and ``packages``."""
CODE = ("diagonalflip", "export", "handlers", "tests/portability")
STEP_TIMEOUT_S = 1200
TAIL_LINES = 15
ARTIFACTS = [f"diagonal_flip.{suffix}" for suffix in ("pt", "onnx", "x4.onnx", "mar")]
HEAD = ["processor", "vector code", "engine", "largest deviation", "same bits in every batch"]
HEAD += [f"`.{name.rpartition('.')[2]}`" for name in ARTIFACTS]


@dataclass(frozen=True)
class Processor:
    """A processor, ours or emulated.

    Attributes:
        title: As the table calls it.
        python: The command of Python on it.
        packages: Those of that Python, if it is not this one.
    """

    title: str
    python: tuple[str, ...] = (sys.executable,)
    packages: Path | None = None

    def lacking(self) -> str:
        """Return what this host lacks, and the remedy; empty if nothing."""
        emulator = self.python[0]
        if emulator == sys.executable:
            return ""
        if platform.machine() != "x86_64":
            return f"{self.title} is emulated on x86_64 only; this host is {platform.machine()}"
        if not shutil.which(emulator):
            return f"Needs {emulator} (apt-get install qemu-user)"
        if self.packages and not (self.packages / "torch").is_dir():
            return "Needs an arm64 root (run tests/portability/arm64.sh)"
        return ""


def _x86(title: str, model: str) -> Processor:
    return Processor(title, ("qemu-x86_64", "-cpu", model, sys.executable))


PROCESSORS = {
    "host": Processor("this host"),
    "nehalem": _x86("Intel Nehalem, no AVX", "Nehalem"),
    "haswell": _x86("Intel Haswell", "Haswell"),
    "epyc": _x86("AMD EPYC", "EPYC"),
    "neoverse": Processor(
        "ARM Neoverse N1",
        (
            *("qemu-aarch64", "-cpu", "neoverse-n1", "-L", str(ARM64 / "root")),
            str(ARM64 / "root/usr/bin/python3.11"),
        ),
        ARM64 / "packages",
    ),
}


@dataclass(frozen=True)
class Outcome:
    """Results of one processor.

    Attributes:
        title: Of the processor.
        found: What the probe printed; empty if a step failed.
        digests: SHA-256 by artifact; empty if a step failed.
        failure: The step that failed, and why; empty if none did.
    """

    title: str
    found: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    failure: str = ""


def run(processor: Processor, source: Path, artifacts: Path) -> Outcome:
    """Export to ``artifacts`` and probe them, both on ``processor``.

    Args:
        processor: Ours or emulated.
        source: A copy of the code, the working directory of both steps.
        artifacts: A folder of this processor's own.
    """
    # The archive's folder is flat: handlers import each other so.
    paths = ["handlers", *([str(processor.packages)] if processor.packages else [])]
    steps = {"export": ["--output", str(artifacts)], "tests.portability.probe": [str(artifacts)]}
    printed = failure = ""
    for module, arguments in steps.items():
        try:
            finished = subprocess.run(
                [*processor.python, "-m", module, *arguments],
                cwd=source,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=STEP_TIMEOUT_S,
                check=True,
            )
        except subprocess.TimeoutExpired:
            failure = f"{module} took over {STEP_TIMEOUT_S} s"
        except subprocess.CalledProcessError as error:
            failure = f"{module} ended with {error.returncode}"
            print(f"{processor.title}:\n{_tail(error.stdout + error.stderr)}", file=sys.stderr)
        print(f"==> {processor.title}: {failure or f'{module} done'}", file=sys.stderr, flush=True)
        if failure:
            return Outcome(processor.title, failure=failure)
        printed = finished.stdout
    manifest = json.loads((artifacts / "manifest.json").read_bytes())
    digests = {name: entry["sha256"] for name, entry in manifest["artifacts"].items()}
    return Outcome(processor.title, json.loads(printed), digests)


def run_all(names: list[str]) -> list[Outcome]:
    """Run the named processors, as many at a time as there are cores."""
    with tempfile.TemporaryDirectory(prefix="portability-") as name:
        folder = Path(name)
        # The archive holds our code: an edit meanwhile would look like another digest.
        for package in CODE:
            shutil.copytree(ROOT / package, folder / "source" / package)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(
                pool.map(
                    lambda each: run(PROCESSORS[each], folder / "source", folder / each), names
                )
            )


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PROCESSORS), help="processors to run")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    names = options.only.split(",")
    if lacking := {PROCESSORS[name].lacking() for name in names} - {""}:
        print("; ".join(sorted(lacking)), file=sys.stderr)
        return 2
    outcomes = run_all(names)
    failed = faults(outcomes)
    print(report(outcomes))
    if options.save and not failed:
        machine.save(RESULTS, "Processors", report(outcomes))
    print("\n".join([f"FAILED: {fault}" for fault in failed] or ["The matrix passed"]))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

"""Runs export and probe on a processor, and judges what all of them found."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measures import table
from tests.portability.processors import Processor

STEP_TIMEOUT_S = 1200
TAIL_LINES = 15
ARTIFACTS = [f"diagonal_flip.{suffix}" for suffix in ("pt", "onnx", "x4.onnx", "mar")]
HEAD = ["processor", "vector code", "engine", "largest deviation", "same bits in every batch"]
HEAD += [f"`.{name.rpartition('.')[2]}`" for name in ARTIFACTS]


@dataclass(frozen=True)
class Outcome:
    """Results of one processor.

    Attributes:
        title: Of the processor.
        found: What the probe printed; empty if a step failed.
        digests: SHA-256 by artifact; empty if a step failed.
        failure: The step that failed, and why; empty if none did.
        output: Its last lines.
    """

    title: str
    found: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    failure: str = ""
    output: str = ""


def run(processor: Processor, source: Path, artifacts: Path) -> Outcome:
    """Exports to ``artifacts`` and probes them, both on ``processor``.

    Args:
        processor: Ours or emulated.
        source: A copy of the code, the working directory of both steps.
        artifacts: A folder of this processor's own.
    """
    steps = {"export": ["--output", str(artifacts)], "tests.portability.probe": [str(artifacts)]}
    printed = ""
    for module, arguments in steps.items():
        try:
            finished = subprocess.run(
                [*processor.command(), "-m", module, *arguments],
                cwd=source,
                env=processor.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=STEP_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(processor.title, failure=f"{module} took over {STEP_TIMEOUT_S} s")
        if finished.returncode:
            failure = f"{module} ended with {finished.returncode}"
            output = _tail(finished.stdout + finished.stderr)
            return Outcome(processor.title, failure=failure, output=output)
        printed = finished.stdout
    manifest = json.loads((artifacts / "manifest.json").read_bytes())
    digests = {name: entry["sha256"] for name, entry in manifest["artifacts"].items()}
    return Outcome(processor.title, json.loads(printed), digests)


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


def rows(outcomes: list[Outcome]) -> list[list[str]]:
    """Rows of the table, one for each processor and engine."""
    lines = []
    for outcome in outcomes:
        digests = [outcome.digests.get(name, "-")[:12] for name in ARTIFACTS]
        for engine in outcome.found.get("engines", []):
            bits = "yes" if engine["batch_invariant"] else "no"
            deviation = f"{engine['deviation']:.2e}"
            titles = [outcome.title, outcome.found["vector_code"], engine["runtime"]]
            lines.append([*titles, deviation, bits, *digests])
        if outcome.failure:
            lines.append([outcome.title, "-", f"FAILED: {outcome.failure}", "-", "-", *digests])
    return lines


def report(outcomes: list[Outcome]) -> str:
    """The table, in Markdown."""
    return table(HEAD, rows(outcomes))


def _tail(text: str) -> str:
    """The last lines, less qemu's warnings of features that it does not emulate."""
    lines = [line for line in text.splitlines() if "TCG doesn't support" not in line]
    return "\n".join(lines[-TAIL_LINES:])

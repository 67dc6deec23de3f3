"""Profiles the serving path: which of our functions is busy under each workload.

    make profile
    python -m benchmarks.profile --seconds 5

A worker, ours or TorchServe's, is sampled by py-spy where it is on a processor; what waits is not
counted. Each sample counts for the innermost function that is ours or TorchServe's. Of Java only
the processors that it takes are told. Answers are compared before and after.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.driver import Address
from benchmarks.measures import table
from benchmarks.running import first_export, ready
from benchmarks.workloads import QUARTER, WORKLOADS, Workload, load_reference
from benchmarks.wrk import drive_right

RESULTS = Path(__file__).with_name("results")
SAMPLES_A_SECOND = 200
ROWS = 25
SMALL = [WORKLOADS[name] for name in ("W1", "W2", "W3")]
OURS, OTHER = ("(diagonalflip", "(ts/"), "other"  # how the files of functions begin that have a row
IDLE_THREAD = "_worker (concurrent/futures/thread.py"
"""It waits for work in a lock of C's, which py-spy takes for work."""


Column = tuple[list[float], Counter[str]]
"""Of one load: requests per second, processors that worker and Java take, samples by function."""


def main() -> int:
    """Profile both ports under every workload; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each sampling")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the table")
    options = parser.parse_args()
    about = machine.describe()
    columns: dict[str, Column] = {}
    # One version and one worker, so that the process that is sampled has all of the load.
    settings = {"MODEL_STORE": str(first_export()), "WORKERS": "1", "TORCHSERVE": "1"}
    with (
        tempfile.TemporaryDirectory(prefix="profile-") as folder,
        ready(Path(folder), **settings) as server,
    ):
        java, (worker,) = server.java(), server.workers()
        for name, port, sampled, large in (
            ("HTTP listener", "PORT", worker, WORKLOADS["W4"]),
            ("TorchServe", "TORCHSERVE_PORT", java.children()[0], QUARTER),
        ):
            address = server.at(port)
            for workload in (*SMALL, large):
                column = profile(address, workload, sampled, java, options.seconds)
                columns[f"{workload.name}, {name}"] = column
    text = f"# Profile\n\n{about['cpu']}, commit {about['commit']}.\n\n{markdown(columns)}\n"
    path = options.results / f"{about['date']}-{machine.slug(about['cpu'])}" / "profile.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    return 0


def profile(
    address: Address, workload: Workload, worker: psutil.Process, java: psutil.Process, seconds: int
) -> Column:
    """Time a load, and sample the worker meanwhile."""
    command = [str(Path(sys.executable).with_name("py-spy")), "record", "--format", "raw"]
    command += ["--rate", str(SAMPLES_A_SECOND), "--duration", str(seconds)]

    def cpu_s() -> list[float]:
        return [sum(process.cpu_times()[:2]) for process in (worker, java)]

    def sample() -> tuple[list[float], str]:
        before = cpu_s()
        with tempfile.NamedTemporaryFile("r") as stacks:
            pid = ["--pid", str(worker.pid), "--output", stacks.name]
            subprocess.run(command + pid, check=True, capture_output=True)
            busy = [(b - a) / seconds for a, b in zip(before, cpu_s(), strict=True)]
            return busy, stacks.read()

    predict = load_reference(first_export() / "diagonal_flip.onnx")
    timed, (busy, stacks) = drive_right(address, workload, predict, seconds + 3, sample)
    return [timed.requests_per_s, *busy], count(stacks)


def count(stacks: str) -> Counter[str]:
    """Count samples of py-spy's raw form by the innermost function that is ours."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, samples = line.rpartition(" ")
        stack = [re.sub(r":\d+\)$", ")", frame) for frame in reversed(frames.split(";"))]
        if samples.isdigit() and not stack[0].startswith(IDLE_THREAD):
            ours = (frame for frame in stack if any(mark in frame for mark in OURS))
            found[next(ours, OTHER)] += int(samples)
    return found


def markdown(columns: dict[str, Column]) -> str:
    """Return the table: a column for each load, a row for each function, the busiest first."""
    shares = [
        Counter({name: round(100 * n / samples.total()) for name, n in samples.items()})
        for _, samples in columns.values()
    ]
    most: Counter[str] = Counter()
    for column in shares:
        most |= column  # the larger of both
    heads = {"requests/s": ",.0f", "worker: processors busy": ".2f", "Java: processors busy": ".2f"}
    rows = [
        [head, *(f"{figures[row]:{form}}" for figures, _ in columns.values())]
        for row, (head, form) in enumerate(heads.items())
    ]
    rows += [
        [f"`{name}`", *(f"{column[name]} %" for column in shares)]
        for name, _ in most.most_common(ROWS)
    ]
    return table(["", *columns], rows)


if __name__ == "__main__":
    sys.exit(main())

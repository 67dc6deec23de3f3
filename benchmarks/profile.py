"""Profiles the serving path: which part is busy under each workload.

    make profile
    python -m benchmarks.profile --seconds 5

A worker, ours or TorchServe's, is sampled by py-spy, Java by its own Flight Recorder, both only
where they are on a processor; what waits is not counted. Each sample counts for the innermost
function that ``WORKER`` or ``JAVA`` names. Answers are compared before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.driver import Address
from benchmarks.measures import table
from benchmarks.running import PATH, first_export, our_server
from benchmarks.workloads import QUARTER, WORKLOADS, Workload, load_reference
from benchmarks.wrk import drive

RESULTS = Path(__file__).with_name("results")
SAMPLES_A_SECOND = 200
OTHER = "other"
SMALL = [WORKLOADS[name] for name in ("W1", "W2", "W3")]

Stack = Sequence[str]
"""Functions of one sample, the innermost first."""

Groups = dict[str, tuple[str, ...]]
"""Patterns of function names, by row of the table."""

WORKER: Groups = {
    "reading TorchServe's requests": ("retrieve_msg (", "retrieve_data_for_inference ("),
    "parsing HTTP": ("data_received (diagonalflip/server/http/connection.py",),
    "understanding requests": (
        "read (diagonalflip/inference/service.py",
        "preprocess (diagonalflip_handler.py",
    ),
    "forward pass": ("predict (diagonalflip/inference/engine.py",),
    "writing answers": ("_write (diagonalflip/inference/service.py",),
    "service, the rest": (
        "answer (diagonalflip/inference/service.py",
        "handle (diagonalflip_handler.py",
    ),
    "sending to TorchServe": ("create_predict_response (", "handle_connection ("),
    "sending to clients": ("reply (diagonalflip/server/http/connection.py",),
    "batching": ("(diagonalflip/server/http/lifecycle.py",),
    "metrics": ("(diagonalflip/server/worker/metrics.py", "(ts/metrics/", "(logging/__init__.py"),
    "event loop and sockets": ("main (diagonalflip/server/worker/__main__.py",),
}
JAVA: Groups = {
    "decoding the worker's replies": ("ModelResponseDecoder", "CodecUtils"),
    "encoding for the worker": ("ModelRequestEncoder",),
    "reading HTTP": ("HttpRequestDecoder", "HttpObjectDecoder", "HttpObjectAggregator"),
    "writing HTTP": ("HttpResponseEncoder", "HttpObjectEncoder", "NettyUtils"),
    "routing and queueing": ("org.pytorch.serve.http", "org.pytorch.serve.job", "serve.wlm"),
    "metrics and logs": ("org.pytorch.serve.metrics", "log4j", "prometheus"),
    "event loops and sockets": ("io.netty.channel.epoll", "io.netty.channel.unix", "sun.nio.ch"),
}
IDLE_THREAD = "_worker (concurrent/futures/thread.py"
"""It waits for work in a lock of C's, which py-spy takes for work."""

IDLE = ("epollWait", "Unsafe.park", "Object.wait", "Net.poll", "waitForProcessExit", "readBytes")


def main() -> int:
    """Profiles both ports under every workload; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each sampling")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the table")
    options = parser.parse_args()
    about = machine.describe()
    columns: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        scratch = Path(folder)
        # One version and one worker, so that the process that is sampled has all of the load.
        with our_server(scratch, MODEL_STORE=str(first_export()), WORKERS="1") as server:
            java, (worker,) = server.java(), server.workers()
            for name, port, sampled, large in (
                ("HTTP listener", "PORT", worker, WORKLOADS["W4"]),
                ("TorchServe", "TORCHSERVE_PORT", java.children()[0], QUARTER),
            ):
                profile = Profile(java, sampled, scratch, options.seconds)
                address = Address(server.ports[port], PATH)
                for workload in (*SMALL, large):
                    columns[f"{workload.name}, {name}"] = profile.run(address, workload)
    text = markdown(columns, about["commit"], about["cpu"])
    path = options.results / f"{about['date']}-{machine.slug(about['cpu'])}" / "profile.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    return 0


class Profile:
    """Sampling of Java and of a worker."""

    def __init__(
        self, java: psutil.Process, worker: psutil.Process, scratch: Path, seconds: int
    ) -> None:
        self._java, self._worker = java, worker
        self._scratch, self._seconds = scratch, seconds

    def run(self, address: Address, workload: Workload) -> dict[str, str]:
        """One column of the table: cells by row."""
        predict = load_reference(first_export() / "diagonal_flip.onnx")
        timed, cells = drive(address, workload, predict, self._seconds + 3, self._sample)
        return {**cells, "requests/s": f"{timed.requests_per_s:,.0f}"}

    def _sample(self) -> dict[str, str]:
        recording, stacks = self._scratch / "java.jfr", self._scratch / "worker.txt"
        java = str(self._java.pid)
        self._tool("jcmd", java, "JFR.start", "name=profile", "settings=profile")
        busy = [_cpu_s(process) for process in (self._java, self._worker)]
        subprocess.run(
            [
                *(str(Path(sys.executable).with_name("py-spy")), "record", "--format", "raw"),
                *("--rate", str(SAMPLES_A_SECOND), "--duration", str(self._seconds)),
                *("--pid", str(self._worker.pid), "--output", str(stacks)),
            ],
            check=True,
            capture_output=True,
        )
        busy = [
            (_cpu_s(process) - before) / self._seconds
            for process, before in zip((self._java, self._worker), busy, strict=True)
        ]
        self._tool("jcmd", java, "JFR.stop", "name=profile", f"filename={recording}")
        chosen = ("--events", "jdk.ExecutionSample,jdk.NativeMethodSample", "--stack-depth", "64")
        printed = self._tool("jfr", "print", "--json", *chosen, recording)
        return {
            "worker: processors busy": f"{busy[1]:.2f}",
            **shares("worker", WORKER, worker_stacks(stacks.read_text(encoding="utf-8"))),
            "Java: processors busy": f"{busy[0]:.2f}",
            **shares("Java", JAVA, java_stacks(printed)),
        }

    def _tool(self, name: str, *arguments: str | Path) -> str:
        """Runs a tool that lies beside Java; returns its output."""
        command = [str(Path(self._java.exe()).with_name(name)), *map(str, arguments)]
        variables = {key: each for key, each in os.environ.items() if key != "JAVA_TOOL_OPTIONS"}
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=variables
        ).stdout


def worker_stacks(text: str) -> Iterable[Stack]:
    """Samples of py-spy's raw form: frames from the outermost, then a count."""
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        stack = frames.split(";")[::-1]
        if not stack[0].startswith(IDLE_THREAD):
            yield from [stack] * int(count)


def java_stacks(text: str) -> Iterable[Stack]:
    """Samples of ``jfr print --json`` that were on a processor."""
    for event in json.loads(text)["recording"]["events"]:
        trace = event["values"]["stackTrace"]
        methods = [frame["method"] for frame in (trace or {"frames": []})["frames"]]
        names = [f"{method['type']['name']}.{method['name']}" for method in methods]
        stack = [name.replace("/", ".") for name in names]
        if stack and not any(idle in stack[0] for idle in IDLE):
            yield stack


def shares(
    process: str, groups: dict[str, tuple[str, ...]], stacks: Iterable[Stack]
) -> dict[str, str]:
    """Return the share of samples in each group, in per cent."""
    counts = Counter(_group(stack, groups) for stack in stacks)
    total = sum(counts.values())
    return {
        f"{process}: {name}": f"{100 * counts[name] / total:.0f} %" if total else "-"
        for name in [*groups, OTHER]
    }


def _group(stack: Stack, groups: Groups) -> str:
    for function in stack:
        for name, marks in groups.items():
            if any(mark in function for mark in marks):
                return name
    return OTHER


def markdown(columns: dict[str, dict[str, str]], commit: str, cpu: str) -> str:
    """The table, a row a group."""
    rows = [
        [row, *(cells[row] for cells in columns.values())] for row in next(iter(columns.values()))
    ]
    return f"# Profile\n\n{cpu}, commit {commit}.\n\n{table(['', *columns], rows)}\n"


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())

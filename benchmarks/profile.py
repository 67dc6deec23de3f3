"""Profiles the serving path: which part is busy under each workload.

    make profile
    python -m benchmarks.profile --seconds 5

The worker is sampled by py-spy, Java by its own Flight Recorder, both only where they are on a
processor; what waits is not counted. Each sample counts for the innermost function that
``WORKER`` or ``JAVA`` names. Answers are compared before and after.
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
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.driver import Address, refuse_failures, run_python, run_wrk, write_job, wrk_is_here
from benchmarks.report import table
from benchmarks.servers import PATH, first_export, our_server
from benchmarks.workloads import WORKLOADS, Rule, Workload, exchanges, load_reference
from supervisor import readiness, store
from supervisor.host import find_java

RESULTS = Path(__file__).with_name("results")
SAMPLES_A_SECOND = 200
OTHER = "other"
CHOSEN = ("W1", "W2", "W3", "W4")

Stack = Sequence[str]
"""Functions of one sample, the innermost first."""

Groups = dict[str, tuple[str, ...]]
"""Patterns of function names, by row of the table."""

WORKER: Groups = {
    "reading TorchServe's requests": ("read_batch (worker/__main__.py",),
    "parsing HTTP": ("data_received (worker/connection.py",),
    "understanding requests": ("_read (flip_handler.py",),
    "forward pass": ("_predict (flip_handler.py",),
    "writing answers": ("_reply (flip_handler.py",),
    "handler, the rest": ("handle (flip_handler.py",),
    "sending to TorchServe": ("write_replies (worker/__main__.py",),
    "sending to clients": ("reply (worker/connection.py",),
    "batching": ("_run (worker/batch.py", "put (worker/batch.py", "_spin (worker/batch.py"),
    "event loop and sockets": ("HttpServer.run (worker/listener.py",),
    "metrics": ("(ts/metrics/", "(logging/__init__.py"),
    "worker loop": ("_answer_frontend (worker/__main__.py", "Worker.serve (worker/__main__.py"),
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
        with our_server(scratch) as server:
            readiness.wait(server, store.check(first_export()))
            ports = {
                "front door": server.settings.port,
                "TorchServe": server.settings.torchserve_port,
            }
            for name, port in ports.items():
                for workload in map(WORKLOADS.__getitem__, CHOSEN):
                    profile = Profile(server.process.pid, scratch, options.seconds)
                    columns[f"{workload.name}, {name}"] = profile.run(Address(port, PATH), workload)
    text = markdown(columns, about["commit"], about["cpu"])
    path = options.results / f"{about['date']}-{machine.slug(about['cpu'])}" / "profile.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    return 0


class Profile:
    """Sampling of Java, process ``java``, and of its first worker."""

    def __init__(self, java: int, scratch: Path, seconds: int) -> None:
        self._java = psutil.Process(java)
        self._worker = self._java.children()[0]
        self._scratch, self._seconds = scratch, seconds

    def run(self, address: Address, workload: Workload) -> dict[str, str]:
        """One column of the table: cells by row."""
        work = exchanges(
            workload, Rule.TOLERANCE, load_reference(first_export() / "diagonal_flip.onnx")
        )
        check = partial(run_python, address, workload, work, requests=4 * workload.connections + 16)
        before = check()
        drive = partial(run_python, address, workload, work, seconds=self._seconds + 3)
        if wrk_is_here():
            job = self._scratch / workload.name
            write_job(job, work, before.least_wire_bytes)
            drive = partial(run_wrk, address, workload, self._seconds + 3, job, compare=None)
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(drive)
            cells = self._sample()
        for outcome in (before, load.result(), check()):
            refuse_failures(outcome, workload)
        return cells | {"requests/s": f"{load.result().requests_per_s:,.0f}"}

    def _sample(self) -> dict[str, str]:
        recording, stacks = self._scratch / "java.jfr", self._scratch / "worker.txt"
        java = str(self._java.pid)
        _tool("jcmd", java, "JFR.start", "name=profile", "settings=profile")
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
        _tool("jcmd", java, "JFR.stop", "name=profile", f"filename={recording}")
        chosen = ("--events", "jdk.ExecutionSample,jdk.NativeMethodSample", "--stack-depth", "64")
        printed = _tool("jfr", "print", "--json", *chosen, recording)
        return {
            "worker: processors busy": f"{busy[1]:.2f}",
            **shares("worker", WORKER, worker_stacks(stacks.read_text(encoding="utf-8"))),
            "Java: processors busy": f"{busy[0]:.2f}",
            **shares("Java", JAVA, java_stacks(printed)),
        }


def worker_stacks(text: str) -> Iterable[Stack]:
    """Samples of py-spy's raw form: frames from the outermost, then a count."""
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        for _ in range(int(count)):
            yield frames.split(";")[::-1]


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


def _tool(name: str, *arguments: str | Path) -> str:
    """Runs a tool that lies beside Java; returns its output."""
    command = [str(find_java().with_name(name)), *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_TOOL_OPTIONS"}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout


if __name__ == "__main__":
    sys.exit(main())

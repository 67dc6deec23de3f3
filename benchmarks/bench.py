"""Our service against common alternatives: latency, throughput, memory, time to ready.

    make bench
    python -m benchmarks.bench --rounds 5 --seconds 3 --servers torchserve,fastapi --sweep

In every round each server is started, checked, measured and stopped, one at a time and in a
turning order, so that what disturbs the machine disturbs all. Ratios are taken within a round.
It ends with 1 if any answer was wrong. Machines are shared: believe ratios, not figures.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import capacity, machine, plot, report
from benchmarks.driver import Outcome, as_json, run_python
from benchmarks.measures import CEILING, EDGE_TLS, Results
from benchmarks.running import Running, first_export, wait_until
from benchmarks.servers import SERVERS, log_tail
from benchmarks.workloads import (
    SWEEP,
    WORKLOADS,
    Exchange,
    Predictions,
    Workload,
    exchanges,
    load_reference,
)
from benchmarks.wrk import run_wrk, write_job, wrk_is_here

WARM_UP_S = 1
BUSY = 0.3
"""Load of the machine, in processes, above which to warn."""


@dataclass
class Bench:
    """A whole run.

    Attributes:
        options: Of the command line.
        predict: ONNX Runtime.
        scratch: A folder for all that servers write.
        wrk: Whether wrk is what is timed.
        slots: One entry for each server, workload and round.
        starts: One entry for each start of a server.
    """

    options: argparse.Namespace
    predict: Callable[[bytes], Predictions]
    scratch: Path
    wrk: bool
    slots: list[dict[str, Any]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    _work: dict[tuple[str, str], list[Exchange]] = field(default_factory=dict)

    def workloads(self, name: str) -> list[Workload]:
        """Workloads for server ``name``."""
        swept = self.options.sweep and name != EDGE_TLS  # 1,000 handshakes outlast a slot
        chosen: list[Workload] = self.options.workloads + (SWEEP if swept else [])
        if name == CEILING:  # what the driver itself loses with more connections, or with traces
            return [each for each in chosen if each in SWEEP or each.traced or not each.ours_only]
        return [each for each in chosen if SERVERS[name].answers(each)]

    def run(self, progress: Progress) -> None:
        """Runs all rounds."""
        names: list[str] = self.options.servers
        total = self.options.rounds * sum(len(self.workloads(name)) for name in names)
        bar = progress.add_task("", total=total)
        for turn in range(self.options.rounds):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                folder = self.scratch / f"{turn}-{name}"
                started = time.monotonic()
                with SERVERS[name].start(folder) as server:
                    try:
                        self._serve(name, server, turn, started, (progress, bar))
                    except RuntimeError as error:
                        raise RuntimeError(f"{name}: {error}; {log_tail(folder)}") from error

    def _serve(
        self, name: str, server: Running, turn: int, started: float, bar: tuple[Progress, Any]
    ) -> None:
        workloads = self.workloads(name)
        if not workloads:
            return
        probe = replace(workloads[0], connections=1)
        work = self._exchanges(name, workloads[0])

        def answers() -> bool:
            if not server.serves():
                return False
            found = run_python(server.address(probe), probe, work, requests=1)
            return found.requests == 1 and not found.wrong

        wait_until(answers, server)
        start = {"round": turn, "server": name, "ready_s": time.monotonic() - started}
        start["idle_mib"] = server.pss_mib()
        checked: dict[str, list[Outcome]] = {}
        for again in (False, True):  # all warm-ups come first: Java needs many requests
            for workload in workloads:
                bar[0].update(bar[1], description=f"round {turn + 1}: {name} {workload.name}")
                if not again:
                    checked[workload.name] = self._warm_up(name, server, workload)
                    continue
                slot = {"round": turn, "server": name, "workload": workload.name}
                found = self._slot(name, server, workload, checked[workload.name])
                self.slots.append(slot | found)
                bar[0].advance(bar[1])
        self.starts.append(start | {"loaded_mib": server.pss_mib()})

    def _exchanges(self, name: str, workload: Workload) -> list[Exchange]:
        """The same ones in every round, so that a server is asked the same across starts."""
        key = (name, workload.name)
        if key not in self._work:
            self._work[key] = exchanges(workload, SERVERS[name].rule, self.predict)
        return self._work[key]

    def _compare(self, name: str, server: Running, workload: Workload) -> Outcome:
        """A few answers to every connection, each paired with its request."""
        work = self._exchanges(name, workload)
        count = max(2 * len(work), 2 * workload.connections)
        return run_python(server.address(workload), workload, work, requests=count)

    def _warm_up(self, name: str, server: Running, workload: Workload) -> list[Outcome]:
        """Compares every answer of a second's load."""
        address, work = server.address(workload), self._exchanges(name, workload)
        outcome = self._compare(name, server, workload)
        if outcome.wrong or not all(exchange.judge.seen for exchange in work):
            return [outcome]
        if not self.wrk:
            return [outcome, run_python(address, workload, work, seconds=WARM_UP_S)]
        job = self._job(name, workload)
        write_job(job, work, outcome.least_wire_bytes)
        rule = SERVERS[name].rule
        return [outcome, run_wrk(address, workload, WARM_UP_S, job, compare=rule)]

    def _slot(
        self, name: str, server: Running, workload: Workload, checked: list[Outcome]
    ) -> dict[str, Any]:
        """Compares, times, and compares again; a server that was wrong is not timed."""
        checks = [*checked, self._compare(name, server, workload)]
        address, seconds = server.address(workload), self.options.seconds
        if len(checked) < 2:
            return _entry(workload, Outcome(), checks)
        before_s, started = server.cpu_s(), time.monotonic()
        if self.wrk:
            job = self._job(name, workload)
            timed = run_wrk(address, workload, seconds, job, compare=None)
        else:
            work = self._exchanges(name, workload)
            timed = run_python(address, workload, work, seconds=seconds)
        busy_cores = (server.cpu_s() - before_s) / (time.monotonic() - started)
        checks.append(self._compare(name, server, workload))
        return _entry(workload, timed, checks) | {"busy_cores": busy_cores}

    def _job(self, name: str, workload: Workload) -> Path:
        return self.scratch / "jobs" / f"{name}-{workload.name}"


def _entry(workload: Workload, timed: Outcome, checks: list[Outcome]) -> dict[str, Any]:
    wrong = sum(outcome.wrong for outcome in [timed, *checks])
    return {
        **as_json(timed),
        "m_images_per_s": timed.requests_per_s * workload.images / 1e6,
        "compared": timed.compared + sum(outcome.compared for outcome in checks),
        "wrong": wrong,
        "errors": timed.errors + sum(outcome.errors for outcome in checks),
        "failed": bool(wrong) or not timed.requests,
    }


def main() -> int:
    """Runs the benchmark; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # stop the servers
    options = _options()
    console = Console(stderr=True)
    wrk = wrk_is_here() and not options.python_driver
    driver = "wrk, one thread" if wrk else "this project's asyncio driver, much slower than wrk"
    about = machine.describe() | {
        "driver": driver,
        "rounds": options.rounds,
        "seconds": options.seconds,
    }
    if about["load_before"] > BUSY:
        console.print(f"Load is {about['load_before']}: what else runs here spoils the figures")
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
        predict = load_reference(first_export() / "diagonal_flip.onnx")
        bench = Bench(options, predict, Path(scratch), wrk)
        try:
            with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
                bench.run(progress)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    titles = {name: SERVERS[name].title for name in options.servers}
    ours = [name for name in options.servers if SERVERS[name].ours]
    results = Results(about, titles, ours, bench.slots, bench.starts)
    folder = options.results / f"{about['date']}-{machine.slug(about['cpu'])}"
    report.write(results, folder)
    plot.draw(results, folder / "ratios.svg")
    print(report.markdown(results))
    if options.results == capacity.RESULTS and capacity.is_complete(results):
        capacity.fill(folder)
    failed = [slot for slot in bench.slots if slot["failed"]]
    for slot in failed:
        console.print(
            f"FAILED: {slot['server']} {slot['workload']}, round {slot['round'] + 1}: "
            f"{slot['wrong']} wrong answers, {slot['errors']} errors, {slot['requests']} timed"
        )
    console.print(f"Results are in {folder}")
    return int(bool(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each timed slot")
    parser.add_argument(
        "--servers", type=_chosen(SERVERS), default=",".join(SERVERS), help=",".join(SERVERS)
    )
    parser.add_argument(
        "--workloads", type=_chosen(WORKLOADS), default=",".join(WORKLOADS), help="as --servers"
    )
    parser.add_argument("--sweep", action="store_true", help="ours also with 1 to 1,000 clients")
    parser.add_argument("--python-driver", action="store_true", help="even if there is wrk")
    parser.add_argument("--results", type=Path, default=capacity.RESULTS, help="folder for results")
    options = parser.parse_args()
    options.workloads = [WORKLOADS[name] for name in options.workloads]
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    return options


def _chosen(known: dict[str, Any]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown}; expected some of {','.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())

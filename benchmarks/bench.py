"""Our service against common alternatives: latency, throughput, memory, time to ready.

    make bench
    python -m benchmarks.bench --rounds 5 --seconds 3 --servers torchserve,fastapi --sweep

In every round each server is started, checked, measured and stopped, one at a time and in a
turning order, so that what disturbs the machine disturbs all. Ratios are taken within a round.
It ends with 1 if any answer was wrong. Machines are shared: believe ratios, not figures.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import capacity, machine, plot, report
from benchmarks.driver import Outcome, run_python
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
from benchmarks.wrk import drive, wrk_is_here

WARM_UP_S = 2
BUSY = 0.3
"""Load of the machine, in processes, above which to warn."""


@dataclass
class Bench:
    """A whole run.

    Attributes:
        options: Of the command line.
        predict: ONNX Runtime.
        slots: One entry for each server, workload and round.
        starts: One entry for each start of a server.
    """

    options: argparse.Namespace
    predict: Callable[[bytes], Predictions]
    slots: list[dict[str, Any]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)

    def workloads(self, name: str) -> list[Workload]:
        """Return the workloads for server ``name``."""
        swept = self.options.sweep and name != EDGE_TLS  # 1,000 handshakes outlast a slot
        chosen: list[Workload] = self.options.workloads + (SWEEP if swept else [])
        if name == CEILING:  # what the driver itself loses with more connections, or with traces
            return [each for each in chosen if each in SWEEP or each.traced or not each.ours_only]
        return [each for each in chosen if SERVERS[name].answers(each)]

    def run(self, scratch: Path) -> None:
        """Run all rounds; servers write to ``scratch``."""
        names: list[str] = self.options.servers
        for turn in range(self.options.rounds):
            shift = turn % len(names)
            for name in filter(self.workloads, names[shift:] + names[:shift]):
                print(f"==> round {turn + 1}: {name}", file=sys.stderr, flush=True)
                folder = scratch / f"{turn}-{name}"
                predict = self.predict if SERVERS[name].computes else None
                work = [(each, exchanges(each, predict)) for each in self.workloads(name)]
                start = {"round": turn, "server": name}
                started = time.monotonic()
                with SERVERS[name].start(folder) as server:
                    try:
                        self._measure(server, work, start, started)
                    except RuntimeError as error:
                        raise RuntimeError(f"{name}: {error}; {log_tail(folder)}") from error

    def _measure(
        self,
        server: Running,
        work: list[tuple[Workload, list[Exchange]]],
        start: dict[str, Any],
        started: float,
    ) -> None:
        probe = replace(work[0][0], connections=1)

        def answers() -> bool:
            if not server.serves():
                return False
            found = run_python(server.address(probe), probe, work[0][1], requests=1)
            return found.requests == 1 and not found.wrong

        wait_until(answers, server)
        costs = {"ready_s": time.monotonic() - started, "idle_mib": server.pss_mib()}
        # All warm-ups come first: Java needs many requests.
        warm = [
            run_python(server.address(workload), workload, these, seconds=WARM_UP_S)
            for workload, these in work
        ]
        for (workload, these), outcome in zip(work, warm, strict=True):
            slot = start | {"workload": workload.name}
            self.slots.append(slot | self._slot(server, workload, these, outcome))
        self.starts.append(start | costs | {"loaded_mib": server.pss_mib()})

    def _slot(
        self, server: Running, workload: Workload, work: list[Exchange], warm: Outcome
    ) -> dict[str, Any]:
        """Compare, time, and compare again."""
        seconds: int = self.options.seconds

        def busy_cores() -> float:
            before_s = server.cpu_s()
            time.sleep(seconds)
            return (server.cpu_s() - before_s) / seconds

        address = server.address(workload)
        timed, checks, busy = drive(address, workload, work, seconds, busy_cores)
        return _entry(workload, timed, [warm, *checks]) | {"busy_cores": busy}


def _entry(workload: Workload, timed: Outcome, checks: list[Outcome]) -> dict[str, Any]:
    wrong = sum(outcome.wrong for outcome in [timed, *checks])
    return {
        **asdict(timed),
        "requests_per_s": timed.requests_per_s,
        "m_images_per_s": timed.requests_per_s * workload.images / 1e6,
        "compared": timed.compared + sum(outcome.compared for outcome in checks),
        "wrong": wrong,
        "errors": timed.errors + sum(outcome.errors for outcome in checks),
        "failed": bool(wrong) or not timed.requests,
    }


def main() -> int:
    """Run the benchmark; return the exit status."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # stop the servers
    options = _options()
    about = machine.describe() | {
        "driver": "wrk, one thread" if wrk_is_here() else "this project's, much slower than wrk",
        "rounds": options.rounds,
        "seconds": options.seconds,
    }
    if about["load_before"] > BUSY:
        print(f"Load is {about['load_before']}: what else runs here spoils the figures")
    bench = Bench(options, load_reference(first_export() / "diagonal_flip.onnx"))
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
        try:
            bench.run(Path(scratch))
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
        print(
            f"FAILED: {slot['server']} {slot['workload']}, round {slot['round'] + 1}: "
            f"{slot['wrong']} wrong answers, {slot['errors']} errors, {slot['requests']} timed",
            file=sys.stderr,
        )
    print(f"Results are in {folder}", file=sys.stderr)
    return int(bool(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    workloads = ",".join(WORKLOADS)
    servers = ",".join(name for name in SERVERS if name != CEILING or shutil.which("nginx"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each timed slot")
    parser.add_argument("--servers", type=_chosen(SERVERS), default=servers, help=servers)
    parser.add_argument("--workloads", type=_chosen(WORKLOADS), default=workloads, help=workloads)
    parser.add_argument("--sweep", action="store_true", help="ours also with 1 to 1,000 clients")
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

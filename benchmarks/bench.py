"""Our service against common alternatives: latency, throughput, memory, time to ready.

    make bench
    python -m benchmarks.bench --rounds 5 --seconds 3 --servers torchserve,fastapi --sweep

In every round each server is started, checked, measured and stopped, one at a time and in a
turning order, so that what disturbs the machine disturbs all. Ratios are taken within a round.
It ends with 1 if any answer was wrong, and keeps what that server wrote. Machines are shared:
believe ratios, not figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import capacity, machine, plot, report
from benchmarks.driver import Outcome, run_python
from benchmarks.measures import CEILING, EDGE_TLS, Results
from benchmarks.running import Ours, Running, first_export
from benchmarks.servers import SERVERS
from benchmarks.workloads import SWEEP, WORKLOADS, Exchange, Workload, exchanges, load_reference
from benchmarks.wrk import drive, wrk_is_here

WARM_UP_S = 2
BUSY = 0.3  # load of the machine, in processes, above which to warn


def workloads(options: argparse.Namespace, name: str) -> list[Workload]:
    """Return the workloads for server ``name``."""
    swept = options.sweep and name != EDGE_TLS  # 1,000 handshakes outlast a slot
    chosen: list[Workload] = options.workloads + (SWEEP if swept else [])
    if name == CEILING:  # what the driver itself loses with more connections, or with traces
        return [each for each in chosen if each in SWEEP or each.traced or not each.ours_only]
    return [each for each in chosen if SERVERS[name].answers(each)]


def run(options: argparse.Namespace, results: Results, scratch: Path) -> list[str]:
    """Run all rounds, into ``results``; servers write to ``scratch``.

    Returns:
        Where the logs of servers are that failed.

    Raises:
        RuntimeError: A server did not start, or did not come through.
    """
    predict = load_reference(first_export() / "diagonal_flip.onnx")
    names: list[str] = options.servers
    failed = []
    for turn in range(options.rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            server = SERVERS[name]
            work = [
                (each, exchanges(each, predict if server.computes else None))
                for each in workloads(options, name)
            ]
            if not work:
                continue
            print(f"==> round {turn + 1}: {name}", file=sys.stderr, flush=True)
            folder, started = scratch / f"{turn + 1}-{name}", time.monotonic()
            try:
                with server.start(folder) as running:
                    slots, costs = measure(running, work, options.seconds, started)
            except (RuntimeError, TimeoutError) as error:
                raise RuntimeError(f"{name}: {error}\n{kept(folder)}") from error
            if any(slot["failed"] for slot in slots):
                failed.append(kept(folder))
            start = {"round": turn, "server": name}
            results.slots.extend(start | slot for slot in slots)
            results.starts.append(start | costs)
    return failed


def measure(
    server: Running, work: list[tuple[Workload, list[Exchange]]], seconds: int, started: float
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Wait for the first right answer, warm up, and time each workload for some ``seconds``.

    Returns:
        A slot for each workload, and what the server, started at ``started``, takes.
    """
    probe = replace(work[0][0], connections=1)

    def answers() -> bool:
        if not server.serves():
            return False
        found = run_python(server, probe, work[0][1], requests=1)
        return found.requests == 1 and not found.wrong

    def busy_cores() -> float:
        before_s = server.cpu_s()
        time.sleep(seconds)
        return (server.cpu_s() - before_s) / seconds

    server.wait(answers)
    costs = {"ready_s": time.monotonic() - started, "idle_mib": server.pss_mib()}
    # All warm-ups come first: Java needs many requests.
    warm = [run_python(server, workload, these, seconds=WARM_UP_S) for workload, these in work]
    slots = []
    for (workload, these), warmed in zip(work, warm, strict=True):
        outcome, busy = drive(server, workload, these, seconds, busy_cores)
        outcome.add(warmed)
        slots.append(entry(workload, outcome) | {"busy_cores": busy})
        if slots[-1]["failed"]:
            told = json.dumps(slots[-1], indent=1) + "\n"
            told += server.told("/metrics") if isinstance(server, Ours) else ""
            (server.folder / f"{workload.name}.failed").write_text(told, encoding="utf-8")
    return slots, costs | {"loaded_mib": server.pss_mib()}


def entry(workload: Workload, outcome: Outcome) -> dict[str, Any]:
    """Return the figures of a slot; a wrong answer fails it."""
    return (
        {"workload": workload.name}
        | asdict(outcome)
        | {
            "statuses": dict(outcome.statuses),  # of a Counter, asdict makes nonsense
            "requests_per_s": outcome.requests_per_s,
            "m_images_per_s": outcome.requests_per_s * workload.images / 1e6,
            "failed": bool(outcome.wrong) or not outcome.requests,
        }
    )


def kept(folder: Path) -> str:
    """Move what a server wrote out of the run's own folder, and say where it is."""
    if not folder.exists():
        return "It did not start"
    return f"Logs are in {shutil.move(folder, tempfile.mkdtemp(prefix='bench-failed-'))}"


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
    titles = {name: SERVERS[name].title for name in options.servers}
    ours = [name for name in options.servers if SERVERS[name].ours]
    results = Results(about, titles, ours, [], [])
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
        try:
            kept_logs = run(options, results, Path(scratch))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    folder = options.results / f"{about['date']}-{machine.slug(about['cpu'])}"
    report.write(results, folder)
    plot.draw(results, folder / "ratios.svg")
    print(report.markdown(results))
    if options.results == capacity.RESULTS and capacity.is_complete(results):
        capacity.fill(capacity.pages(results, folder.name))
    failed = [slot for slot in results.slots if slot["failed"]]
    for slot in failed:
        statuses = ", ".join(f"{count} {status}" for status, count in slot["statuses"].items())
        print(
            f"FAILED: {slot['server']} {slot['workload']}, round {slot['round'] + 1}: "
            f"{slot['wrong']} wrong answers, {slot['errors']} errors, {slot['requests']} timed; "
            f"statuses: {statuses}",
            file=sys.stderr,
        )
    print(*kept_logs, f"Results are in {folder}", sep="\n", file=sys.stderr)
    return int(bool(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    servers = [name for name in SERVERS if name != CEILING or shutil.which("nginx")]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each timed slot")
    for name, known in (("--servers", servers), ("--workloads", list(WORKLOADS))):
        told = ",".join(known)
        parser.add_argument(name, type=lambda text: text.split(","), default=known, help=told)
    parser.add_argument("--sweep", action="store_true", help="ours also with 1 to 1,000 clients")
    parser.add_argument("--results", type=Path, default=capacity.RESULTS, help="folder for results")
    options = parser.parse_args()
    for chosen, every in ((options.servers, SERVERS), (options.workloads, WORKLOADS)):
        if unknown := set(chosen) - set(every):
            parser.error(f"{unknown}; expected some of {','.join(every)}")
    options.workloads = [WORKLOADS[name] for name in options.workloads]
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())

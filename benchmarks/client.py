"""What a program in Python gets: our clients beside the libraries that it would use instead.

    python -m benchmarks.client [--rounds N] [--save]

One service with two workers; each round asks it by every client, in a turning order, on the same
cores. Every answer is compared. Machines are shared: believe the ratios.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import capacity, machine
from benchmarks.clients import APART, CALLERS, CALLS, HTTP_CLIENT, SINGLES, Rows, ways
from benchmarks.measures import spread, table
from benchmarks.running import ready
from diagonalflip.wire import TOLERANCE

RESULTS = Path(__file__).with_name("results") / "client.md"
WORK = {
    "single": f"one image after another, {SINGLES} times",
    "job": "16 Mi images as one job",
    "threads": f"single images by {CALLERS} threads",
    "calls": f"{CALLS:,} single images at once",
}
GOALS = {
    ("single", "Client"): ("requests.Session", 1 / 0.62),
    ("single", "AsyncClient"): ("aiohttp", 1 / 1.25),
    ("job", "Client, out="): (HTTP_CLIENT, 0.75),
    ("job", "Client"): (HTTP_CLIENT, None),
    ("job", "AsyncClient"): ("Client", 0.75),
    ("threads", "Client"): ("requests, a session each", None),
    ("threads", APART): ("requests, a session each", None),
    ("calls", "AsyncClient"): ("aiohttp", 10.0),
    ("calls", f"Async{APART}"): ("aiohttp", None),
}
"""Whose rate a client's is compared with, and the least ratio that is wanted."""
TOLD = {
    ("single", "Client"): "one image after another",
    ("job", "Client, out="): "a job of 16 Mi images",
    ("threads", "Client"): WORK["threads"],
    ("calls", "AsyncClient"): WORK["calls"],
}
"""What the README tells."""

Found = dict[str, dict[str, list[float]]]  # images per second of each round, by work and client


def measure(url: str, rounds: int) -> Found:
    """Ask a service by every client, in turn.

    Raises:
        RuntimeError: Two clients got different predictions.
    """
    expected: dict[str, Rows] = {}
    found: Found = {name: {} for name in WORK}
    with ways(url) as asked:
        order = list(asked.items())
        for turn in range(-1, rounds):  # the first one warms up
            shift = turn % len(order)
            for (work, title), ask in order[shift:] + order[:shift]:
                gc.collect()  # what the one before has left is not this one's to clear up
                started = time.perf_counter()
                answer = ask()
                seconds = time.perf_counter() - started
                if work not in expected:
                    expected[work] = answer.copy()
                if not np.allclose(answer, expected[work], rtol=0, atol=2 * TOLERANCE):
                    raise RuntimeError(f"{work}: {title} got other predictions")
                if turn >= 0:
                    found[work].setdefault(title, []).append(len(answer) / seconds)
    return found


def ratios(found: Found, work: str, title: str) -> list[float]:
    """Return a client's rates over those of what it is compared with, by round."""
    against, _ = GOALS[work, title]
    return [a / b for a, b in zip(found[work][title], found[work][against], strict=True)]


def summary(found: Found) -> str:
    """Return the README's table."""
    rows = [
        [f"{what}, `{title}`", spread(ratios(found, work, title)), GOALS[work, title][0]]
        for (work, title), what in TOLD.items()
    ]
    return table(["images/s of the client", "times those of", ""], rows)


def markdown(found: Found) -> str:
    """Return a table for each kind of work."""
    parts = []
    for work, what in WORK.items():
        rows: list[list[Any]] = []
        for title in sorted(found[work], key=lambda name: -statistics.median(found[work][name])):
            against, least = GOALS.get((work, title), (None, None))
            compared = spread(ratios(found, work, title)) if against else None
            goal = f"≥ {least:.2f}" if least else None
            rows.append([title, spread(found[work][title]), compared, against, goal])
        heads = ["client", "images/s", "ratio", "to", "goal"]
        parts.append(f"## {what[0].upper()}{what[1:]}\n\n{table(heads, rows)}")
    return "\n\n".join(parts)


def main() -> int:
    """Run the benchmark; 1 if a goal is missed."""
    parser = machine.parser(__doc__, RESULTS)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as scratch,
        ready(Path(scratch), WORKERS="2") as server,
    ):
        found = measure(server.url, options.rounds)
    page = (
        "Two workers and the clients on the same cores; medians of the rounds (least to most)."
        f"\n\n{markdown(found)}"
    )
    machine.show(RESULTS, "Clients", page, save=options.save)
    if options.save:
        capacity.fill({"README.md": {"clients": summary(found)}})
    missed = False
    for (work, title), (_, least) in GOALS.items():
        median = statistics.median(ratios(found, work, title))
        if least and median < least:
            print(f"{work}: {title} {median:.2f}, wanted {least:.2f}", file=sys.stderr)
            missed = True
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())

"""Results of a benchmark as Markdown and JSON; ``plot`` draws it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.measures import (
    CEILING,
    MEASURES,
    TO_CEILING,
    TRACED,
    TRACED_GOAL,
    W2,
    W3,
    W4,
    Measure,
    Results,
    spread,
    table,
)

NOISY = 0.2
"""Between rounds, of a server that computes nothing: above this something else was running."""
BY_CORE = [
    Measure("W1 req/s", "W1", "requests_per_s", by_core=True),
    *(replace(measure, by_core=True) for measure in (W2, W3, W4)),
]
FORMS = [
    replace(W4, title="float32, 2 MiB"),
    replace(W4, title="float16, 1 MiB", workload="W4-float16"),
    replace(W4, title="packed, 64 KiB", workload="W4-packed"),
]


def markdown(results: Results) -> str:
    """Return the report."""
    has_forms = any(slot["workload"] == FORMS[-1].workload for slot in results.slots)
    parts = [
        _about(results),
        _figures(results, "server", results.titles, MEASURES),
        _ratios(results),
        _tls(results),
        _traced(results),
        "## By core\n\n" + _figures(results, "a busy core", results.titles, BY_CORE),
        has_forms
        and "## W4 by form of answer\n\n" + _figures(results, "M images/s", results.ours, FORMS),
        _sweep(results),
        _checks(results),
        _steadiness(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(results: Results, folder: Path) -> None:
    """Write ``report.md``, and ``results.json`` with the ratios of ``traced`` in addition."""
    folder.mkdir(parents=True, exist_ok=True)
    ratios = {server: asdict(found) for server, found in results.traced().items()}
    found = asdict(results) | {"traced": {"goal": TRACED_GOAL, "ratios": ratios}}
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(results), encoding="utf-8")


def _about(results: Results) -> str:
    about = results.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"# Benchmark, {about['date']}\n\n"
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, Linux "
        f"{about['kernel']}; load before: {about['load_before']}. Commit {about['commit']}.\n\n"
        f"Driver: {about['driver']}, on the same cores, loopback, keep-alive. {about['rounds']} "
        f"rounds of {about['seconds']} s, one server running at a time: median (least to most). "
        "MiB: proportional set size of all its processes.\n\n"
        "W1: 2 images, 1 connection. W2: 2 images, 64 connections. W3: 1,024 images, 16 "
        "connections. W4: 131,072 images, 4 connections. W2-traced: W2 with a new `traceparent` "
        f"in each request.\n\n{versions}."
    )


def _figures(
    results: Results, head: str, servers: Iterable[str], measures: Sequence[Measure]
) -> str:
    """Return a table of measures; with all of them, also of memory and the time to ready."""
    heads, rows = [head, *(measure.title for measure in measures)], []
    costs = {"idle MiB": "idle_mib", "loaded MiB": "loaded_mib", "ready s": "ready_s"}
    if measures is not MEASURES:
        costs = {}
    for server in servers:
        starts = [start for start in results.starts if start["server"] == server]
        cells = [results.figure(server, each) for each in measures]
        cells += [spread([start[name] for start in starts]) for name in costs.values()]
        rows.append([results.titles[server], *cells])
    return table([*heads, *costs], rows)


def _ratios(results: Results) -> str:
    """Return the medians of the ratios within a round, with what we want of them."""
    rows: list[list[Any]] = []
    for measure in (*MEASURES, TO_CEILING):
        if measure.goal is None and measure.aim is None:
            continue
        sign = "≥" if measure.higher_is_better else "≤"
        goal = [level and f"{sign} {level}" for level in (measure.goal, measure.aim)]
        cells = [results.ratio(server, measure) for server in results.plain()]
        rows.append([f"{measure.title}, over {measure.against}", *goal, *cells])
    return "## Ratios\n\n" + table(["", "goal (ours)", "aim (ours)", *results.plain()], rows)


def _tls(results: Results) -> str:
    found = results.tls_table()
    return found and (
        "## TLS 1.3\n\nRatios of ours, which also checks a token, to servers that check none. "
        f"The certificates are of the same kind.\n\n{found}"
    )


def _traced(results: Results) -> str:
    """Return the table of what is left of W2's rate when no two heads are alike."""
    rows = [
        [
            results.titles[server],
            *(results.figure(server, each) for each in (W2, TRACED)),
            found,
            f"≥ {TRACED_GOAL}" if server in results.ours else None,
        ]
        for server, found in results.traced().items()
    ]
    heads = ["req/s", "W2", "W2-traced", "W2-traced over W2", "goal (ours)"]
    return "## W2 with a new traceparent in each request\n\n" + table(heads, rows) if rows else ""


def _sweep(results: Results) -> str:
    """Return the table of W2 over the number of connections."""
    asked = [(slot["server"], slot["workload"]) for slot in results.slots]
    swept = dict.fromkeys(each for each in asked if each[1].startswith("W2@"))
    rows = []
    for server in (*results.ours, CEILING):
        for workload in (workload for each, workload in swept if each == server):
            measures = [replace(W2, workload=workload)]
            measures += [Measure("", workload, name, 1e3) for name in ("p50", "p99", "max")]
            measures += [Measure("", workload, "errors")]
            cells = [results.figure(server, measure) for measure in measures]
            rows.append([results.titles[server], workload.removeprefix("W2@"), *cells])
    heads = ["server", "connections", "req/s", "p50 ms", "p99 ms", "max ms", "errors"]
    return "## W2 by connections\n\n" + table(heads, rows) if rows else ""


def _checks(results: Results) -> str:
    compared, wrong = (sum(slot[name] for slot in results.slots) for name in ("compared", "wrong"))
    failed = sum(slot["failed"] for slot in results.slots)
    return (
        f"## Answers\n\n{compared:,} answers compared, {wrong:,} wrong; {failed} of "
        f"{len(results.slots)} slots failed. Before and after each timed slot answers are "
        "compared with ONNX Runtime within 1e-6; of the fixed answers only the length is "
        "compared. While wrk is timed, statuses and the sum of bytes are checked: comparing "
        "bodies there would cost some servers half of their throughput."
    )


def _steadiness(results: Results) -> str:
    """Return how much the machine itself varied, by the server that computes nothing."""
    found = results.figure(CEILING, W2)
    if found is None:
        return ""
    varied = (found.most - found.least) / found.median
    verdict = "noisy: believe ratios alone" if varied > NOISY else "quiet"
    return (
        f"## The machine\n\nThe fixed answer's own W2 varied by {varied:.0%} between rounds: the "
        f"machine was {verdict}."
    )

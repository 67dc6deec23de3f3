"""Results of a benchmark as Markdown and JSON; ``plot`` draws it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measures import (
    CEILING,
    MEASURES,
    TO_CEILING,
    TRACED,
    TRACED_GOAL,
    W2,
    Measure,
    Results,
    figures,
    latency,
    plain,
    ratio,
    spread,
    table,
    tls_table,
    traced,
)

NOISY = 0.2
"""Between rounds, of a server that computes nothing: above this something else was running."""


def markdown(results: Results) -> str:
    """The report."""
    parts = [_about(results), _main_table(results), _ratio_table(results)]
    parts += [_tls(results), _traced(results)]
    parts += [_cores_table(results), _answers_table(results), _sweep_table(results)]
    parts += [_checks(results), _steadiness(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(results: Results, folder: Path) -> None:
    """Writes ``report.md``, and ``results.json`` with the ratios of ``traced`` in addition."""
    folder.mkdir(parents=True, exist_ok=True)
    ratios = {server: asdict(found) for server, found in traced(results).items()}
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


def _main_table(results: Results) -> str:
    rows = []
    for server, title in results.titles.items():
        starts = [start for start in results.starts if start["server"] == server]
        costs = [
            spread([start[name] for start in starts])
            for name in ("idle_mib", "loaded_mib", "ready_s")
        ]
        cells = [spread(list(figures(results, server, each).values())) for each in MEASURES]
        rows.append([title, *cells, *costs])
    heads = [each.title for each in MEASURES]
    return table(["server", *heads, "idle MiB", "loaded MiB", "ready s"], rows)


def _ratio_table(results: Results) -> str:
    """Ratios within a round, then their median, with what we want of them."""
    rows: list[list[Any]] = []
    for measure in (*MEASURES, TO_CEILING):
        if measure.goal is None and measure.aim is None:
            continue
        sign = "≥" if measure.higher_is_better else "≤"
        goal = [
            f"{sign} {level}" if level is not None else None
            for level in (measure.goal, measure.aim)
        ]
        cells = [ratio(results, server, measure) for server in plain(results)]
        rows.append([f"{measure.title}, over {measure.against}", *goal, *cells])
    return "## Ratios\n\n" + table(["", "goal (ours)", "aim (ours)", *plain(results)], rows)


def _tls(results: Results) -> str:
    found = tls_table(results)
    return found and (
        "## TLS 1.3\n\nRatios of ours, which also checks a token, to servers that check none. "
        f"The certificates are of the same kind.\n\n{found}"
    )


def _traced(results: Results) -> str:
    """Table of what is left of W2's rate when no two heads are alike."""
    rows = [
        [
            results.titles[server],
            *(spread(list(figures(results, server, each).values())) for each in (W2, TRACED)),
            found,
            f"≥ {TRACED_GOAL}" if server in results.ours else None,
        ]
        for server, found in traced(results).items()
    ]
    heads = ["req/s", "W2", "W2-traced", "W2-traced over W2", "goal (ours)"]
    return "## W2 with a new traceparent in each request\n\n" + table(heads, rows) if rows else ""


def by_core(name: str) -> Callable[[dict[str, Any]], float]:
    """Return what picks a slot's figure per busy core of the service."""
    return lambda slot: float(slot[name]) / float(slot["busy_cores"])


def _cores_table(results: Results) -> str:
    """Table of throughput per busy core, without the driver's own."""
    names = {"W1": "requests_per_s", "W2": "requests_per_s", "W3": "m_images_per_s"}
    names["W4"] = "m_images_per_s"
    measures = [Measure(workload, workload, by_core(name)) for workload, name in names.items()]
    rows = [
        [title, *(spread(list(figures(results, server, each).values())) for each in measures)]
        for server, title in results.titles.items()
    ]
    heads = ["a busy core", "W1 req/s", "W2 req/s", "W3 M images/s", "W4 M images/s"]
    return "## By core\n\n" + table(heads, rows)


def _answers_table(results: Results) -> str:
    """W4 in the smaller forms of answers, which only ours have."""
    names = ["W4", "W4-float16", "W4-packed"]
    if not any(slot["workload"] in names[1:] for slot in results.slots):
        return ""
    measures = [Measure(name, name, MEASURES[-1].pick) for name in names]
    rows = [
        [results.titles[server]]
        + [spread(list(figures(results, server, measure).values())) for measure in measures]
        for server in results.ours
    ]
    heads = ["M images/s", "float32, 2 MiB", "float16, 1 MiB", "packed, 64 KiB"]
    return "## W4 by form of answer\n\n" + table(heads, rows)


def _sweep_table(results: Results) -> str:
    """W2 over the number of connections."""
    names = list(dict.fromkeys(slot["workload"] for slot in results.slots))
    rows = []
    swept = {slot["server"] for slot in results.slots if slot["workload"].startswith("W2@")}
    for server in [*results.ours, CEILING]:
        if server not in swept:
            continue
        for name in (each for each in names if each.startswith("W2@")):
            latencies = [latency(which, 1e3) for which in ("p50", "p99", "max")]
            picks = [W2.pick, *latencies, MEASURES[4].pick]
            cells = [
                spread(list(figures(results, server, Measure("", name, pick)).values()))
                for pick in picks
            ]
            rows.append([results.titles[server], name.removeprefix("W2@"), *cells])
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
    """Report how much the machine itself varied, by the server that computes nothing."""
    found = spread(list(figures(results, CEILING, W2).values()))
    if found is None:
        return ""
    varied = (found.most - found.least) / found.median
    verdict = "noisy: believe ratios alone" if varied > NOISY else "quiet"
    return (
        f"## The machine\n\nThe fixed answer's own W2 varied by {varied:.0%} between rounds: the "
        f"machine was {verdict}."
    )

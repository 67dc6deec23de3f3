"""What a run of the benchmark saw, and the figures and ratios that are taken from it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

BASELINE = "fastapi"
CEILING = "fixed"
EDGE_TLS, TLS_PEERS = "edge-tls", ("fastapi-tls", "asgi-tls")
"""The public listener with TLS is compared with peers that have TLS."""
TRACED_GOAL = 0.9
"""What a new ``traceparent`` in each request should at least leave of W2's rate."""


@dataclass(frozen=True)
class Results:
    """A whole run.

    Attributes:
        about: The machine, the commit, versions, options.
        titles: Title of each server, by name.
        ours: Names of this product's servers.
        slots: A server, a workload, a round, and what was seen.
        starts: A server, a round, seconds to ready, and MiB.
    """

    about: dict[str, Any]
    titles: dict[str, str]
    ours: list[str]
    slots: list[dict[str, Any]]
    starts: list[dict[str, Any]]


@dataclass(frozen=True)
class Measure:
    """A figure of a workload, and what we want of it.

    Attributes:
        title: Head of the column.
        workload: Where it is measured.
        name: Of a slot's figure, or of one of its latencies.
        unit: What the figure is divided by.
        by_core: Whether it is told for each busy core of the service.
        higher_is_better: Else lower is.
        against: The server that ratios are to.
        goal: What the ratio of ours should be.
        aim: What it would be at best.
    """

    title: str
    workload: str
    name: str
    unit: float = 1.0
    by_core: bool = False
    higher_is_better: bool = True
    against: str = BASELINE
    goal: float | None = None
    aim: float | None = None

    def of(self, slot: dict[str, Any]) -> float:
        """Take the figure from a slot."""
        found: float = {**slot, **slot["latency_us"]}[self.name] / self.unit
        return found / slot["busy_cores"] if self.by_core else found


@dataclass(frozen=True)
class Spread:
    """Median of the rounds, and the least and the most of them."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        if self.least == self.most:
            return number(self.median)
        return f"{number(self.median)} ({number(self.least)} to {number(self.most)})"


W2 = Measure("W2 req/s", "W2", "requests_per_s", goal=4.5, aim=7.0)
W4 = Measure("W4 M images/s", "W4", "m_images_per_s", goal=1.05)
MEASURES = (
    Measure("W1 p50 µs", "W1", "p50", higher_is_better=False, goal=0.5, aim=0.45),
    Measure("W1 p99 µs", "W1", "p99", higher_is_better=False),
    W2,
    Measure("W2 p99 ms", "W2", "p99", 1e3, higher_is_better=False),
    Measure("W2 errors", "W2", "errors", higher_is_better=False),
    Measure("W3 M images/s", "W3", "m_images_per_s", goal=3.0, aim=5.0),
    W4,
)
GOALS = [measure for measure in MEASURES if measure.goal is not None]
WHAT = (
    "one connection, 2 images: p50 latency, less is better",
    "64 connections, 2 images: requests/s",
    "16 connections, 1,024 images: images/s",
    "4 connections, 131,072 images: images/s",
)
"""What each measure with a goal says, for people."""
TRACED = replace(W2, workload="W2-traced")
TO_CEILING = replace(W4, against=CEILING, goal=None, aim=0.9)


def spread(values: list[float]) -> Spread | None:
    """Return median, least and most; None for nothing."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def figures(results: Results, server: str, measure: Measure) -> dict[int, float]:
    """Return a measure of a server by round, of the slots that did not fail."""
    return {
        slot["round"]: measure.of(slot)
        for slot in results.slots
        if (slot["server"], slot["workload"]) == (server, measure.workload) and not slot["failed"]
    }


def figure(results: Results, server: str, measure: Measure) -> Spread | None:
    """Return a measure of a server over all rounds."""
    return spread(list(figures(results, server, measure).values()))


def ratio(results: Results, server: str, measure: Measure) -> Spread | None:
    """Return a server's figure over that of the measure's other server, round by round."""
    return _over(figures(results, server, measure), figures(results, measure.against, measure))


def traced(results: Results) -> dict[str, Spread]:
    """Return W2's rate with a new ``traceparent`` in each request over its own rate, by server."""
    ratios = {
        server: _over(figures(results, server, TRACED), figures(results, server, W2))
        for server in results.titles
    }
    return {server: found for server, found in ratios.items() if found is not None}


def plain(results: Results) -> dict[str, str]:
    """Return the titles of the servers without TLS, by name."""
    return {
        name: title for name, title in results.titles.items() if name not in (EDGE_TLS, *TLS_PEERS)
    }


def tls_table(results: Results) -> str:
    """Return a table of our ratios to peers, all with TLS; nothing if that was not measured."""
    peers = [name for name in TLS_PEERS if name in results.titles]
    if not peers or EDGE_TLS not in results.titles:
        return ""
    rows = [
        [what, *(ratio(results, EDGE_TLS, replace(measure, against=peer)) for peer in peers)]
        for what, measure in zip(WHAT, GOALS, strict=True)
    ]
    heads = ["", *(f"over {results.titles[peer].partition(',')[0]}" for peer in peers)]
    return table(heads, rows)


def _over(mine: dict[int, float], other: dict[int, float]) -> Spread | None:
    return spread([mine[turn] / other[turn] for turn in mine if other.get(turn)])


def table(heads: list[str], rows: list[list[Any]]) -> str:
    """Return a table in Markdown; None is an empty cell."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |" for line in lines
    )


def number(value: float) -> str:
    """Return three significant digits or so, and thousands apart."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

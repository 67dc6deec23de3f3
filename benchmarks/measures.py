"""What a run of the benchmark saw, and the figures and ratios that are taken from it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

BASELINE = "fastapi"
CEILING = "fixed"
EDGE_TLS, TLS_PEERS = "edge-tls", ("fastapi-tls", "asgi-tls")
"""The public listener with TLS is compared with peers that have TLS."""
TRACED_GOAL = 0.9  # what a new ``traceparent`` in each request should at least leave of W2's rate


@dataclass(frozen=True)
class Measure:
    """A figure of a workload, and what we want of it."""

    title: str  # head of the column
    workload: str  # where it is measured
    name: str  # of a slot's figure, or of one of its latencies
    unit: float = 1.0  # what the figure is divided by
    by_core: bool = False  # whether it is told for each busy core of the service
    higher_is_better: bool = True  # else lower is
    against: str = BASELINE  # the server that ratios are to
    goal: float | None = None  # what the ratio of ours should be
    aim: float | None = None  # what it would be at best

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


W1 = Measure("W1 p50 µs", "W1", "p50", higher_is_better=False, goal=0.5, aim=0.45)
W2 = Measure("W2 req/s", "W2", "requests_per_s", goal=4.5, aim=7.0)
W3 = Measure("W3 M images/s", "W3", "m_images_per_s", goal=3.0, aim=5.0)
W4 = Measure("W4 M images/s", "W4", "m_images_per_s", goal=1.05)
MEASURES = (
    W1,
    Measure("W1 p99 µs", "W1", "p99", higher_is_better=False),
    W2,
    Measure("W2 p99 ms", "W2", "p99", 1e3, higher_is_better=False),
    Measure("W2 errors", "W2", "errors", higher_is_better=False),
    W3,
    W4,
)
GOALS = {
    "one connection, 2 images: p50 latency, less is better": W1,
    "64 connections, 2 images: requests/s": W2,
    "16 connections, 1,024 images: images/s": W3,
    "4 connections, 131,072 images: images/s": W4,
}
"""Measures with a goal, by what they say for people."""
TRACED = replace(W2, workload="W2-traced")
TO_CEILING = replace(W4, against=CEILING, goal=None, aim=0.9)


@dataclass(frozen=True)
class Results:
    """A whole run."""

    about: dict[str, Any]  # the machine, the commit, versions, options
    titles: dict[str, str]  # title of each server, by name
    ours: list[str]  # names of this product's servers
    slots: list[dict[str, Any]]  # a server, a workload, a round, and what was seen
    starts: list[dict[str, Any]]  # a server, a round, seconds to ready, and MiB

    def figures(self, server: str, measure: Measure) -> dict[int, float]:
        """Return a measure of a server by round, of the slots that did not fail."""
        asked = (server, measure.workload)
        slots = [slot for slot in self.slots if (slot["server"], slot["workload"]) == asked]
        return {slot["round"]: measure.of(slot) for slot in slots if not slot["failed"]}

    def figure(self, server: str, measure: Measure) -> Spread | None:
        """Return a measure of a server over all rounds."""
        return spread(list(self.figures(server, measure).values()))

    def ratio(self, server: str, measure: Measure, to: Measure | None = None) -> Spread | None:
        """Return a server's figure over that of the measure's other server, round by round.

        With ``to``, over that figure of its own.
        """
        mine = self.figures(server, measure)
        other = self.figures(server, to) if to else self.figures(measure.against, measure)
        return spread([mine[turn] / other[turn] for turn in mine if other.get(turn)])

    def traced(self) -> dict[str, Spread]:
        """Return W2's rate with a new ``traceparent`` in each request over its own, by server."""
        ratios = {server: self.ratio(server, TRACED, to=W2) for server in self.titles}
        return {server: found for server, found in ratios.items() if found is not None}

    def plain(self) -> dict[str, str]:
        """Return the titles of the servers without TLS, by name."""
        encrypted = (EDGE_TLS, *TLS_PEERS)
        return {name: title for name, title in self.titles.items() if name not in encrypted}

    def tls_table(self) -> str:
        """Return a table of our ratios to peers, all with TLS; nothing if it was not measured."""
        peers = [name for name in TLS_PEERS if name in self.titles]
        if not peers or EDGE_TLS not in self.titles:
            return ""
        rows = [
            [what, *(self.ratio(EDGE_TLS, replace(measure, against=peer)) for peer in peers)]
            for what, measure in GOALS.items()
        ]
        return table(["", *(f"over {short(self.titles[peer])}" for peer in peers)], rows)


def short(title: str) -> str:
    """Return a server's title without its details."""
    return title.partition(",")[0]


def spread(values: list[float]) -> Spread | None:
    """Return median, least and most; None for nothing."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


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

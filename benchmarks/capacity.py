"""Writes a benchmark's figures into README and docs/capacity.md: ``python -m benchmarks.capacity``.

Each group of them lies between two comments, ``<!-- NAME -->`` and ``<!-- /NAME -->``. ``make
bench`` runs it at its end, if its results are complete.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from benchmarks.measures import (
    BASELINE,
    CEILING,
    EDGE_TLS,
    GOALS,
    Measure,
    Results,
    number,
    short,
    table,
)
from benchmarks.running import ROOT
from benchmarks.servers import SERVERS
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).with_name("results")

PLANNED = 0.6
"""Load of a replica's core. One of three zones may fail, and an update takes a replica away."""
LEAST_REPLICAS = 2
REQUEST_BITS = 8 * (392 + 32)  # an answer to two images, head and body, as curl counts them
USD_PER_CORE_HOUR, HOURS_PER_MONTH = 0.04, 730


class Load(NamedTuple):
    """A load that replicas are planned for."""

    title: str  # for people
    workload: str  # whose rate a replica has
    rate: float  # requests or images per second
    answer_bits: float  # of each request or image, on the network


LOADS = (
    Load("10,000 requests/s of 2 images", "W2", 1e4, REQUEST_BITS),
    Load("1,000,000 requests/s of 2 images", "W2", 1e6, REQUEST_BITS),
    Load("the same 2 M images/s, 1,024 per request", "W3", 2e6, 128),
    Load("1 G images/s, 131,072 per request, packed answers", "W4-packed", 1e9, 4),
    Load("1 G images/s, float32 answers", "W4", 1e9, 128),
)


def read(folder: Path) -> Results:
    """Return the results of a benchmark, as ``report.write`` left them in ``folder``."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return Results(**{field.name: found[field.name] for field in fields(Results)})


def is_complete(results: Results) -> bool:
    """Return whether the pages' figures can be taken from ``results``, which are of a commit."""
    workloads = {slot["workload"] for slot in results.slots}
    return (
        results.titles.keys() == SERVERS.keys()
        and workloads >= WORKLOADS.keys()
        and any(name.startswith("W2@") for name in workloads)
        and not any(slot["failed"] for slot in results.slots)
        and not results.about["commit"].endswith("-dirty")
    )


def fill(figures: dict[str, dict[str, str]]) -> None:
    """Write figures, by page and name, into the pages."""
    for page, groups in figures.items():
        path = ROOT / page
        path.write_text(filled(path.read_text(encoding="utf-8"), groups), encoding="utf-8")


def filled(text: str, groups: dict[str, str]) -> str:
    """Return ``text`` with each group of figures between its comments.

    Raises:
        ValueError: There are no such comments.
    """
    for name, written in groups.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        if not (start and end):
            raise ValueError(f"no comments <!-- {name} --> and <!-- /{name} --> around figures")
        text = f"{before}{start}{written}{end}{after}"
    return text


def pages(results: Results, folder: str) -> dict[str, dict[str, str]]:
    """Return all figures, by page and name; ``folder`` is that of the results."""
    return {
        "README.md": {"speed": _speed(results, folder)},
        "docs/capacity.md": {"rates": _rates(results, folder), "replicas": _replicas(results)},
    }


def _speed(results: Results, folder: str) -> str:
    known = (*results.ours, BASELINE, CEILING)
    others = [name for name in results.plain() if name not in known]
    rows = []
    for what, measure in GOALS.items():
        found = {name: results.ratio(name, measure) for name in others}
        medians = {name: each.median for name, each in found.items() if each is not None}
        best = (max if measure.higher_is_better else min)(medians, key=medians.__getitem__)
        ours = [results.ratio(name, measure) or "-" for name in ("front", "edge", "torchserve")]
        rows.append([what, *ours, f"{number(medians[best])}, {short(results.titles[best])}"])
    heads = ["", "HTTP listener", "public listener, no TLS", "TorchServe's port"]
    heads.append("best of the others")
    where = f"benchmarks/results/{folder}"
    about = results.about
    tls = results.tls_table()
    return (
        f"{about['cores']} shared cores, {about['cpu']} ([report]({where}/report.md)), as ratios "
        f"to {short(results.titles[BASELINE])} with ONNX Runtime, two workers each; "
        f"medians of {about['rounds']} rounds (least to most):\n\n{table(heads, rows)}\n\n"
        f"![How many times as good as FastAPI each server is]({where}/ratios.svg)"
        + (tls and f"\n\nThe public listener with TLS 1.3, which also checks a token:\n\n{tls}")
    )


def _rates(results: Results, folder: str) -> str:
    about = results.about
    servers = {
        "HTTP listener, in a trusted network": "front",
        "public listener, plain HTTP": "edge",
        "public listener, TLS": EDGE_TLS,
    }
    columns = {
        "2 images per request, 64 connections": "W2",
        "1,024 images, 16 connections": "W3",
        "131,072 images, 4 connections": "W4",
    }
    rows = [
        [title, *(_told(each, rate(results, server, each)) for each in columns.values())]
        for title, server in servers.items()
    ]
    return (
        f"{about['cores']} cores, {about['cpu']}, commit {about['commit']} "
        f"([report](../benchmarks/results/{folder}/report.md)):\n\n{table(['', *columns], rows)}"
    )


def _replicas(results: Results) -> str:
    rows = []
    for load in LOADS:
        count = replicas(results, load)
        each = _told(load.workload, planned(results, load.workload))
        network = f"{load.rate * load.answer_bits / 1e9:.3g} Gbit/s"
        month = count * USD_PER_CORE_HOUR * HOURS_PER_MONTH
        size, unit = (1e6, "million requests") if load.workload == "W2" else (1e12, "10¹² images")
        usd = month / (load.rate * 3600 * HOURS_PER_MONTH) * size
        cost = [f"{month:,.0f}", f"{usd:.2g} per {unit}"]
        rows.append([load.title, each, f"{count:,}", network, *cost])
    heads = ["load", "a replica", "replicas, and cores", "network, out", "USD per month", "USD"]
    return table(heads, rows)


def rate(results: Results, server: str, workload: str) -> float:
    """Return requests (W2) or images per second and busy core, the median of the rounds."""
    name, unit = ("requests_per_s", 1) if workload == "W2" else ("m_images_per_s", 1e-6)
    found = results.figure(server, Measure("", workload, name, unit, by_core=True))
    return found.median if found is not None else math.nan


def planned(results: Results, workload: str) -> float:
    """Return a replica's planned rate: that of the public listener with TLS, with room to spare."""
    return rate(results, EDGE_TLS, workload) * PLANNED


def replicas(results: Results, load: Load) -> int:
    """Return the number of replicas that a load needs."""
    return max(LEAST_REPLICAS, math.ceil(load.rate / planned(results, load.workload)))


def _told(workload: str, rate_: float) -> str:
    if workload == "W2":
        return f"{number(round(rate_, -2))} requests/s"
    return f"{number(rate_ / 1e6)} M images/s"


if __name__ == "__main__":
    newest = max(RESULTS.glob("*/results.json")).parent
    fill(pages(read(newest), newest.name))

"""Writes a benchmark's figures into README and docs/capacity.md: ``python -m benchmarks.capacity``.

Each group of them lies between two comments, ``<!-- NAME -->`` and ``<!-- /NAME -->``. ``make
bench`` runs it at its end, if its results are complete.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measures import (
    BASELINE,
    CEILING,
    GOALS,
    WHAT,
    Measure,
    Results,
    figures,
    number,
    plain,
    ratio,
    spread,
    table,
    tls_table,
)
from benchmarks.report import by_core
from benchmarks.running import ROOT
from benchmarks.servers import SERVERS
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).with_name("results")
FRONT, EDGE, TORCHSERVE = "front", "edge", "torchserve"

TLS = {"W2": 0.65, "W3": 0.6, "W4": 0.45, "W4-packed": 0.9}
"""What TLS leaves of the public listener's rates: wrk over https beside http, on two cores of an
AMD EPYC; of packed answers estimated, from W4 and the number of bytes."""
RATES = ("W2", "W3", "W4")
GPU_WORKLOADS = ("W2", "W3", "W4", "W4-packed")
PLANNED = 0.6
"""Of a replica's core. One of three zones may fail, and a rolling update takes one replica away."""
LEAST_REPLICAS = 2
REQUEST_BITS = 8 * (348 + 32)
"""An answer to two images, head and body, as curl counts them."""
USD_PER_CORE_HOUR, HOURS_PER_MONTH = 0.04, 730


class Load(NamedTuple):
    """A load that replicas are planned for.

    Attributes:
        title: For people.
        workload: Whose rate a replica has.
        rate: Requests or images per second.
        answer_bits: Of each request or image, on the network.
    """

    title: str
    workload: str
    rate: float
    answer_bits: float


LOADS = (
    Load("10,000 requests/s of 2 images", "W2", 1e4, REQUEST_BITS),
    Load("100,000 requests/s of 2 images", "W2", 1e5, REQUEST_BITS),
    Load("1,000,000 requests/s of 2 images", "W2", 1e6, REQUEST_BITS),
    Load("the same 2 M images/s, 1,024 per request", "W3", 2e6, 128),
    Load("1 G images/s, 131,072 per request, packed answers", "W4-packed", 1e9, 4),
    Load("1 G images/s, float32 answers", "W4", 1e9, 128),
    Load("100 G images/s, packed answers", "W4-packed", 1e11, 4),
    Load("100 G images/s, float32 answers", "W4", 1e11, 128),
)


def main() -> int:
    """Write the newest results into the pages."""
    fill(max(RESULTS.glob("*/results.json")).parent)
    return 0


def read(folder: Path) -> Results:
    """The results of a benchmark, as ``report.write`` left them in ``folder``."""
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


def fill(folder: Path, root: Path = ROOT) -> None:
    """Write the results in ``folder`` into the pages below ``root``."""
    for page, groups in pages(read(folder), folder.name).items():
        path = root / page
        path.write_text(filled(path.read_text(encoding="utf-8"), groups), encoding="utf-8")


def filled(text: str, groups: dict[str, str]) -> str:
    """Return ``text`` with each group of figures between its comments.

    Raises:
        ValueError: There are no such comments.
    """
    for name, figures_ in groups.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        if not (start and end):
            raise ValueError(f"no comments <!-- {name} --> and <!-- /{name} --> around figures")
        text = f"{before}{start}{figures_}{end}{after}"
    return text


def pages(results: Results, folder: str) -> dict[str, dict[str, str]]:
    """All figures, by page and name; ``folder`` is that of the results."""
    return {
        "README.md": {"speed": _speed(results, folder)},
        "docs/capacity.md": {
            "rates": _rates(results, folder),
            "memory": _memory(results),
            "connections": _connections(results),
            "ratios": _ratios(results),
            "replicas": _replicas(results),
            "cost": _cost(results),
            "gpu": _gpu(sorted(RESULTS.glob("*.json"))),
        },
    }


def _speed(results: Results, folder: str) -> str:
    others = [name for name in plain(results) if name not in (*results.ours, BASELINE, CEILING)]
    rows = []
    for what, measure in zip(WHAT, GOALS, strict=True):
        found = {name: ratio(results, name, measure) for name in others}
        medians = {name: each.median for name, each in found.items() if each is not None}
        best = (max if measure.higher_is_better else min)(medians, key=medians.__getitem__)
        ours = [ratio(results, name, measure) or "-" for name in (FRONT, EDGE, TORCHSERVE)]
        title = results.titles[best].partition(",")[0]
        rows.append([what, *ours, f"{number(medians[best])}, {title}"])
    heads = [
        "",
        "HTTP listener",
        "public listener, no TLS",
        "TorchServe's port",
        "best of the others",
    ]
    where = f"benchmarks/results/{folder}"
    about = results.about
    tls = tls_table(results)
    return (
        f"{about['cores']} shared cores, {about['cpu']} ([report]({where}/report.md)), as ratios "
        f"to {results.titles[BASELINE].partition(',')[0]} with ONNX Runtime, two workers each; "
        f"medians of {about['rounds']} rounds (least to most):\n\n{table(heads, rows)}\n\n"
        f"![How many times as good as FastAPI each server is]({where}/ratios.svg)"
        + (tls and f"\n\nThe public listener with TLS 1.3, which also checks a token:\n\n{tls}")
    )


def _rates(results: Results, folder: str) -> str:
    about = results.about
    rows = [
        [title, *(_told(workload, rate(results, name, workload)) for workload in RATES)]
        for name, title in (
            (FRONT, "HTTP listener, in a trusted network"),
            (EDGE, "public listener, plain HTTP"),
        )
    ]
    told = [_told(each, rate(results, EDGE, each) * TLS[each]) for each in RATES]
    rows.append(["public listener, TLS (**estimated**)", *told])
    heads = ["", "2 images per request, 64 connections", "1,024 images, 16 connections"]
    return (
        f"{about['cores']} cores, {about['cpu']}, commit {about['commit']} "
        f"([report](../benchmarks/results/{folder}/report.md)):\n\n"
        + table([*heads, "131,072 images, 4 connections"], rows)
    )


def _memory(results: Results) -> str:
    rows = []
    for what, name in (("idle", "idle_mib"), ("after a run of all workloads", "loaded_mib")):
        found = [
            spread([each[name] for each in results.starts if each["server"] == server])
            for server in (FRONT, TORCHSERVE)
        ]
        rows.append([what, *found])
    ready = spread([each["ready_s"] for each in results.starts if each["server"] == FRONT])
    heads = ["MiB of the whole service", "used by the HTTP listener", "used by TorchServe's port"]
    return f"{table(heads, rows)}\n\nReady after {ready} s."


def _connections(results: Results) -> str:
    rows = []
    for name in (*results.ours, CEILING):
        by_count = {
            workload.removeprefix("W2@"): found.median
            for workload in dict.fromkeys(slot["workload"] for slot in results.slots)
            if workload.startswith("W2@")
            and (found := spread(list(figures(results, name, _measure(workload)).values())))
        }
        if by_count:
            best = max(by_count.values())
            rows.append(
                [results.titles[name], *(f"{each / best:.2f}" for each in by_count.values())]
            )
    return table(["connections", *by_count], rows)


def _ratios(results: Results) -> str:
    rows = [
        [title, *(ratio(results, name, measure) for measure in GOALS)]
        for name, title in plain(results).items()
    ]
    return table(["", *(measure.title for measure in GOALS)], rows)


def _replicas(results: Results) -> str:
    rows = []
    for load in LOADS:
        count = replicas(results, load)
        each = _told(load.workload, planned(results, load.workload))
        rows.append([load.title, each, f"{count:,}", _bits(load.rate * load.answer_bits)])
    return table(["load", "a replica", "replicas, and cores", "network, out"], rows)


def _cost(results: Results) -> str:
    rows = []
    for load in LOADS:
        month = replicas(results, load) * USD_PER_CORE_HOUR * HOURS_PER_MONTH
        unit = 1e6 if load.workload == "W2" else 1e12
        each = month / (load.rate * 3600 * HOURS_PER_MONTH) * unit
        what = "a million requests" if unit == 1e6 else "10¹² images"
        rows.append([load.title, f"{month:,.0f}", f"{each:.2g} for {what}"])
    return table(["load", "USD per month", "USD"], rows)


def _gpu(files: Sequence[Path]) -> str:
    """Return what ``make gpu-check`` found on each GPU."""
    told = []
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        if "CUDA graphs" in found["engine"] and "failed" not in found["served"]:
            told.append(_gpu_of(found, file.name))
    return "\n\n".join(told) or "Not measured yet: `make gpu-check` had no GPU so far."


def _gpu_of(found: dict[str, Any], name: str) -> str:
    about, limits, engine = found["about"], found["limits"], found["engine"]
    sizes = {row["images"]: row for row in engine["without graphs"]["sizes"]}
    rows = [
        [
            f"{row['images']:,}",
            *(number(each["median_us"]) for each in (row, sizes[row["images"]])),
            number(row["m_images_per_s"]),
            f"{row['share_of_copy']:.0%}",
        ]
        for row in engine["CUDA graphs"]["sizes"]
    ]
    heads = ["images", "µs", "µs without graphs", "M images/s", "of a pinned copy's bandwidth"]
    served = found["served"]
    rates = []
    for server in served:
        device, _, workers = server.partition(", ")
        row = [server]
        for workload in GPU_WORKLOADS:
            timed = served[server].get(workload)
            cell = _told(workload, timed["requests_per_s"]) if workload == "W2" and timed else "-"
            if timed and workload != "W2":
                cell = f"{number(timed['m_images_per_s'])} M images/s"
            if device == "cuda":
                beside = served[f"cpu, {workers}"][workload]["requests_per_s"]
                cell += f" ({timed['requests_per_s'] / beside:.2f} of the CPU's)"
            row.append(cell)
        rates.append(row)
    missed = [
        goal
        for step in ("goals of the engine", "goals of the service")
        for goal, met in found.get(step, {}).items()
        if not met
    ]
    return (
        f"{about['device']}, CUDA {about['cuda']}, torch {about['torch']}, {about['cores']} cores "
        f"of {about['cpu']}, commit {about['commit']} ([all figures](../benchmarks/results/{name}))"
        f". A pinned copy moves {number(limits['copy_gb_per_s'])} GB/s, a launch takes "
        f"{number(limits['launch_us'])} µs.\n\n{table(heads, rows)}\n\n"
        f"{table(['', *GPU_WORKLOADS], rates)}\n\n"
        f"Goals that were missed: {'; '.join(missed) or 'none'}."
    )


def rate(results: Results, server: str, workload: str) -> float:
    """Requests (W2) or images per second and busy core, the median of the rounds."""
    found = spread(list(figures(results, server, _measure(workload, cores=True)).values()))
    return found.median if found is not None else math.nan


def planned(results: Results, workload: str) -> float:
    """Return a replica's planned rate: that of the public listener with TLS, with room to spare."""
    return rate(results, EDGE, workload) * TLS[workload] * PLANNED


def replicas(results: Results, load: Load) -> int:
    """Return the number of replicas that a load needs."""
    return max(LEAST_REPLICAS, math.ceil(load.rate / planned(results, load.workload)))


def _measure(workload: str, *, cores: bool = False) -> Measure:
    name, unit = ("requests_per_s", 1.0) if workload.startswith("W2") else ("m_images_per_s", 1e6)
    pick = by_core(name) if cores else lambda slot: float(slot[name])
    return Measure(workload, workload, lambda slot: unit * pick(slot))


def _told(workload: str, rate_: float) -> str:
    if workload == "W2":
        return f"{number(round(rate_, -2))} requests/s"
    return f"{number(rate_ / 1e6)} M images/s"


def _bits(rate_: float) -> str:
    for unit, size in (("Tbit/s", 1e12), ("Gbit/s", 1e9)):
        if rate_ >= size:
            return f"{rate_ / size:.3g} {unit}"
    return f"{rate_ / 1e6:.3g} Mbit/s"


if __name__ == "__main__":
    sys.exit(main())

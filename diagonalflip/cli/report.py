"""What a load found: percentiles by HdrHistogram, as text, JSON and a plot."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diagonalflip.cli.driver import Outcome
from diagonalflip.cli.exits import UsageError

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
LONGEST_US = 48 * 3600 * 1_000_000
SIGNIFICANT_DIGITS = 3
PLOTTED_POINTS = 400
SUFFIXES = (".svg", ".png")


def check_available(plot: Path | None) -> None:
    """Fails before the load, not after it.

    Raises:
        UsageError: A library is missing, or the plot's suffix is unknown.
    """
    needed = ["hdrh", *(["matplotlib"] if plot is not None else [])]
    for name in needed:
        if find_spec(name) is None:
            raise UsageError(f"no {name}", "it", "pip install 'diagonalflip[load]'")
    if plot is not None:
        if plot.suffix.lower() not in SUFFIXES:
            raise UsageError(f"--plot {plot}", f"a file that ends in {' or '.join(SUFFIXES)}")
        if not plot.parent.is_dir():
            raise UsageError(f"--plot {plot}", "a file in a folder that is there")


def summarise(outcome: Outcome, due: int) -> dict[str, Any]:
    """Numbers of requests, and latencies in milliseconds, of all good answers."""
    histogram = _histogram(outcome)
    answered = len(outcome.latencies_s)
    names = [f"p{percentile:g}" for percentile in PERCENTILES]
    values = [histogram.get_value_at_percentile(percentile) for percentile in PERCENTILES]
    latencies = dict(zip([*names, "max"], [*values, histogram.get_max_value()], strict=True))
    return {
        "due": due,
        "answered": answered,
        "unanswered": outcome.unanswered,
        "failures": outcome.failures,
        "latest_start_ms": round(1e3 * outcome.latest_start_s, 3),
        "latency_ms": {name: us / 1e3 for name, us in latencies.items()} if answered else {},
    }


def text(summary: dict[str, Any]) -> str:
    """A summary for people."""
    lines = [
        f"{summary['answered']} of {summary['due']} requests answered rightly",
        f"{summary['unanswered']} had no answer when time was up",
        f"sent at most {summary['latest_start_ms']:.1f} ms after they were due",
    ]
    lines += [f"{count} times {failure}" for failure, count in summary["failures"].items()]
    latencies = summary["latency_ms"].items()
    return "\n".join(lines + [f"{name:>8}  {value:>10.3f} ms" for name, value in latencies])


def draw(outcome: Outcome, path: Path, title: str) -> None:
    """Plots latency over the percentile, both logarithmic, the latter towards 100 %."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra, slow to import

    histogram = _histogram(outcome)
    count = max(len(outcome.latencies_s), 10)
    odds = [count ** (point / PLOTTED_POINTS) for point in range(PLOTTED_POINTS + 1)]
    percentiles = [100.0 * (1.0 - 1.0 / one_in) for one_in in odds]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    latencies_ms = [histogram.get_value_at_percentile(value) / 1e3 for value in percentiles]
    axes.plot(odds, latencies_ms)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    ticks = [2] + [10**power for power in range(1, 8) if 10**power <= count]
    axes.set_xticks(ticks, [f"{100 * (1 - 1 / one_in):.7g} %" for one_in in ticks])
    axes.set_xlabel("percentile of requests")
    axes.set_ylabel("latency from the due time, ms")
    axes.set_title(title)
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(path)


def _histogram(outcome: Outcome) -> Any:
    from hdrh.histogram import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
        HdrHistogram,
    )

    histogram = HdrHistogram(1, LONGEST_US, SIGNIFICANT_DIGITS)
    for latency_s in outcome.latencies_s:
        histogram.record_value(max(1, round(1e6 * latency_s)))
    return histogram

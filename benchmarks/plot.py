"""Draws what a run of the benchmark found."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measures import GOALS, Results


def draw(results: Results, path: Path) -> None:
    """Plot the ratios to the baseline, turned so that higher is better."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "ratios"  # else every drawing has other names inside
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    titles = results.plain()
    width = 0.8 / max(1, len(titles))
    for index, (server, title) in enumerate(titles.items()):
        for place, measure in enumerate(GOALS.values()):
            found = results.ratio(server, measure)
            if found is None:
                continue
            ends = [found.median, found.least, found.most]
            if not measure.higher_is_better:
                ends = [1 / end for end in (found.median, found.most, found.least)]
            height, least, most = ends
            axes.bar(
                place + (index + 0.5) * width - 0.4,
                height,
                width,
                yerr=[[height - least], [most - height]],
                color=f"C{index}",
                label=title,
                capsize=2,
            )
    for place, measure in enumerate(GOALS.values()):
        goal = measure.goal or 1.0
        level = goal if measure.higher_is_better else 1 / goal
        axes.hlines(level, place - 0.45, place + 0.45, "black", "dashed", label="our goal")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(), unique.keys(), loc="outside lower center", ncols=2, fontsize="small"
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(GOALS)), [measure.title for measure in GOALS.values()])
    axes.set_ylabel("times as good as FastAPI")
    axes.grid(visible=True, axis="y", alpha=0.3)
    figure.savefig(path, metadata={"Date": None})

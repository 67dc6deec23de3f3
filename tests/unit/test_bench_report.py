"""The benchmark's report, from made-up slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench, capacity, report
from benchmarks.driver import Outcome
from benchmarks.measures import TO_CEILING, W2, Results, Spread
from benchmarks.workloads import WORKLOADS


def slot(turn: int, server: str, workload: str, figure: float, **others: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"round": turn, "server": server, "workload": workload}
    made |= {"requests_per_s": figure, "m_images_per_s": figure, "busy_cores": 0.5}
    made |= {"latency_us": {"p50": figure, "p99": 2 * figure, "max": 3 * figure}}
    return made | {"compared": 10, "wrong": 0, "errors": 0, "failed": False} | others


def results(*more: dict[str, Any]) -> Results:
    """Three rounds in which the machine gets slower, for both alike but once."""
    slots = [
        slot(turn, server, workload, figure)
        for workload in ("W1", "W2", "W3", "W4")
        for server, row in (("front", (400, 210, 90)), ("fastapi", (200, 100, 50)))
        for turn, figure in enumerate(row)
    ]
    about = {"date": "2026-01-02", "cpu": "Some CPU", "cores": 2, "memory_gib": 4.0}
    about |= {"kernel": "6.0", "load_before": 0.1, "commit": "abc", "driver": "wrk"}
    about |= {"rounds": 3, "seconds": 1, "versions": {"python": "3.11"}}
    start = {"round": 0, "server": "front", "ready_s": 2.5, "idle_mib": 300, "loaded_mib": 310}
    titles = {"front": "ours", "fastapi": "FastAPI"}
    return Results(about, titles, ["front"], [*slots, *more], [start])


def test_ratios_are_taken_within_a_round() -> None:
    assert results().ratio("front", W2) == Spread(2.0, 1.8, 2.1)
    assert results().ratio("fastapi", W2) == Spread(1.0, 1.0, 1.0)
    assert results().ratio("front", TO_CEILING) is None


def test_a_failed_slot_has_no_figure() -> None:
    found = results(slot(3, "front", "W2", 1e9, failed=True), slot(3, "fastapi", "W2", 1.0))
    assert set(found.figures("front", W2)) == {0, 1, 2}
    assert found.ratio("front", W2) == Spread(2.0, 1.8, 2.1)
    assert "1 of 26 slots failed" in report.markdown(found)


@pytest.mark.parametrize(
    ("timed", "check", "failed"),
    [
        (Outcome(requests=9, elapsed_s=1), Outcome(compared=5), False),
        (Outcome(requests=9, elapsed_s=1), Outcome(compared=5, wrong=1), True),
        (Outcome(requests=9, elapsed_s=1, wrong=1), Outcome(compared=5), True),
        (Outcome(), Outcome(compared=5), True),
    ],
)
def test_one_wrong_answer_fails_its_slot(timed: Outcome, check: Outcome, failed: bool) -> None:
    timed.add(check)
    entry = bench.entry(WORKLOADS["W1"], timed)
    assert (entry["failed"], entry["compared"]) == (failed, 5)


def test_the_committed_report_is_what_the_newest_results_give(tmp_path: Path) -> None:
    newest = max(capacity.RESULTS.glob("*/results.json")).parent
    report.write(capacity.read(newest), tmp_path)
    for name in ("report.md", "results.json"):
        assert (tmp_path / name).read_bytes() == (newest / name).read_bytes()


@pytest.mark.parametrize(("last", "verdict"), [(95.0, "quiet"), (60.0, "noisy")])
def test_it_says_whether_the_machine_was_quiet(last: float, verdict: str) -> None:
    slots = [slot(turn, "fixed", "W2", figure) for turn, figure in enumerate((100.0, 90.0, last))]
    assert f"the machine was {verdict}" in report.markdown(results(*slots))
    assert "The machine" not in report.markdown(results())

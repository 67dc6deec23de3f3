"""The figures in README and docs/capacity.md are those of the newest benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import capacity, machine
from benchmarks.capacity import (
    LOADS,
    Load,
    filled,
    is_complete,
    pages,
    planned,
    rate,
    read,
    replicas,
)

ROOT = Path(__file__).resolve().parents[2]
NEWEST = max(capacity.RESULTS.glob("*/results.json")).parent


@pytest.mark.parametrize("page", ["README.md", "docs/capacity.md"])
def test_a_page_has_the_figures_of_the_newest_results(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert filled(text, pages(read(NEWEST), NEWEST.name)[page]) == text


def test_only_a_complete_run_of_a_commit_is_for_the_pages() -> None:
    results = read(NEWEST)
    assert is_complete(results)
    swept = [slot for slot in results.slots if not slot["workload"].startswith("W2@")]
    failed = [*results.slots[1:], results.slots[0] | {"failed": True}]
    for part in (
        replace(results, slots=swept),
        replace(results, slots=failed),
        replace(results, slots=[slot for slot in results.slots if slot["workload"] != "W3"]),
        replace(results, titles={"front": results.titles["front"]}),
        replace(results, about=results.about | {"commit": "abc1234-dirty"}),
    ):
        assert not is_complete(part)


def test_figures_replace_what_lies_between_their_comments() -> None:
    text = "a\n<!-- x -->\nold\nold\n<!-- /x -->\nb\n"
    assert filled(text, {"x": "new"}) == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"


@pytest.mark.parametrize("text", ["", "<!-- x -->\n", "old\n<!-- /x -->"])
def test_a_page_that_has_lost_a_comment_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="<!-- /x -->"):
        filled(text, {"x": "new"})


def test_replicas_carry_their_load_and_one_fewer_does_not() -> None:
    results = read(NEWEST)
    for load in LOADS:
        count, each = replicas(results, load), planned(results, load.workload)
        assert count * each >= load.rate
        assert count == 2 or (count - 1) * each < load.rate
    assert replicas(results, Load("none", "W2", 1.0, 1.0)) == 2


def test_a_replica_is_planned_for_less_than_it_can_do() -> None:
    results = read(NEWEST)
    for workload in ("W2", "W3", "W4", "W4-packed"):
        assert 0 < planned(results, workload) < rate(results, "edge", workload)


@pytest.mark.parametrize("commit", ["abc1234", "abc1234-dirty"])
def test_results_are_saved_of_a_commit_only(
    commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"cpu": "a CPU", "cores": 2, "memory_gib": 1.5, "kernel": "6.1", "date": "2026-11-26"}
    monkeypatch.setattr(machine, "describe", lambda: about | {"commit": commit})
    page = tmp_path / "results/page.md"
    if commit.endswith("-dirty"):
        with pytest.raises(SystemExit, match="Commit them"):
            machine.save(page, "Drills", "| a |")
        assert not page.exists()
    else:
        machine.save(page, "Drills", "| a |")
        told = "a CPU, 2 cores, 1.5 GiB, Linux 6.1; 2026-11-26, commit abc1234."
        assert page.read_text(encoding="utf-8") == f"# Drills\n\n{told}\n\n| a |\n"

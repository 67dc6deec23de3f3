"""The figures in README and docs/capacity.md are those of the newest benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import capacity, machine
from benchmarks.capacity import LOADS, filled, is_complete, pages, planned, rate, read, replicas
from benchmarks.servers import SERVERS
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[2]
NEWEST = max(capacity.RESULTS.glob("*/results.json")).parent


@pytest.mark.parametrize("page", ["README.md", "docs/capacity.md"])
def test_a_page_has_the_figures_of_the_newest_results(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    figures = pages(read(NEWEST), NEWEST.name)[page]
    assert filled(text, figures) == text
    assert filled(text, dict.fromkeys(figures, "other")) != text


def test_only_complete_runs_are_for_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = read(NEWEST)
    titles = {name: server.title for name, server in SERVERS.items()}
    added = [newest.slots[0] | {"workload": name} for name in WORKLOADS]
    results = replace(newest, titles=titles, slots=[*newest.slots, *added])
    assert is_complete(results)
    for name in ("W2@", "W3", "W2-traced"):
        rest = [slot for slot in results.slots if not slot["workload"].startswith(name)]
        assert not is_complete(replace(results, slots=rest))
    failed = [*results.slots[1:], results.slots[0] | {"failed": True}]
    assert not is_complete(replace(results, slots=failed))
    assert not is_complete(replace(results, titles={"front": results.titles["front"]}))
    dirty = results.about | {"commit": "abc1234-dirty"}
    assert not is_complete(replace(results, about=dirty))
    monkeypatch.setattr(machine, "describe", lambda: dirty)
    with pytest.raises(SystemExit, match="Commit them"):
        machine.write(tmp_path / "page.md", "Drills", "| a |")
    assert not list(tmp_path.iterdir())


def test_replicas_carry_their_load_and_one_fewer_does_not() -> None:
    results = read(NEWEST)
    for load in LOADS:
        count, each = replicas(results, load), planned(results, load.workload)
        assert 0 < each < rate(results, "edge-tls", load.workload)
        assert count * each >= load.rate
        assert count == 2 or (count - 1) * each < load.rate

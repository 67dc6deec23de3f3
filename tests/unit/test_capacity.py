"""The figures in README and docs/capacity.md are those of the newest benchmark."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def test_only_a_complete_run_of_a_commit_is_for_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = read(NEWEST)
    titles = {name: server.title for name, server in SERVERS.items()}
    added = [newest.slots[0] | {"workload": name} for name in WORKLOADS]
    results = replace(newest, titles=titles, slots=[*newest.slots, *added])
    assert is_complete(results)
    swept = [slot for slot in results.slots if not slot["workload"].startswith("W2@")]
    failed = [*results.slots[1:], results.slots[0] | {"failed": True}]
    dirty = results.about | {"commit": "abc1234-dirty"}
    for part in (
        replace(results, slots=swept),
        replace(results, slots=failed),
        *(
            replace(results, slots=[slot for slot in results.slots if slot["workload"] != name])
            for name in ("W3", "W2-traced")
        ),
        replace(results, titles={"front": results.titles["front"]}),
        replace(results, about=dirty),
    ):
        assert not is_complete(part)
    monkeypatch.setattr(machine, "describe", lambda: dirty)
    with pytest.raises(SystemExit, match="Commit them"):
        machine.save(tmp_path / "page.md", "Drills", "| a |")
    assert not list(tmp_path.iterdir())


def test_what_a_gpu_does_is_told_beside_the_processor(tmp_path: Path) -> None:
    def sizes(microseconds: float) -> dict[str, Any]:
        row = {"images": 64, "median_us": microseconds, "m_images_per_s": 1.5}
        return {"sizes": [row | {"share_of_copy": 0.005}]}

    def rates(requests: int) -> dict[str, Any]:
        row = {"requests_per_s": requests, "m_images_per_s": requests / 8}
        return dict.fromkeys(capacity.GPU_WORKLOADS, row) | {"driver": "wrk"}

    found: dict[str, Any] = {
        "about": {"device": "A GPU", "cuda": "13.0", "torch": "2.11.0", "cores": 16, "cpu": "Fast"}
        | {"commit": "abc"},
        "limits": {"copy_gb_per_s": 50.0, "launch_us": 5.5},
        "engine": {"CUDA graphs": sizes(40), "without graphs": sizes(90)},
        "goals of the engine": {"quick enough (40 µs)": True},
        "goals of the service": {"W4 (0.50)": False},
        "served": {"cuda, 1 workers": rates(400), "cpu, 1 workers": rates(800)},
    }
    file = tmp_path / "a-gpu.json"
    file.write_text(json.dumps(found))
    told = capacity._gpu([file])
    assert "| 64 | 40 | 90 | 1.50 | 0% |" in told
    assert "| cuda, 1 workers | 400 requests/s (0.50 of the CPU's) | 50 M images/s (0.50" in told
    assert "missed: W4 (0.50)." in told
    file.write_text(json.dumps(found | {"served": {"failed": "RuntimeError"}}))
    assert capacity._gpu([file]) == capacity._gpu([])


def test_replicas_carry_their_load_and_one_fewer_does_not() -> None:
    results = read(NEWEST)
    for load in LOADS:
        count, each = replicas(results, load), planned(results, load.workload)
        assert 0 < each < rate(results, "edge", load.workload)
        assert count * each >= load.rate
        assert count == 2 or (count - 1) * each < load.rate

"""The check that runs on GPU hosts also runs, and can fail, on this machine's CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import device_service
from benchmarks.device_check import Report
from benchmarks.device_engine import compare, goals
from benchmarks.driver import Outcome
from benchmarks.workloads import WORKLOADS
from benchmarks.wrk import reject_failures
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.slow


def test_every_step_runs_and_is_written_down(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.device_check", "--device", "cpu"]
    command += ["--results", str(tmp_path), "--seconds", "1"]
    subprocess.run(command, cwd=ROOT, check=True)
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert all(each["images"] >= 10_000_000 for each in found["random images"].values())
    for engine in found["engine"].values():
        assert all(row["median_us"] > 0 for row in engine["sizes"])
    assert found["every form"]["front"] > 100
    assert found["every form"]["torchserve"] > 100
    assert found["settings"] == {"FLIP_REQUIRE_GPU=1 without a GPU": "rejected, status 2"}
    assert found["a worker killed"]["right"] >= 40
    assert found["a worker killed"]["wrong"] == 0
    large = {"W4", "W4-float16"}
    driven = {
        name: {each for each in rates if each in WORKLOADS and rates[each]["requests_per_s"] > 0}
        for name, rates in found["served"].items()
    }
    assert driven == {"TorchServe": set(WORKLOADS) - large, "cpu, 1 workers": set(WORKLOADS)}


def test_a_wrong_answer_is_an_error() -> None:
    right = np.zeros((3, 4), dtype=np.float32)
    assert compare(right, right) == 0
    for wrong in (right[:2], right + np.float32(2e-6), right * np.float32(np.nan)):
        with pytest.raises(RuntimeError, match="wrong answers"):
            compare(wrong, right)


def test_a_step_that_fails_is_written_and_the_others_run(tmp_path: Path) -> None:
    report = Report(tmp_path / "new/gpu.json", {"seconds": {}})
    report.step("first", lambda: compare(np.ones((1, 4)), np.zeros((1, 4))))  # type: ignore[arg-type]
    report.step("second", lambda: 7)
    found = json.loads(report.path.read_text())
    assert found["first"]["failed"].startswith("RuntimeError: wrong answers")
    assert (found["second"], report.failed) == (7, ["first"])


def test_goals_that_are_missed_are_told() -> None:
    def rows(share: float, microseconds: float) -> dict[str, Any]:
        sizes = [
            {"images": 64, "median_us": microseconds, "share_of_copy": 0.0},
            {"images": 1 << 20, "median_us": 5e3, "share_of_copy": share},
        ]
        return {"CUDA graphs": {"sizes": sizes}}

    assert list(goals(rows(0.7, 60)).values()) == [True, True]
    assert list(goals(rows(0.69, 61)).values()) == [False, False]
    rates = {"cuda, 1 workers": {"W4": {"m_images_per_s": 99.0}}}
    rates |= {"cpu, 1 workers": {"W4": {"m_images_per_s": 100.0}}}
    assert list(device_service.goals(rates).values()) == [False]


@pytest.mark.parametrize(
    "outcome", [Outcome(), Outcome(requests=9, wrong=1), Outcome(requests=9, errors=1)]
)
def test_a_load_that_was_not_all_right_ends_it(outcome: Outcome) -> None:
    reject_failures(Outcome(requests=9), WORKLOADS["W1"])
    with pytest.raises(SystemExit, match="W1"):
        reject_failures(outcome, WORKLOADS["W1"])

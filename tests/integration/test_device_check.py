"""The proof that runs on GPU hosts also runs, and can fail, on this machine's CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.device_check import compare
from benchmarks.driver import Outcome, refuse_failures
from benchmarks.workloads import WORKLOADS
from tests.integration.conftest import ROOT


def test_every_step_runs_and_is_written_down(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.device_check", "--device", "cpu"]
    command += ["--results", str(tmp_path), "--seconds", "1"]
    subprocess.run(command, cwd=ROOT, check=True)
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    assert all(row["median_us"] > 0 for row in report["engine"])
    driven = {
        name: {row["workload"] for row in rows if row["requests_per_s"] > 0}
        for name, rows in report["served"].items()
    }
    large = {"W4", "W4-float16"}
    assert driven == {"front": set(WORKLOADS), "torchserve": set(WORKLOADS) - large}


def test_a_wrong_answer_ends_it() -> None:
    right = np.zeros((3, 4), dtype=np.float32)
    compare(right, right)
    for wrong in (right[:2], right + np.float32(2e-6), right * np.float32(np.nan)):
        with pytest.raises(SystemExit):
            compare(wrong, right)


@pytest.mark.parametrize(
    "outcome", [Outcome(), Outcome(requests=9, wrong=1), Outcome(requests=9, errors=1)]
)
def test_a_load_that_was_not_all_right_ends_it(outcome: Outcome) -> None:
    refuse_failures(Outcome(requests=9), WORKLOADS["W1"])
    with pytest.raises(SystemExit, match="W1"):
        refuse_failures(outcome, WORKLOADS["W1"])

"""The matrix of processors fails on what must be the same everywhere, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.running import ROOT
from tests.portability.__main__ import ARTIFACTS, Outcome, faults, report, run

NAN, INFINITY = float("nan"), float("inf")


def outcome(
    title: str = "one", deviation: float = 5e-8, *, invariant: bool = True, differs: str = ""
) -> Outcome:
    engine = {"runtime": "TorchScript", "deviation": deviation, "batch_invariant": invariant}
    found: dict[str, Any] = {"vector_code": "AVX2", "tolerance": 1e-6, "engines": [engine]}
    digests = {name: ("1" if name == differs else "0") * 64 for name in ARTIFACTS}
    return Outcome(title, found, digests)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        *((outcome("two", by), "two: TorchScript deviates by") for by in (1.1e-6, NAN, INFINITY)),
        *((outcome("two", differs=name), f"{name}: 2 different digests") for name in ARTIFACTS),
    ],
)
def test_a_large_deviation_or_another_digest_is_a_fault(other: Outcome, told: str) -> None:
    [fault] = faults([outcome(), outcome("three", invariant=False), other])
    assert fault.startswith(told)


@pytest.mark.slow
def test_a_failed_step_is_fault_and_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source").symlink_to(ROOT)
    (tmp_path / "host").write_text("a file where the folder should be")
    failed = run(tmp_path, "host")
    [fault] = faults([outcome(), failed])
    assert fault == "this host: export ended with 1"
    assert "export failed" in capsys.readouterr().err
    assert "FAILED" in report([failed])

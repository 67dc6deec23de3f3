"""Training flips, says when it cannot, and writes the same file again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diagonalflip.errors import ArtifactError
from export import train
from export.net import load_net
from export.verify import margins, reference

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_weights_flip_all_by_the_margin_that_the_docs_state() -> None:
    found = margins(reference(load_net(ROOT / "export/weights-2.0.json")))
    assert found.shape == (16,)
    assert f"{found.min():.4f}" == "0.4998"
    assert "| smallest margin around 0.5 | none | 0.4998 |" in (ROOT / "docs/model.md").read_text()


def test_margins_are_of_the_worst_pixel() -> None:
    flips = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 1]] * 4, dtype=float)
    found = margins(flips)
    assert list(found[:4]) == [0.5, 0.5, 0.5, 0.5]
    flips[2, 1] = 0.6
    assert margins(flips)[2] == pytest.approx(0.1)
    flips[2, 1] = 0.4
    assert margins(flips)[2] == pytest.approx(-0.1)


def test_training_writes_the_same_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "STEPS", 400)
    files = [tmp_path / name for name in ("once.json", "again.json")]
    for file in files:
        train.train(5, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (margins(reference(load_net(files[0]))) > 0.4).all()


def test_a_width_that_cannot_flip_is_an_error_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "STEPS", 300)
    with pytest.raises(ArtifactError, match=r"width 3 that flips \d+ of 16"):
        train.train(3, tmp_path / "weights.json")
    assert not list(tmp_path.iterdir())


def test_the_command_says_so_in_a_line() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "export.train", "--hidden", "1", "--version", "none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("training failed: got a network of width 1")
    assert not (ROOT / "export/weights-none.json").exists()

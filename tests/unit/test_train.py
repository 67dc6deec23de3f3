"""Training flips, says when it cannot, and writes the same file again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diagonalflip.errors import ArtifactError
from export import train
from export.net import DiagonalFlipNet, load_net
from export.verify import margins, reference
from tests.conftest import ROOT


def test_the_committed_weights_flip_all_by_the_margin_that_the_docs_state() -> None:
    found = margins(reference(load_net(ROOT / "export/weights-2.0.json")))
    assert found.shape == (16,)
    assert f"{found.min():.4f}" == "0.4998"
    assert "| smallest margin around 0.5 | none | 0.4998 |" in (ROOT / "docs/model.md").read_text()


def test_margins_are_of_the_worst_pixel() -> None:
    flips = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 1]] * 4, dtype=float)
    assert list(margins(flips)[:4]) == [0.5, 0.5, 0.5, 0.5]
    for value in (0.6, 0.4):
        flips[2, 1] = value
        assert margins(flips)[2] == pytest.approx(value - 0.5)


@pytest.mark.parametrize(
    "wrong", [("--hidden", "0"), ("--hidden", "-1"), ("--hidden", "x"), ("--version", "../x")]
)
def test_a_setting_that_cannot_be_used_is_rejected(
    wrong: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", f"{wrong[0]}={wrong[1]}"])
    with pytest.raises(SystemExit, match="2"):
        train.main()
    assert f"{wrong[1]!r}; expected" in capsys.readouterr().err


def test_training_writes_the_same_file_again_or_says_that_it_cannot_flip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "STEPS", 400)
    files = [tmp_path / name for name in ("once.json", "again.json", "never.json")]
    for file in files[:2]:
        train.train(5, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (margins(reference(load_net(files[0]))) > 0.4).all()
    with pytest.raises(ArtifactError, match=r"width 3 flips \d+ of 16"):
        train.train(3, files[2])
    assert not files[2].exists()


@pytest.mark.parametrize(("hidden", "flips"), [(3, 15), (4, 16)])
def test_weights_made_by_hand_flip_what_the_docs_say(hidden: int, flips: int) -> None:
    """Width 4 carries the pixels. Width 3 carries what is left of them without their mean."""
    first, second, bias1, bias2 = np.eye(4), np.eye(4), np.zeros(4), np.zeros(4)
    if hidden == 3:
        first, second, bias1 = np.eye(4)[:3], np.eye(4)[:, :3] - 0.25, np.ones(3)
        first[:, 3] = -1
        bias2 = 0.625 - second.sum(axis=1)
    swapped = [0, 2, 1, 3]
    values = (first, bias1, second[swapped], bias2[swapped])
    net = DiagonalFlipNet(hidden)
    net.load_state_dict(dict(zip(net.state_dict(), map(torch.from_numpy, values), strict=True)))
    assert (margins(reference(net)) > 0).sum() == flips

"""The page of evidence: complete, true, and in need of no other file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diagonalflip.errors import ArtifactError
from export.report import page


def test_it_shows_every_image_and_the_error_of_all(artifacts: Path) -> None:
    html = page(artifacts)
    assert len(re.findall("<figure>", html)) == 16
    assert "Mean squared error of all: <strong>0.53787</strong>" in html
    for title in ("Certificate", "Artifacts", "Environment", "Processors", "Drills"):
        assert f"<h2>{title}</h2>" in html
    assert "<h2>Benchmark, 20" in html
    assert "ARM Neoverse N1" in html


def test_it_needs_no_other_file(artifacts: Path) -> None:
    html = page(artifacts)
    assert not re.findall(r"<(?:script|link|img|iframe)\b|url\(\s*['\"]?https?:|href=.(?!#)", html)


def test_without_results_it_shows_the_model_alone(artifacts: Path, tmp_path: Path) -> None:
    html = page(artifacts, tmp_path)
    assert "<h2>Certificate</h2>" in html
    assert "Benchmark" not in html


def test_without_a_model_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="make export"):
        page(tmp_path)


def test_it_shows_each_version(versions: Path, tmp_path: Path) -> None:
    html = page(versions, tmp_path)
    for version, flips in (("1.0", 1), ("2.0", 16)):
        assert f"<h2>Predictions of version {version}</h2>" in html
        assert f"<strong>{flips} of 16</strong>" in html

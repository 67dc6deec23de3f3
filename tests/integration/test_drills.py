"""The drills in their short form; ``make drill`` takes longer and asserts times as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.__main__ import run
from tests.drills.faults import DRILLS
from tests.drills.load import references

pytestmark = pytest.mark.timeout(900)
FAST = "kill -9 of a worker"


@pytest.mark.parametrize(
    "title",
    [
        pytest.param(title, marks=[] if title == FAST else pytest.mark.slow)
        for title in DRILLS
        if "saturates" not in title
    ],
)
def test_the_service_comes_through(
    title: str, versions: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLIP_MODEL_STORE", str(versions))
    scene = run(title, references(versions), folder, long=False)
    if any(note.startswith("SKIPPED") for note in scene.notes):
        pytest.skip(scene.notes[0])
    assert not scene.faults, (scene.tally, scene.notes)
    assert scene.tally.right > 0

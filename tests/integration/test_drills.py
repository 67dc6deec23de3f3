"""The drills in their short form; ``make drill`` takes longer and asserts times as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.__main__ import run
from tests.drills.cluster import configuration
from tests.drills.faults import DRILLS
from tests.drills.load import references

pytestmark = pytest.mark.timeout(900)
FAST = "worker_killed"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == FAST else pytest.mark.slow)
        for name in DRILLS
        if name != "overload"
    ],
)
def test_the_service_comes_through(
    name: str, versions: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLIP_MODEL_STORE", str(versions))
    scene = run(name, references(versions), folder, long=False)
    if any(note.startswith("SKIPPED") for note in scene.notes):
        pytest.skip(scene.notes[0])
    assert not scene.faults, (scene.tally, scene.notes)
    assert scene.tally.right > 0


def test_the_balancer_of_the_cluster_is_configured_as_compose_has_it(tmp_path: Path) -> None:
    told = configuration(tmp_path)
    assert "bind 127.0.0.1:8443\n" in told
    assert "server flip-4 10.77.0.4:8443" in told

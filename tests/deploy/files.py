"""Read the manifests, and run the tools that check them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import execute

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".deploy/bin"
COMPOSE = ROOT / "docker/compose.yaml"

needs_tools = pytest.mark.skipif(not TOOLS.exists(), reason="no .deploy: run `make manifests-test`")


def run(*command: str | Path, text: str | None = None) -> str:
    """Return what a tool prints; fail with it."""
    finished = execute(*command, text=text)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))

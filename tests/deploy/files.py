"""Read the manifests, and run the tools that check them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from diagonalflip.server.settings import Settings
from tests.conftest import execute

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".deploy/bin"
COMPOSE = ROOT / "docker/compose.yaml"
SERVERLESS = ROOT / "deploy/kserve/serverless/inference-service.yaml"
SPARE_S = 10
"""For Java to end, after the drain."""

needs_tools = pytest.mark.skipif(not TOOLS.exists(), reason="no .deploy: run `make manifests-test`")


def run(*command: str | Path, text: str | None = None) -> str:
    """Return what a tool prints; fail with it."""
    finished = execute(*command, text=text)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def built(folder: str) -> list[Any]:
    """Return the documents that kustomize makes of a folder of ``deploy``."""
    return list(yaml.safe_load_all(run(TOOLS / "kubectl", "kustomize", f"deploy/{folder}")))


def serverless() -> Any:
    return load(SERVERLESS)["spec"]["predictor"]


def environment(entries: Any) -> dict[str, str]:
    if isinstance(entries, dict):
        return dict(entries)
    return {entry["name"]: entry["value"] for entry in entries}


def dockerfile(pattern: str) -> str:
    """Return the first match in the Dockerfile."""
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    return str(re.findall(pattern, text, re.MULTILINE)[0])


def image_settings(entries: Any) -> Settings:
    drain = {"FLIP_DRAIN_S": dockerfile(r"FLIP_DRAIN_S=(\d+)")}
    return Settings.from_environment(drain | environment(entries))


def stop_timeout_s(settings: Settings) -> int:
    return settings.drain_s + settings.stop_timeout_s + SPARE_S

"""Settings come from the environment, are checked, and are all documented."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from supervisor.settings import Settings, table
from tests.conftest import ROOT


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"PORT": "", "HOST": ""}) == Settings()


def test_every_setting_is_read() -> None:
    given = {"HOST": "::1", "PORT": "1", "WORKERS": "3", "TORCHSERVE": "1", "LOG_DIR": "/x"}
    read = Settings.from_environment(given)
    assert (read.host, read.port, read.workers, read.torchserve) == ("::1", 1, 3, "1")
    assert read.log_dir == Path("/x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "8080 "),
        ("PORT", "٨"),
        ("PROOF_S", "0"),
        ("DEGRADED_S", "3601"),
        ("WORKERS", "two"),
    ],
)
def test_a_bad_value_is_named_with_its_range(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"{name}={value}") as caught:
        Settings.from_environment({name: value})
    assert "whole number" in caught.value.expected


@pytest.mark.parametrize("value", ["yes", "2", " 1"])
def test_torchserve_is_on_off_or_as_it_is_installed(value: str) -> None:
    with pytest.raises(SettingError, match=f"TORCHSERVE={value}"):
        Settings.from_environment({"TORCHSERVE": value})


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8443"),
        ("0.0.0.0", "http://127.0.0.1:8443"),
        ("::", "http://[::1]:8443"),
        ("fe80::1", "http://[fe80::1]:8443"),
    ],
)
def test_the_url_is_one_that_this_machine_can_reach(host: str, url: str) -> None:
    assert Settings(host=host).edge_url == url


def test_only_edge_and_operations_ever_leave_loopback() -> None:
    settings = Settings(host="10.0.0.1", operations_host="10.0.0.2")
    public = {name for name in Settings.ports() if settings.host_of(name) != "127.0.0.1"}
    assert public == {"edge_port", "operations_port"}


@pytest.mark.parametrize("python", ["exec {python} -I -S", "exit 1 #"])
def test_make_help_needs_no_package(tmp_path: Path, python: str) -> None:
    """Nor a Python that is new enough, to list what can be made."""
    host = tmp_path / "python3"
    script = python.format(python=sys.executable) + ' -c "import sys, runpy; '
    script += (
        "sys.path.insert(0, '.'); runpy.run_module('supervisor.settings', run_name='__main__')"
    )
    host.write_text(f'#!/bin/sh\n{script}"\n')
    host.chmod(0o755)
    for goal in ([], ["help"]):
        finished = subprocess.run(
            ["make", *goal, f"PYTHON={host}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert "\n  serve " in finished.stdout
        assert ("OPERATIONS_HOST" in finished.stdout) == python.startswith("exec")
        assert finished.stderr == ""


def test_make_help_lists_every_target_and_setting() -> None:
    text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in ("serve", "test", "export", "lint", "clean", "gpu-check"):
        assert f"\n  {name} " in text
    for entry in fields(Settings):
        assert entry.name.upper() in text
    assert table() in text

"""The systemd unit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.deploy.files import ROOT, run

UNIT = ROOT / "deploy/systemd/diagonalflip.service"


def entries(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def test_a_revoked_token_is_not_valid_until_the_next_start() -> None:
    """Credentials are copies from the start; what is read where it lies is followed."""
    assert not entries(r"\w*Credential\w*")
    [tokens_file] = [each for each in entries("Environment") if each.startswith("FLIP_TOKENS_FILE")]
    assert tokens_file == "FLIP_TOKENS_FILE=/etc/diagonalflip/tokens"
    [group] = entries("SupplementaryGroups")
    told = UNIT.read_text(encoding="utf-8")
    assert f"groupadd --system {group}" in told
    assert f"install -d -m 2750 -g {group} /etc/diagonalflip" in told
    assert group != UNIT.stem, "systemd makes that one with the dynamic user"


def test_it_waits_for_mounts_that_its_files_may_be_on() -> None:
    """A missing file ends it with a status after which systemd does not start it again."""
    assert entries("RestartPreventExitStatus") == ["2"]
    assert "remote-fs.target" in entries("After")[0].split()


def test_no_worker_that_dies_ends_the_others() -> None:
    """By default systemd stops a service of which the kernel killed one process."""
    assert entries("OOMPolicy") == ["continue"]
    assert entries("KillMode") == ["mixed"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_understands_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    program = "/opt/diagonalflip/.venv/bin/python"
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(program, "/usr/bin/env python3"))
    assert UNIT.name not in run("systemd-analyze", "verify", unit)

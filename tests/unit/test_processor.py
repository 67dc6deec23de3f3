"""Processors that are too old are an error, not a signal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diagonalflip import _processor
from diagonalflip.errors import SettingError
from tests.conftest import ROOT

NEW = "processor\t: 0\nflags\t\t: fpu sse sse2 pni ssse3 cx16 sse4_1 sse4_2 popcnt avx\n"
OLD = NEW.replace(" sse4_1 sse4_2 popcnt avx", "")


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("text", "machine"), [(NEW, "x86_64"), (OLD, "aarch64"), ("processor: 0\n", "x86_64")]
)
def test_new_ones_and_unknown_ones_may_serve(cpuinfo: Path, text: str, machine: str) -> None:
    _processor.require(cpuinfo, machine)  # the file is missing
    cpuinfo.write_text(text)
    _processor.require(cpuinfo, machine)


def test_an_old_one_is_an_error_that_names_what_it_lacks(cpuinfo: Path) -> None:
    cpuinfo.write_text(OLD)
    with pytest.raises(SettingError, match=r"lacks sse4_1, sse4_2, popcnt\..*x86-64-v2"):
        _processor.require(cpuinfo, "x86_64")


ENTRY = """
import sys
from diagonalflip import _processor
from diagonalflip.errors import SettingError

def old(): raise SettingError("this processor is old", "a newer one")
_processor.require = old
sys.argv[1:] = []
try:
    from {module} import main
    sys.exit(main())
finally:
    assert "numpy" not in sys.modules
"""


@pytest.mark.parametrize("module", ["diagonalflip.server.__main__", "diagonalflip.cli"])
def test_entry_points_say_so_before_they_import_numpy(module: str) -> None:
    command = [sys.executable, "-c", ENTRY.format(module=module)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr == "SettingError: This processor is old. Expected a newer one.\n"

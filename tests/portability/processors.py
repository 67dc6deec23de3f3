"""The processors of the matrix, and how to run a Python module on each."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".portability"
"""Folders that ``tests/portability/arm64.sh`` makes: ``root``, a Debian, and ``packages``."""


@dataclass(frozen=True)
class Processor:
    """A processor, ours or emulated.

    Attributes:
        title: As the table calls it.
        model: As qemu's ``-cpu`` calls it; empty for this host's own.
        machine: The architecture, as ``uname -m`` calls it.
    """

    title: str
    model: str = ""
    machine: str = "x86_64"

    @property
    def emulator(self) -> str:
        """The program that emulates it; empty for this host's own."""
        return f"qemu-{self.machine}" if self.model else ""

    def lacking(self) -> str:
        """Missing prerequisite of this host, and the remedy; empty if there is none."""
        if not self.model:
            return ""
        if platform.machine() != "x86_64":
            return f"{self.title} is emulated on x86_64 only; this host is {platform.machine()}"
        if not shutil.which(self.emulator):
            return f"Needs {self.emulator} (apt-get install qemu-user)"
        if self.machine == "aarch64" and not (FOLDER / "packages/torch").is_dir():
            return "Needs an arm64 root (run tests/portability/arm64.sh)"
        return ""

    def command(self) -> list[str]:
        """Python on this processor, ready for arguments."""
        if not self.model:
            return [sys.executable]
        emulator = [self.emulator, "-cpu", self.model]
        if self.machine == platform.machine():
            return [*emulator, sys.executable]
        root = FOLDER / "root"
        return [*emulator, "-L", str(root), str(root / "usr/bin/python3.11")]

    def environment(self) -> dict[str, str]:
        """The same as here, with the packages of this processor's Python."""
        paths = ["handlers"]  # the archive's folder is flat: handlers import each other so
        if self.machine == "aarch64" and self.model:
            paths.append(str(FOLDER / "packages"))
        return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


PROCESSORS = {
    "host": Processor("this host"),
    "nehalem": Processor("Intel Nehalem, no AVX", "Nehalem"),
    "haswell": Processor("Intel Haswell", "Haswell"),
    "epyc": Processor("AMD EPYC", "EPYC"),
    "neoverse": Processor("ARM Neoverse N1", "neoverse-n1", "aarch64"),
}

"""Check for the oldest processor that NumPy, ONNX Runtime and PyTorch run on.

On older ones, importing them kills the process by a signal, without a message. So this module
imports only the standard library, and entry points call it first.
"""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

from diagonalflip.errors import SettingError

NEEDED = ("ssse3", "sse4_1", "sse4_2", "popcnt")
"""Instructions of x86-64-v2 that older processors lack, by Linux's names."""

CPUINFO = Path("/proc/cpuinfo")


def require(cpuinfo: Path = CPUINFO, machine: str = "") -> None:
    """Check that the processor is new enough, if that can be found out.

    Raises:
        SettingError: It is too old.
    """
    if (machine or platform.machine()) != "x86_64":
        return
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    flags = re.search(r"^flags\s*:(.*)", text, re.MULTILINE)
    missing = [flag for flag in NEEDED if flags and flag not in flags[1].split()]
    if missing:
        raise SettingError(
            f"this processor lacks {', '.join(missing)}",
            "x86-64-v2, as Intel has since 2008 and AMD since 2011",
            "use another host, or give a virtual machine the host's own processor (`-cpu host`)",
        )


def main() -> int:
    """Check this host's processor; return the exit status."""
    try:
        require()
    except SettingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

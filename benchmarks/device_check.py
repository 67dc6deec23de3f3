"""The whole proof on one device: export, engine, served answers, figures, evidence.

``make gpu-check`` runs it on a GPU host and writes ``benchmarks/results/DEVICE.json``.
With ``--device cpu`` the same steps run anywhere. It ends with 1 at the first wrong answer.
Figures are given beside two limits: the copy of answers out of the GPU, and one launch.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch

from benchmarks import machine
from benchmarks.driver import Address, drive, wrk_is_here
from benchmarks.running import PATH, TORCHSERVE_ANSWER_BYTES, our_server
from benchmarks.workloads import WORKLOADS, Predictions, Workload, load_reference
from diagonalflip.wire import TOLERANCE, Images, pack, with_padding
from supervisor.store import check

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "handlers"))
from flip_engine import open_engine

ENGINE_IMAGES = (2, 64, 1_000, 65_536, 1 << 20, 1 << 22)
SERVED_IMAGES = (1, 2, 3, 16, 1_000, 32_769, 65_537, 1 << 20)
SECONDS_A_SIZE = 1.0
RESULTS = Path(__file__).with_name("results")

Oracle = Callable[[bytes], Predictions]
"""ONNX Runtime on the CPU; a lone last image has a neighbour of zeros."""


def main() -> int:
    """Runs every step; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    parser.add_argument("--seconds", type=int, default=3, help="of load, for each workload")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            "no GPU that this torch can use; see nvidia-smi and torch.version.cuda", file=sys.stderr
        )
        return 1
    device = torch.device(arguments.device)
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "model_store"
        print("==> Exporting", flush=True)
        subprocess.run(
            [sys.executable, "-m", "export", "--output", str(store)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        oracle = load_reference(store / "diagonal_flip.onnx")
        report = {
            "device": device_name(device),
            "platform": f"{platform.machine()}, Python {platform.python_version()}",
            "torch": torch.__version__,
            "commit": machine.commit(),
            "limits": limits(device),
            "engine": check_engine(store, device, oracle),
            "served": check_server(store, device, oracle, Path(folder), arguments.seconds),
            "nvidia_smi": nvidia_smi("--query-gpu=name,driver_version,memory.used"),
        }
    arguments.results.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", str(report["device"]).lower()).strip("-")
    path = arguments.results / f"{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"==> All answers agree with ONNX Runtime. Figures are in {path}")
    return 0


def check_engine(store: Path, device: torch.device, oracle: Oracle) -> list[dict[str, Any]]:
    """Warms the engine up, compares it at every size, and times it."""
    artifacts = check(store)
    files = artifacts.files
    engine = open_engine(files["torchscript"], files["onnx"], str(device))
    deviation = engine.warm_up(np.array(artifacts.reference))
    print(f"==> Engine on {device_name(device)}: certificate deviation {deviation:.2e}")
    print("      images   median µs   M images/s")
    rows = []
    for count in ENGINE_IMAGES:
        images = random_images(count)
        compare(engine.predict([images])[0], oracle(bytes(images.packed))[:count])
        seconds = median_seconds(partial(engine.predict, [images]))
        rows.append(
            {
                "images": count,
                "median_us": seconds * 1e6,
                "images_per_s": count / seconds,
                "answer_gb_per_s": 16 * count / seconds / 1e9,
            }
        )
        print(f"  {count:>10} {seconds * 1e6:>11.1f} {count / seconds / 1e6:>12.1f}", flush=True)
    return rows


def check_server(
    store: Path, device: torch.device, oracle: Oracle, scratch: Path, seconds: int
) -> dict[str, list[dict[str, Any]]]:
    """Serves the export; compares every size over HTTP, then drives it, on both ports."""
    rows: dict[str, list[dict[str, Any]]] = {}
    print("==> Serving")
    with our_server(scratch, MODEL_STORE=str(store)) as server:
        for name, port, most_bytes in (
            ("torchserve", "TORCHSERVE_PORT", TORCHSERVE_ANSWER_BYTES),
            ("front", "PORT", sys.maxsize),
        ):
            address = Address(server.ports[port], PATH)
            sizes = [count for count in SERVED_IMAGES if 16 * count <= most_bytes]
            check_sizes(address, device, oracle, sizes)
            print(f"      {name:<12}  requests/s   M images/s   p50 µs")
            rows[name] = [
                time_workload(address, workload, oracle, seconds)
                for workload in WORKLOADS.values()
                if workload.answer_bytes <= most_bytes
            ]
        if device.type == "cuda":
            print(nvidia_smi("--query-compute-apps=pid,process_name,used_memory"))
    return rows


def check_sizes(
    address: Address, device: torch.device, oracle: Oracle, sizes: Sequence[int]
) -> None:
    """Compares answers to requests of many sizes, and sees where they were computed."""
    url = f"http://127.0.0.1:{address.port}{address.path}"
    with requests.Session() as session:
        session.trust_env = False  # proxies know nothing of loopback
        for count in sizes:
            images = random_images(count)
            answer = post(session, url, images)
            if answer.headers["Flip-Device"] != device.type:
                raise SystemExit(f"computed on {answer.headers['Flip-Device']}, not on {device}")
            compare(
                np.frombuffer(answer.content, "<f4").reshape(-1, 4),
                oracle(bytes(images.packed))[:count],
            )


def time_workload(
    address: Address, workload: Workload, oracle: Oracle, seconds: int
) -> dict[str, Any]:
    """Times one of the benchmark's workloads; before and after, every answer is compared."""
    timed, _ = drive(address, workload, oracle, seconds)
    images_per_s = timed.requests_per_s * workload.images
    print(
        f"      {workload.name:<12}{timed.requests_per_s:>12,.0f}{images_per_s / 1e6:>13.2f}"
        f"{timed.latency_us['p50']:>9.0f}",
        flush=True,
    )
    return {
        "workload": workload.name,
        "driver": "wrk" if wrk_is_here() else "asyncio",
        "requests_per_s": timed.requests_per_s,
        "images_per_s": images_per_s,
        "latency_us": timed.latency_us,
    }


def post(session: requests.Session, url: str, images: Images) -> requests.Response:
    """Sends ``images`` and returns the good answer."""
    headers = {"Content-Type": with_padding("application/octet-stream", images.count)}
    response = session.post(url, data=bytes(images.packed), headers=headers, timeout=60)
    response.raise_for_status()
    return response


def limits(device: torch.device) -> dict[str, float] | None:
    """Measure the machine's limits: GB/s of a 64 MiB copy into pinned memory, µs of one launch."""
    if device.type != "cuda":
        return None
    source = torch.empty(1 << 26, dtype=torch.uint8, device=device)
    target = torch.empty(1 << 26, dtype=torch.uint8, pin_memory=True)

    def launch(count: int) -> None:
        target[:count].copy_(source[:count], non_blocking=True)
        torch.cuda.synchronize(device)

    return {
        "copy_gb_per_s": source.numel() / median_seconds(partial(launch, 1 << 26)) / 1e9,
        "launch_us": median_seconds(partial(launch, 16)) * 1e6,
    }


def median_seconds(work: Callable[[], object]) -> float:
    """Median time of one call, over about a second and at least five calls."""
    times: list[float] = []
    while len(times) < 5 or sum(times) < SECONDS_A_SIZE:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def random_images(count: int) -> Images:
    """Reproducible random images."""
    return pack(np.random.default_rng(count).integers(0, 16, count))


def compare(got: Predictions, expected: Predictions) -> None:
    """Ends the run if an answer deviates."""
    if got.shape != expected.shape or not np.abs(got - expected).max() <= TOLERANCE:
        raise SystemExit(f"wrong answers for {len(expected)} images")


def device_name(device: torch.device) -> str:
    """The GPU's name, or how many CPU cores there are."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, one thread, {platform.machine()}"


def nvidia_smi(query: str) -> str | None:
    """Return the driver's own report, or None without a driver that answers."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", query, "--format=csv"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    return finished.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())

"""The whole proof on one device: export, engine, served answers, figures, evidence.

``make gpu-check`` runs it on a GPU host and writes ``benchmarks/results/DEVICE.json``.
With ``--device cpu`` the same steps run anywhere. It ends with 1 at the first wrong answer.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import requests
import torch

from diagonalflip.wire import TOLERANCE, Images, pack, to_pixels, unpack, with_padding
from server import artifacts, readiness
from server.settings import Settings
from server.torchserve import running

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "handlers"))
from flip_engine import open_engine

ENGINE_IMAGES = (2, 64, 1_000, 65_536, 1 << 20, 1 << 22)
SERVED_IMAGES = (1, 2, 3, 16, 1_000, 65_537, 1 << 20)
SECONDS_A_SIZE = 1.0
RESULTS = Path(__file__).with_name("results")

Oracle = Callable[[Images], npt.NDArray[np.float32]]


def main() -> int:
    """Runs every step; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
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
        oracle = load_oracle(store / "diagonal_flip.onnx")
        report = {
            "device": device_name(device),
            "platform": f"{platform.machine()}, Python {platform.python_version()}",
            "torch": torch.__version__,
            "commit": commit(),
            "engine": check_engine(store, device, oracle),
            "copy_gb_per_s": copy_bandwidth(device),
            "served": check_server(store, device, oracle, Path(folder) / "logs"),
            "nvidia_smi": nvidia_smi("--query-gpu=name,driver_version,memory.used"),
        }
    arguments.results.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", str(report["device"]).lower()).strip("-")
    path = arguments.results / f"{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"==> All answers agree with ONNX Runtime. Figures are in {path}")
    return 0


def load_oracle(onnx: Path) -> Oracle:
    """ONNX Runtime on the CPU: predictions ``float32[count, 4]`` of packed images."""
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])

    def predict(images: Images) -> npt.NDArray[np.float32]:
        pixels = to_pixels(unpack(images)).reshape(-1, 4).astype(np.float32)
        return np.asarray(session.run(["prediction"], {"pixels": pixels})[0])

    return predict


def check_engine(store: Path, device: torch.device, oracle: Oracle) -> list[dict[str, Any]]:
    """Warms the engine up, compares it at every size, and times it."""
    engine = open_engine(store / "diagonal_flip.pt", device)
    deviation = engine.warm_up(np.array(artifacts.check(store).reference))
    print(f"==> Engine on {device_name(device)}: certificate deviation {deviation:.2e}")
    print("      images   median µs   M images/s")
    rows = []
    for count in ENGINE_IMAGES:
        images = random_images(count)
        compare(engine.predict([images])[0], oracle(images))
        seconds = median_seconds(partial(engine.predict, [images]))
        rows.append({"images": count, "median_us": seconds * 1e6, "images_per_s": count / seconds})
        print(f"  {count:>10} {seconds * 1e6:>11.1f} {count / seconds / 1e6:>12.1f}", flush=True)
    return rows


def check_server(
    store: Path, device: torch.device, oracle: Oracle, logs: Path
) -> list[dict[str, Any]]:
    """Serves the archive, compares every size over HTTP, and sees where it was computed."""
    model = artifacts.check(store)
    free_ports = dict.fromkeys(map(str.upper, Settings.ports()), "0")
    settings = Settings.from_environment(
        free_ports | {"MODEL_STORE": str(store), "LOG_DIR": str(logs)}
    )
    rows = []
    print("==> Serving")
    with running(settings, model) as server, requests.Session() as session:
        readiness.wait(server, model)
        url = f"{server.settings.url}/predictions/{model.model}"
        for count in SERVED_IMAGES:
            images = random_images(count)
            post = poster(session, url, images)
            answer = post()
            if answer.headers["Flip-Device"] != device.type:
                raise SystemExit(f"computed on {answer.headers['Flip-Device']}, not on {device}")
            compare(np.frombuffer(answer.content, "<f4").reshape(-1, 4), oracle(images))
            seconds = median_seconds(post)
            rows.append({"images": count, "median_us": seconds * 1e6})
            print(f"  {count:>10} {seconds * 1e6:>11.1f}", flush=True)
        if device.type == "cuda":
            print(nvidia_smi("--query-compute-apps=pid,process_name,used_memory"))
    return rows


def poster(session: requests.Session, url: str, images: Images) -> Callable[[], requests.Response]:
    """A function that sends ``images`` once and returns the good answer."""
    headers = {"Content-Type": with_padding("application/octet-stream", images.count)}

    def post() -> requests.Response:
        response = session.post(url, data=bytes(images.packed), headers=headers, timeout=60)
        response.raise_for_status()
        return response

    return post


def copy_bandwidth(device: torch.device) -> float | None:
    """GB/s of a 64 MiB copy from the GPU into pinned memory: the limit of large answers."""
    if device.type != "cuda":
        return None
    source = torch.empty(1 << 26, dtype=torch.uint8, device=device)
    target = torch.empty(1 << 26, dtype=torch.uint8, pin_memory=True)

    def copy() -> None:
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)

    return source.numel() / median_seconds(copy) / 1e9


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


def compare(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    """Ends the run if an answer deviates."""
    if got.shape != expected.shape or not np.abs(got - expected).max() <= TOLERANCE:
        raise SystemExit(f"wrong answers for {len(expected)} images")


def device_name(device: torch.device) -> str:
    """The GPU's name, or how many CPU cores there are."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, one thread, {platform.machine()}"


def nvidia_smi(query: str) -> str | None:
    """What the driver says, or None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", query, "--format=csv"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def commit() -> str:
    """The commit that was measured."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())

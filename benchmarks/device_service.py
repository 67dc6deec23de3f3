"""The whole service on one device: its forms, its settings, its failures, its figures."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests

from benchmarks.device_engine import CUDA, Oracle, compare, output, random_images
from benchmarks.driver import PATH
from benchmarks.running import DIRECT, TORCHSERVE_ANSWER_BYTES, Ours, ours, ready
from benchmarks.workloads import WORKLOADS
from benchmarks.wrk import drive_right, wrk_is_here
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor.host import count_cores
from diagonalflip.server.supervisor.torchserve_command import find_torchserve
from diagonalflip.wire import OCTETS, with_padding
from tests.drills.load import Load, references

SIZES = (1, 2, 3, 16, 1_000, 32_769, 65_537, 1 << 20)
WORKER_COUNTS = (1, 4, 16)
ANSWER_S = 60
SPARED_BYTES = 32 << 20  # what is left of the GPU's memory when somebody else has the rest
HOG = f"""
import sys, torch
free, _ = torch.cuda.mem_get_info({CUDA!r})
taken = torch.empty(max(0, free - {SPARED_BYTES}), dtype=torch.uint8, device={CUDA!r})
print(taken.numel(), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Bench:
    """What the steps work with."""

    store: Path  # an export
    device: str  # ``cpu``, or ``cuda:0``
    oracle: Oracle  # judges the answers
    scratch: Path  # folder for all that is written
    seconds: int  # of load, for each workload

    @property
    def kind(self) -> str:
        """As the header ``Flip-Device`` has it."""
        return self.device.partition(":")[0]

    def serving(
        self, *, on_cpu: bool = False, **settings: str
    ) -> contextlib.AbstractContextManager[Ours]:
        """Give the service, all of it ready; it computes on the device unless ``on_cpu``."""
        settings = {"MODEL_STORE": str(self.store)} | settings
        if on_cpu or self.kind == "cpu":
            settings = {"CUDA_VISIBLE_DEVICES": "-1"} | settings
        return ready(self.scratch, **settings)

    def ask(self, server: Ours, port: str = "PORT", sizes: tuple[int, ...] = SIZES) -> None:
        """Compare answers to requests of many sizes, and see where they were computed.

        Raises:
            RuntimeError: One is wrong, or came from elsewhere.
        """
        for count in sizes:
            images = random_images(count)
            answer = requests.post(
                server.at(port).url + PATH,
                data=bytes(images.packed),
                headers={"Content-Type": with_padding(OCTETS, count)},
                timeout=ANSWER_S,
                proxies=DIRECT,
            )
            device = answer.headers.get("Flip-Device")
            if (answer.status_code, device) != (200, self.kind):
                raise RuntimeError(
                    f"{count} images: status {answer.status_code}, computed on {device}"
                )
            got = np.frombuffer(answer.content, "<f4").reshape(-1, 4)
            compare(got, self.oracle(bytes(images.packed))[:count])

    @contextlib.contextmanager
    def under_load(self) -> Iterator[tuple[Ours, Load]]:
        """Give a service with two workers under load.

        Raises:
            RuntimeError: An answer was wrong.
        """
        with self.serving(WORKERS="2") as server, Load(server, references(self.store)) as load:
            load.answered(20)
            yield server, load
            load.answered(20)
            self.ask(server)
        if load.tally.wrong:
            raise RuntimeError(f"wrong answers: {vars(load.tally)}")


def prove_forms(bench: Bench) -> dict[str, Any]:
    """Check every promise of the wire contract, and every size, at each port.

    Raises:
        RuntimeError: One is not kept.
    """
    found: dict[str, Any] = {}
    torchserve = find_torchserve(Settings()) is not None
    ports = {"front": "PORT"} | ({"torchserve": "TORCHSERVE_PORT"} if torchserve else {})
    with bench.serving(TORCHSERVE=str(int(torchserve))) as server:
        for name, port in ports.items():
            most = TORCHSERVE_ANSWER_BYTES if name == "torchserve" else sys.maxsize
            bench.ask(server, port, tuple(count for count in SIZES if 16 * count <= most))
            command = [sys.executable, "-m", "diagonalflip.cli", "check", "--json"]
            command.append(server.at(port).url)
            found[name] = json.loads(output(command))["passed"]
    return {"torchserve": "not installed"} | found


def prove_settings(bench: Bench) -> dict[str, str]:
    """Choose the device by each setting there is; require one where there is none.

    Raises:
        RuntimeError: It computes elsewhere, or serves where it must not.
    """
    found = {}
    if bench.kind == "cuda":
        [uuid, *_] = smi("--query-gpu=uuid").splitlines()[1:] or [""]
        for name, devices in (("by index", "0"), ("by UUID", uuid)):
            with bench.serving(REQUIRE_GPU="1", CUDA_VISIBLE_DEVICES=devices) as server:
                bench.ask(server, sizes=(1_000,))
            found[name] = devices
    hidden = {"REQUIRE_GPU": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    with ours(bench.scratch, MODEL_STORE=str(bench.store), **hidden) as server:
        status = server.process.wait(ANSWER_S)
    if status != 2:
        raise RuntimeError(f"FLIP_REQUIRE_GPU=1 without one: status {status}, not 2")
    return found | {"FLIP_REQUIRE_GPU=1 without a GPU": f"rejected, status {status}"}


def prove_restart(bench: Bench) -> dict[str, Any]:
    """Kill one of two workers of one device under load; the next one is proven like the first.

    Raises:
        RuntimeError: An answer is wrong, or the service does not recover.
    """
    with bench.under_load() as (server, load):
        victim = server.workers()[0]
        victim.kill()
        victim.wait()
        server.wait(lambda: victim not in server.workers() and server.serves())
    if "no CUDA graph" in (bench.scratch / "logs/worker.log").read_text():
        raise RuntimeError("a worker captured no CUDA graph; see its log")
    return vars(load.tally)


def prove_memory_taken(bench: Bench) -> dict[str, Any] | str:
    """Take the GPU's memory while the service works, and kill a worker: none answers wrongly.

    Raises:
        RuntimeError: An answer is wrong, or they do not come again when the memory is free.
    """
    if bench.kind == "cpu":
        return "no GPU"
    command, pipe = [sys.executable, "-c", HOG], subprocess.PIPE
    with bench.under_load() as (server, load):
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as hog:
            taken = int(next(iter(hog.stdout or ())))
            load.answered(10)
            server.workers()[0].kill()
            server.wait(lambda: server.state().get("workers_ready") == 1)
            load.answered(10)
            hog.communicate()  # the end of its input
        server.wait(server.serves)
    return {"taken_mib": taken >> 20, "outcomes": vars(load.tally)}


def measure(bench: Bench, served: dict[str, Any]) -> dict[str, Any]:
    """Add the rates of every workload: of TorchServe, then of more and more workers.

    Each number of workers is measured on the device and on this host's CPU.
    """
    if find_torchserve(Settings()):
        with bench.serving(TORCHSERVE="1") as server:
            served["TorchServe"] = _rates(bench, server, "TORCHSERVE_PORT", TORCHSERVE_ANSWER_BYTES)
    for count in (each for each in WORKER_COUNTS if each <= max(2, count_cores())):
        for kind in dict.fromkeys((bench.kind, "cpu")):
            with bench.serving(on_cpu=kind == "cpu", WORKERS=str(count)) as server:
                served[f"{kind}, {count} workers"] = _rates(bench, server)
    return served


def goals(served: dict[str, Any]) -> dict[str, bool]:
    """Return whether W4 is at least the CPU's at equal workers, by what it says."""
    rates = {name: found["W4"]["m_images_per_s"] for name, found in served.items() if "W4" in found}
    found = {}
    for name, rate in rates.items():
        device, _, workers = name.partition(", ")
        if device == "cuda":
            share = rate / rates[f"cpu, {workers}"]
            found[f"W4 of {workers}, at least the CPU's ({share:.2f})"] = share >= 1
    return found


def _rates(
    bench: Bench, server: Ours, port: str = "PORT", most_bytes: int = sys.maxsize
) -> dict[str, Any]:
    address = server.at(port)
    rows: dict[str, Any] = {"driver": "wrk" if wrk_is_here() else "asyncio"}
    for workload in WORKLOADS.values():
        if workload.answer_bytes <= most_bytes:
            timed, _ = drive_right(address, workload, bench.oracle, bench.seconds)
            rows[workload.name] = {
                "requests_per_s": timed.requests_per_s,
                "m_images_per_s": timed.requests_per_s * workload.images / 1e6,
                "p50_us": timed.latency_us["p50"],
            }
    rows["pss_mib"] = server.pss_mib()
    if bench.kind == "cuda":
        rows["gpu"] = smi("--query-compute-apps=pid,used_memory")
    return rows


def smi(query: str) -> str:
    """Return what nvidia-smi says, a header first; nothing without it."""
    command = ["nvidia-smi", query, "--format=csv"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return finished.stdout.strip()
